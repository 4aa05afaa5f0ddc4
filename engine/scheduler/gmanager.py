"""GManager: the cluster's planner. Sees everything late and decides nothing finally.

Keeps what pools and steps last said, answers who could lend, and lets the placement look ahead: its
advice goes to steps and pools, which need not follow. Its state is soft: it is rebuilt
from heartbeats. (PAPER section 2.1: the gManager and its Global Debt Ledger.) No I/O.
"""

from dataclasses import dataclass
from typing import Any

from engine.protocol import (
    BorrowOffer,
    BorrowQuery,
    Creditor,
    Evacuate,
    Freeze,
    Heartbeat,
    Load,
    Member,
    MembersQuery,
    Message,
    Move,
    Register,
    Resend,
    Settle,
    View,
    ViewQuery,
)
from engine.scheduler.base import Advice, ClusterView, InstanceView, Placement, StepCost
from engine.scheduler.directory import Directory
from engine.scheduler.ranking import Ranking
from engine.scheduler.reports import follow, is_old
from engine.scheduler.shortages import Shortages

MAX_LEARNED = 2048
"""timed steps of a round that the performance model learns from: large clusters have enough"""
RESENDS_PER_S = 2000
"""whole reports that a new planner asks for: not all of a large cluster's at once"""


@dataclass(slots=True)
class _Seen:
    heartbeat: Heartbeat
    at: float


@dataclass(slots=True)
class _Told:
    load: Load
    at: float
    is_fresh: bool = True
    """the step has not been advised since"""


class GManager:
    """``handle(message, now)`` returns the answer, if there is one."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        max_offers: int = 64
        """creditors named in one offer"""
        stale_s: float = 3.0
        """an instance not heard of for so long is not offered"""
        plan_s: float = 0.5
        """between two rounds of planning; 0: never plan ahead"""

    def __init__(
        self,
        config: Config,
        *,
        placement: Placement | None = None,
        cost: StepCost | None = None,
        block_tokens: int = 64,
    ) -> None:
        """Without a placement it only answers queries."""
        self._config = config
        self._placement = placement
        self._cost = cost
        self._block_tokens = block_tokens
        self._loads: dict[int, _Told] = {}
        self._draining: dict[int, int] = {}
        """instance -> the epoch in which it was told to leave"""
        self._advised: dict[tuple[int, int], int] = {}
        self._round = 0
        self._num_learned = 0
        """timed steps since the last round"""
        self._next_round = 0.0
        self._next_resend = float("-inf")
        self._pools: dict[int, _Seen] = {}
        self._steps: dict[int, Register] = {}
        self._ranking = Ranking(config.stale_s)
        self._leaving: set[int] = set()
        """whose step says that it leaves"""
        self._shortages = Shortages()
        self._directory = Directory()
        self._members: list[Member] = []
        """as the directory has them"""
        self._changed: set[int] = set()
        """those of whom something was heard since"""

    def handle(self, message: Message, now: float) -> Message | None:
        match message:
            case Heartbeat():
                return self._on_heartbeat(message, now)
            case Register():
                step = self._steps.get(message.instance)
                if step is None or message.epoch >= step.epoch:
                    self._steps[message.instance] = message
                    self._changed.add(message.instance)
            case Load():
                return self._on_load(message, now)
            case Evacuate():
                seen = self._pools.get(message.instance)
                self._draining[message.instance] = seen.heartbeat.epoch if seen else 0
                self._changed.add(message.instance)
            case BorrowQuery():
                return self._offer(message, now)
            case MembersQuery():
                self._look_at_members(now)
                return self._directory.answer(self._members, message.since, now)
            case ViewQuery():
                return View(self._alive(now), list(self._fresh_loads(now).values()))
        return None

    def tick(self, now: float) -> list[Advice]:
        """A round of planning when it is time for one (PAPER 2.3: on one full round of updates)."""
        if self._placement is None or self._cost is None or not self._config.plan_s:
            return []
        if now < self._next_round:
            return []
        self._next_round = now + self._config.plan_s
        self._num_learned = 0
        self._round += 1
        advice = self._placement.advise(self._view(now), self._cost)
        return [*self._relief(now), *(one for one in advice if self._passes(one))]

    @property
    def state(self) -> list[Any]:
        """What it knows; to be compared with another's."""
        known = [self._pools, self._loads, self._steps, self._draining, list(self._advised.items())]
        known += [self._shortages.state, self._directory.number]
        # rounded: another processor may add up in another order
        cost = f"{self._cost.seconds(4, 4096, 4096, 2):.3g}" if self._cost else ""
        return [known, self._round, self._next_round, cost]

    def _passes(self, advice: Advice) -> bool:
        """A step is advised once on each of its reports."""
        if isinstance(advice.message, Freeze | BorrowOffer):
            return True
        told = self._loads.get(advice.instance)
        if told is None or not told.is_fresh:
            return False
        told.is_fresh = False
        match advice.message:
            case Move():
                self._advised[advice.instance, advice.message.to.instance] = self._round
            case Settle():
                self._advised[advice.instance, advice.message.creditor] = self._round
        return True

    def _on_heartbeat(self, said: Heartbeat, now: float) -> Resend | None:
        seen = self._pools.get(said.instance)
        known = seen.heartbeat if seen else None
        if is_old(known, said):
            return None
        beat = follow(known, said)
        if beat is None:
            return self._ask_whole(now)
        self._pools[said.instance] = _Seen(beat, now)
        self._ranking.heard(beat, now)
        self._changed.add(said.instance)
        return None

    def _on_load(self, said: Load, now: float) -> Resend | None:
        told = self._loads.get(said.instance)
        known = told.load if told else None
        if is_old(known, said):
            return None
        load = follow(known, said)
        if load is None:
            return self._ask_whole(now)
        self._loads[said.instance] = _Told(load, now)
        if bool(load.num_draining) != (said.instance in self._leaving):
            self._leaving ^= {said.instance}
            self._changed.add(said.instance)
        if self._cost is not None and self._num_learned < MAX_LEARNED:
            self._num_learned += len(load.samples)
            self._cost.learn(load.samples)
        return None

    def _ask_whole(self, now: float) -> Resend | None:
        """Whoever is not asked now is asked on its next report."""
        asked_at = max(self._next_resend, now - 1.0)  # as many at once as in a second
        if asked_at > now:
            return None
        self._next_resend = asked_at + 1.0 / RESENDS_PER_S
        return Resend()

    def _is_draining(self, beat: Heartbeat) -> bool:
        if beat.instance in self._leaving:
            return True
        return self._draining.get(beat.instance, -1) >= beat.epoch

    def _view(self, now: float) -> ClusterView:
        loads = self._fresh_loads(now)
        return ClusterView(
            instances={
                beat.instance: InstanceView(
                    creditor=_creditor(beat, beat.num_lendable),
                    num_blocks=beat.num_blocks,
                    num_free=beat.num_free,
                    owed=beat.lent,
                    load=loads.get(beat.instance),
                    is_draining=self._is_draining(beat),
                )
                for beat in self._alive(now)
            },
            block_tokens=self._block_tokens,
            round=self._round,
            advised=dict(self._advised),
        )

    def _fresh_loads(self, now: float) -> dict[int, Load]:
        limit = now - self._config.stale_s
        return {i: told.load for i, told in self._loads.items() if told.at >= limit}

    def _alive(self, now: float) -> list[Heartbeat]:
        limit = now - self._config.stale_s
        seen = [seen.heartbeat for seen in self._pools.values() if seen.at >= limit]
        return sorted(seen, key=lambda beat: beat.instance)

    def _offer(self, query: BorrowQuery, now: float) -> BorrowOffer:
        ranking = self._ranking
        self._changed.update(ranking.until(now))

        def may_lend(beat: Heartbeat) -> bool:
            return beat.instance != query.instance and not self._is_draining(beat)

        best = ranking.best(query.host, self._config.max_offers, may_lend)
        excepted = {query.instance, *self._leaving, *self._draining}
        beats = [beat for beat in map(ranking.get, excepted) if beat is not None]
        left, is_held = self._shortages.left_for(query, best, now)
        return BorrowOffer(
            query.query,
            [_creditor(beat, left.get(beat.instance, 0)) for beat in best],
            ranking.num_lend_cap - sum(b.num_lend_cap for b in beats if not may_lend(b)),
            is_held,
        )

    def _relief(self, now: float) -> list[Advice]:
        """To those who were short and might find enough now."""
        if not self._shortages.has_any:
            return []
        beats = self._alive(now)
        lendable = {
            beat.instance: beat.num_lendable for beat in beats if not self._is_draining(beat)
        }
        free = {beat.instance: beat.num_free for beat in beats}
        return [
            Advice(instance, BorrowOffer(0, [], 0))
            for instance in self._shortages.relieved(lendable, free, now)
        ]

    def _look_at_members(self, now: float) -> None:
        """Only at those of whom something was heard: every step asks for all of them."""
        self._changed.update(self._ranking.until(now))
        if not self._changed:
            return
        there = {one.instance: one for one in self._members if one.instance not in self._changed}
        for instance in self._changed:
            beat = self._ranking.get(instance)
            if beat is not None:
                there[instance] = self._member(beat)
        self._members = [there[instance] for instance in sorted(there)]
        self._changed.clear()

    def _member(self, beat: Heartbeat) -> Member:
        step = self._steps.get(beat.instance)
        return Member(
            beat.instance,
            beat.epoch,
            step.address if step is not None and step.epoch == beat.epoch else "",
            beat.num_blocks,
            beat.num_free,
            beat.num_lent,
            beat.num_lendable,
            beat.num_cached,
            beat.address,
            self._is_draining(beat),
            beat.sketch or b"",
            beat.lends,
        )


def _creditor(beat: Heartbeat, num_lendable: int) -> Creditor:
    return Creditor(
        beat.instance, beat.epoch, beat.address, beat.host, num_lendable, beat.num_cached
    )
