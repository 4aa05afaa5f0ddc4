"""Front: the gateway with the real request table, and the real planner, as they hear and say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine import protocol as p
from engine.core import Request, SamplingParams
from engine.errors import ConfigError
from engine.scheduler.base import Placement
from engine.scheduler.effects import Finish
from engine.scheduler.entry import Entry
from engine.scheduler.kept import Kept
from engine.scheduler.performance import Performance
from engine.scheduler.planner import Planner
from engine.scheduler.request_table import RequestTable
from engine.sim.serving.pool import CLUSTER
from engine.sim.serving.workload import Arrival

if TYPE_CHECKING:
    from engine.sim.serving.cluster import Cluster
    from engine.sim.serving.instance import Instance

MEMBERS_S = 1.0
"""between two looks of the gateway at the members"""
GATEWAY = b"gateway"


class Front:
    def __init__(self, cluster: Cluster, placement: Placement, layout: str) -> None:
        config = cluster.config
        self._cluster = cluster
        self._clock = cluster.clock
        self._control_s = cluster.control_s
        self._members: list[p.Member] = []
        self._tables: dict[int | None, RequestTable] = {None: self._table()}
        """the gateway's, and that of each instance which is asked by itself"""
        self._asked: dict[str, tuple[RequestTable, Entry]] = {}
        self.planner = Planner(
            config.planner,
            placement=placement,
            cost=Performance(),
            block_tokens=config.block_tokens,
            cluster=CLUSTER,
            layout=layout,
            num_first=config.instances,
            now=0.0,
        )
        self.ended: list[Entry] = []
        self.longest = 0
        """tokens of the longest request that was answered, prompt and answer"""
        self.recomputed_tokens = 0
        self.num_advised = 0
        self._num_come = 0
        self._num_requests = 0
        self._to_come: Iterator[Arrival] = iter(())

    def start(self, arrivals: Sequence[Arrival]) -> None:
        """Each at its time; where there are clients, each when one of them has its last answer.
        When all have ended the clock stops.

        Raises ConfigError where a request is for an instance that is not there.
        """
        last = self._cluster.config.instances - 1
        for arrival in arrivals:
            if arrival.instance is not None and not 0 <= arrival.instance <= last:
                raise ConfigError(f"workload: instance {arrival.instance} is none of 0 to {last}")
        clients = self._cluster.config.workload.clients
        self._to_come, self._num_requests = iter(arrivals), len(arrivals)
        for _ in range(clients or 1):
            self._next_comes()
        self._clock.every(MEMBERS_S, 0.0, lambda: self._say(GATEWAY, p.MembersQuery()))
        if self._cluster.config.planner.plan_s:
            plan_s = self._cluster.config.planner.plan_s
            self._clock.every(plan_s, plan_s, self._plan)

    # --- requests -----------------------------------------------------------------------------

    def _next_comes(self) -> None:
        arrival = next(self._to_come, None)
        if arrival is not None:
            has_clients = self._cluster.config.workload.clients
            at = self._clock.now if has_clients else arrival.at
            self._clock.at(at, lambda: self._arrive(arrival))

    def _arrive(self, arrival: Arrival) -> None:
        """Prompts differ in their first token, so that none is another's prefix."""
        number, self._num_come = self._num_come, self._num_come + 1
        prompt = (number, *(1,) * (arrival.prompt_tokens - 1))
        sampling = SamplingParams(max_tokens=arrival.output_tokens, ignore_eos=True)
        request = Request(request_id=str(number), prompt_ids=prompt, sampling=sampling)
        to = arrival.instance
        if to not in self._tables:
            self._tables[to] = self._table(stays=True)
            self._tables[to].on_members(self._known_to(to), self._clock.now)
        entry = self._tables[to].add(request, self._clock.now)
        self._asked[request.request_id] = self._tables[to], entry
        self._push()
        if not self._cluster.config.workload.clients:
            self._next_comes()

    def _table(self, *, stays: bool = False) -> RequestTable:
        block_tokens = self._cluster.config.block_tokens
        return RequestTable(block_tokens=block_tokens, kept=Kept(max_entries=0), stays=stays)

    def _known_to(self, instance: int | None) -> list[p.Member]:
        """Members that this one's table may send requests to."""
        return [one for one in self._members if instance in (None, one.instance)]

    def hear(self, message: p.Message) -> None:
        """A step speaks to a client."""
        if isinstance(message, p.Progress):
            return
        asked = self._asked.get(getattr(message, "request_id", "").rpartition("#")[0])
        if asked is None:  # it is over, and its report comes
            return
        table, entry = asked
        table.on_message(message, self._clock.now)
        if isinstance(message, p.HandedOver):
            self._push()
        if entry.done:  # keep what is measured, but not the prompt, and let the table forget it
            self.longest = max(self.longest, 0 if entry.error else entry.num_tokens)
            entry.request = replace(entry.request, prompt_ids=())
            self.ended.append(entry)
            del self._asked[entry.request.request_id]
            table.changed.clear()
            table.forget(self._clock.now)
            if self._cluster.config.workload.clients:
                self._next_comes()
            if len(self.ended) == self._num_requests:
                self._clock.stop()

    def finished(self, effect: Finish) -> None:
        self.recomputed_tokens += effect.recomputed_tokens

    def _push(self) -> None:
        for effect in [one for table in self._tables.values() for one in table.take_effects()]:
            if isinstance(effect.message, p.Submit):
                instance = self._cluster.instances[int(effect.address)]
                request = effect.message.request
                self._clock.after(
                    self._control_s,
                    lambda to=instance, what=request: to.submit(what),  # type: ignore[misc]
                )

    # --- the planner --------------------------------------------------------------------------

    def ask(self, instance: Instance, message: p.Message) -> None:
        """A step says something to the planner."""
        self._say(b"step%d" % instance.number, message)

    def beat(self, number: int, message: p.Message) -> None:
        """A pool does."""
        self._say(b"pool%d" % number, message)

    def _say(self, peer: bytes, message: p.Message) -> None:
        self._clock.after(self._control_s, lambda: self._heard(peer, message))

    def _heard(self, peer: bytes, message: p.Message) -> None:
        for to, answer in self.planner.handle(peer, message, self._clock.now):
            self._tell(to, answer)

    def _plan(self) -> None:
        for to, advice in self.planner.tick(self._clock.now):
            self.num_advised += 1
            self._tell(to, advice)

    def _tell(self, to: bytes, message: p.Message) -> None:
        self._clock.after(self._control_s, lambda: self._told(to, message))

    def _told(self, to: bytes, message: p.Message) -> None:
        if to == GATEWAY:
            assert isinstance(message, p.Members)
            self._members = message.members
            for number, table in self._tables.items():
                table.on_members(self._known_to(number), self._clock.now)
            self._push()
            return
        instance = self._cluster.instances[int(to[4:])]
        if isinstance(message, p.Resend):
            raise RuntimeError(f"{to.decode()}: nothing is lost here")
        now = self._clock.now
        if isinstance(message, p.Freeze):
            instance.pool.rmanager.freeze(message.num_blocks, message.for_s, now)
        elif isinstance(message, p.BorrowOffer):
            offer = message
            instance.between_steps(lambda: instance.scheduler.on_offer(offer, self._clock.now))
        else:
            instance.between_steps(lambda: instance.scheduler.on_advice(message, self._clock.now))
