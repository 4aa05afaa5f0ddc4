"""Engine: instances in this process, over the loopback transport, in one thread.

The same machines and plugins as in the processes: what ``lendkv generate`` compares its answer
with, and the quickest way to try a part of your own. Knows token ids, not text.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from operator import index

import msgspec

from engine.attention.answer import PoolServer
from engine.attention.local import LocalBackend
from engine.build import (
    build_gmanager,
    build_loop,
    build_pool,
    build_pool_server,
    build_transport,
    layout_of,
)
from engine.build_attention import load_model
from engine.callbacks import Callback
from engine.comm.loopback import LoopbackNetwork
from engine.config import Component, Config
from engine.core import Request, SamplingParams
from engine.errors import ConfigError, LendKVError
from engine.loop import Loop
from engine.memory.base import MemoryPool
from engine.memory.rmanager import RManager
from engine.model.checkpoint import Checkpoint
from engine.model.transformers_checkpoint import TransformersCheckpoint
from engine.protocol import BorrowOffer, Failed, Freeze, Message, Progress, Report, Tokens
from engine.scheduler.base import Placement

HOST = "this process"
PLAN_S = 0.25
"""between two reports to the planner"""


@dataclass(slots=True)
class Completion:
    """What became of a request."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    """empty unless an LLM decoded it"""
    finish_reason: str = ""
    report: Report | None = None
    error: str = ""

    @property
    def done(self) -> bool:
        return self.report is not None or bool(self.error)


class Engine:
    """``instances`` that lend each other memory. Parts may be given by name, class or object.

    ``attention`` is a backend for local memory, ``pool`` a MemoryPool, both one an instance and so
    given as classes; a ``placement`` has no state and may be an object.
    """

    def __init__(
        self,
        config: Config,
        *,
        attention: str | type[LocalBackend] | None = None,
        pool: str | type[MemoryPool] | None = None,
        placement: str | type[Placement] | Placement | None = None,
        checkpoint: Checkpoint | TransformersCheckpoint | None = None,
        callbacks: Sequence[Callback] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if config.pool.memory:
            raise ConfigError("pool.memory is for instances in processes; set pool.num_blocks here")
        if config.tp > 1:
            raise ConfigError(f"tp={config.tp} is for instances in processes; set tp=1 here")
        if config.transport.name != "loopback":
            config = replace(config, transport=Component(name="loopback"))
        if isinstance(attention, str):
            config = replace(config, attention=Component(name=attention))
        if isinstance(pool, str):
            config = replace(config, pool=replace(config.pool, name=pool, options={}))
        if isinstance(placement, str):
            config = replace(config, placement=Component(name=placement))
        self.checkpoint = checkpoint or load_model(config)
        self._clock = clock
        self._planner = build_gmanager(config)
        self._next_plan = 0.0
        self.network = LoopbackNetwork()
        self.on_message: Callable[[str, Message], None] | None = None
        self._completions: dict[str, Completion] = {}
        self._offers: deque[tuple[int, BorrowOffer]] = deque()
        shape = self.checkpoint.config.shape
        layout = layout_of(config, shape)
        self.pools: list[MemoryPool] = []
        self.servers: list[PoolServer] = []
        self.rmanagers: list[RManager] = []
        self.loops: list[Loop] = []
        self.addresses: list[str] = []
        self._dead: set[int] = set()
        self._names = count()
        self._closed = False
        for instance in range(config.instances):
            memory = build_pool(config, layout, None if isinstance(pool, str) else pool)
            transport = build_transport(config, memory, network=self.network)
            self.addresses.append(transport.listen())
            server, rmanager = build_pool_server(
                config,
                instance=instance,
                epoch=1,
                cluster="local",
                shape=shape,
                pool=memory,
                transport=transport,
                attention=None if isinstance(attention, str) else attention,
                clock=clock,
            )
            self.network.services.append(server.serve_once)
            self.pools.append(memory)
            self.servers.append(server)
            self.rmanagers.append(rmanager)
        for instance, memory in enumerate(self.pools):
            loop = build_loop(
                config,
                instance=instance,
                pool_epoch=1,
                step_epoch=1,
                cluster="local",
                host=HOST,
                checkpoint=self.checkpoint,
                pool=memory,
                pool_address=self.addresses[instance],
                transport=build_transport(config, network=self.network),
                to_planner=partial(self._to_planner, instance),
                to_client=self._to_client,
                attention=None if isinstance(attention, str) else attention,
                placement=None if isinstance(placement, str) else placement,
                callbacks=callbacks,
                clock=clock,
            )
            self.loops.append(loop)

    def submit(self, request: Request, instance: int = 0) -> Completion:
        """Queue a request at an instance; ``run`` fills in the completion.

        Raises LendKVError for what a step would not take from a frontend either.
        """
        if self._closed:
            raise LendKVError("this engine was closed: make another one")
        if not 0 <= instance < len(self.loops):
            here = f"there are {len(self.loops)}, counted from 0"
            raise ConfigError(f"there is no instance {instance!r}: {here}")
        try:
            request = msgspec.convert(msgspec.to_builtins(request), Request)
        except (msgspec.ValidationError, TypeError, OverflowError) as error:
            raise LendKVError(f"request {request.request_id}: {error}") from error
        self._completions[request.request_id] = completion = Completion()
        self.loops[instance].submit(request)
        return completion

    def run(self) -> Iterator[None]:
        """Step all instances until every request is done; yields after each round."""
        while any(not completion.done for completion in self._completions.values()):
            alive = [n for n in range(len(self.loops)) if n not in self._dead]
            moved = [self._step(instance) for instance in alive]
            if not any(moved):
                time.sleep(0.0005)  # somebody pauses before it tries again
            yield
        self._completions.clear()

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams | None = None,
        *,
        instances: Sequence[int] = (0,),
    ) -> list[Completion]:
        """Complete token-id prompts, dealt to ``instances`` in turn; LendKVError if one fails."""
        sampling = sampling or SamplingParams()
        if type(sampling) is not SamplingParams:
            raise ConfigError(f"sampling is a SamplingParams, not {sampling!r}")
        if not instances:
            raise ConfigError("instances is empty: name those that shall work, such as [0]")
        completions = []
        try:
            for number, prompt in enumerate(prompts):
                try:
                    ids = tuple(map(index, prompt))
                except TypeError as error:
                    raise ConfigError(f"prompt {number} is no token ids: {error}") from error
                name = str(next(self._names))
                request = Request(request_id=name, prompt_ids=ids, sampling=sampling)
                completions.append(self.submit(request, instances[number % len(instances)]))
            for _ in self.run():
                pass
        except BaseException:  # a prompt that is none, or Ctrl-C: the next call begins anew
            self._abort()
            raise
        for completion in completions:
            if completion.error:
                raise LendKVError(completion.error)
        return completions

    def kill(self, instance: int) -> None:
        """The instance dies: its channels are lost and it never steps again."""
        self._dead.add(instance)
        self.network.cut(self.addresses[instance])

    def check(self) -> None:
        """The books of every pool and every step match."""
        for rmanager, loop in zip(self.rmanagers, self.loops, strict=True):
            rmanager.check()
            loop.scheduler.holdings.store.check()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for loop in self.loops:
            loop.close()
        for server in self.servers:
            server.close()
        for pool in self.pools:
            pool.close()

    def _abort(self) -> None:
        """Nobody waits any more for what is under way."""
        for request_id in self._completions:
            for loop in self.loops:
                loop.abort(request_id)
        self._completions.clear()

    def _step(self, instance: int) -> bool:
        while self._offers:
            to, offer = self._offers.popleft()
            self.loops[to].scheduler.on_offer(offer, self._clock())
        if self._clock() >= self._next_plan:
            self._plan(self._clock())
        loop, pumped = self.loops[instance], self.network.pump()
        while loop.hear() and self.network.pump():
            pass  # in one process answers come at once: who waits need not wait for a step
        return loop.step() or pumped or bool(self._offers)

    def _plan(self, now: float) -> None:
        """The planner hears of everybody, and may advise."""
        self._next_plan = now + PLAN_S
        self._heartbeats(now)
        for instance, loop in enumerate(self.loops):
            if instance not in self._dead:
                self._planner.handle(loop.scheduler.load(now), now)
        for advice in self._planner.tick(now):
            if isinstance(advice.message, Freeze):
                frozen = advice.message
                self.rmanagers[advice.instance].freeze(frozen.num_blocks, frozen.for_s, now)
            elif isinstance(advice.message, BorrowOffer):
                self._offers.append((advice.instance, advice.message))
            else:
                self.loops[advice.instance].scheduler.on_advice(advice.message, now)

    def _to_planner(self, instance: int, message: Message) -> None:
        now = self._clock()
        self._heartbeats(now)
        answer = self._planner.handle(message, now)
        if isinstance(answer, BorrowOffer):
            self._offers.append((instance, answer))

    def _heartbeats(self, now: float) -> None:
        for address, rmanager in zip(self.addresses, self.rmanagers, strict=True):
            if address in self.network.listeners and address not in self.network.frozen:
                self._planner.handle(rmanager.heartbeat(address=address, host=HOST, now=now), now)

    def _to_client(self, request_id: str, message: Message) -> None:
        if self.on_message:
            self.on_message(request_id, message)
        completion = self._completions.get(request_id)
        if completion is None:
            return
        match message:
            case Tokens():
                completion.token_ids += message.token_ids
                completion.finish_reason = message.finish_reason
            case Failed():
                completion.error = message.reason
            case Report():
                completion.report = message
            case Progress():
                pass
