"""Loop: one instance's step loop, from messages to tokens. All choices were made in build.py.

It carries out what the scheduler wants (its effects) and reports back; it decides nothing.
"""

import time
from collections.abc import Callable, Collection, Sequence

from engine.accounts import Accounts
from engine.attention.dist import DistAttention
from engine.attention.lenders import Lenders
from engine.callbacks import Callback
from engine.choice import Chooser
from engine.constrained import Constrained
from engine.core import Request
from engine.errors import PeerLost, WontFit
from engine.fetcher import Fetcher
from engine.model.runner import Runner
from engine.mover import Mover
from engine.profile import profile
from engine.protocol import (
    Ack,
    Draw,
    Drawn,
    Failed,
    FencedOff,
    Granted,
    HandedOver,
    Message,
    Report,
    StepSample,
)
from engine.protocol.ranks import Dial, Drop, ForgetSequence, ForgetTables
from engine.ranks import Ranks
from engine.scheduler.effects import (
    Cancel,
    Connect,
    Effect,
    Fetch,
    Finish,
    Move,
    ToClient,
    ToPlanner,
    ToPool,
)
from engine.scheduler.scheduler import Scheduler

CONNECT_S = 2.0
ANSWER_SHARE, ANSWER_S = 0.2, 0.05
"""of a step's time, and at most: how long the next step may wait for an answer that is due"""
MAX_MISSED_STEPS = 1
"""a holder that misses its deadline in so many steps in a row is given up: one wait, then what it
held is computed again"""


class Loop:
    """``step`` until it returns False: then there is nothing to run until a message comes."""

    def __init__(
        self,
        *,
        instance: int,
        scheduler: Scheduler,
        runner: Runner,
        backend: DistAttention,
        lenders: Lenders,
        mover: Mover,
        constrained: Constrained,
        eos_ids: Collection[int],
        to_planner: Callable[[Message], None],
        to_client: Callable[[str, Message], None],
        ranks: Ranks,
        callbacks: Sequence[Callback] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._instance = instance
        self.scheduler = scheduler
        self._runner = runner
        self._backend = backend
        self.lenders = lenders
        self._mover = mover
        self._ranks = ranks
        self.constrained = constrained
        self._chooser = Chooser(scheduler, constrained, eos_ids)
        self._fetcher = Fetcher(backend.reads)
        self.accounts = Accounts(scheduler, backend.travels, mover)
        self._to_planner = to_planner
        self._to_client = to_client
        self._callbacks = tuple(callbacks)
        self._clock = clock
        self._step_s = 0.0
        """how long the last step took"""
        if backend.num_staging_blocks:
            lenders.send(instance, Draw(backend.num_staging_blocks, staging=True))

    def profile(self) -> list[StepSample]:
        """Timed steps of no request; to be called before the first one comes."""
        local = self._backend.local
        samples = profile(
            self._runner,
            self.lenders,
            instance=self._instance,
            layout=local.layout,
            max_positions=local.shape.max_positions,
        )
        self._backend.travels.of.clear()
        return samples

    def now(self) -> float:
        """The clock that leases are counted with."""
        return self._clock()

    def submit(self, request: Request) -> None:
        vocab_size = self._backend.local.shape.vocab_size
        if (largest := request.largest_token) >= vocab_size:
            reason = f"token id {largest} is not below {vocab_size}, the model's number of tokens"
            self._to_client(request.request_id, Failed(request.request_id, reason))
        elif request.sampling.grammar:
            self.constrained.prepare(request)
        else:
            self.scheduler.add(request)

    def abort(self, request_id: str) -> None:
        self.constrained.forget(request_id)
        self.scheduler.abort(request_id)

    def step(self) -> bool:
        """Receive, schedule, run, sample, publish; False when nothing could run."""
        self.receive()
        plan = self.scheduler.schedule(self._clock())
        self._perform()
        if plan is None:
            return False
        began = time.perf_counter()
        for callback in self._callbacks:
            callback.on_step_start(plan)
        try:
            logits_NV, poisoned = self._runner.run(plan)
        except WontFit as error:
            self.scheduler.refuse(error.sequence, str(error), "too_large")
            self._perform()
            return True
        chosen = self._chooser.choose(plan, logits_NV, poisoned)
        self.scheduler.commit(plan, *chosen, poisoned, self._clock())
        self._step_s = elapsed = time.perf_counter() - began
        if not poisoned:
            self.scheduler.timed(plan, [elapsed], self._clock(), self._trip_s)
        self._perform()
        for callback in self._callbacks:
            callback.on_step_end(plan, elapsed, poisoned)
        return True

    def receive(self) -> None:
        """Take what came from pools, and notice who is lost. Raises PeerLost for the own pool."""
        self.lenders.pump(0.0)
        self._take_heard()
        while self.lenders.inbox:
            self._take(*self.lenders.inbox.popleft())
        for instance, missed in list(self._backend.missed.items()):
            if missed >= MAX_MISSED_STEPS:
                self.lenders.drop(instance, f"it missed its deadline in {missed} steps in a row")
        while self.lenders.lost:
            self._lose(*self.lenders.lost.popitem())
        for fetch in self._fetcher.arrived():
            self.scheduler.on_fetched(fetch.sequence, fetch.leaf, self._clock())
        for request, problem in self.constrained.prepared():
            if problem:
                self._tell(request.request_id, Failed(request.request_id, problem, "grammar"))
            else:
                self.scheduler.add(request)
        self._mover.push()
        self._perform()

    def await_answers(self, listen: Callable[[], None], also: Sequence[int] = ()) -> None:
        """A deal takes several answers, each in a moment; a step between any two takes much longer.

        ``listen`` takes what has come on the file descriptors ``also``.
        """
        until = time.monotonic() + min(ANSWER_SHARE * self._step_s, ANSWER_S)
        while self.hear() and (left_s := until - time.monotonic()) > 0:
            self.wait(left_s, also)
            listen()

    def hear(self) -> bool:
        """Take what came, and ask for what is wanted next; whether an answer is awaited."""
        self.receive()
        self.scheduler.tick(self._clock())
        self._perform()
        return self.scheduler.awaits_answer

    @property
    def _trip_s(self) -> float:
        """What a step takes longer when it asks others; memory that is mapped is read like own."""
        layers = self._backend.local.shape.num_layers
        return 0.0 if self.lenders.are_mapped else layers * self._backend.ways.trip_s

    def wait(self, timeout_s: float, also: Sequence[int] = ()) -> None:
        """Sleep until a pool or a file descriptor has something to say."""
        busy = self._mover.busy or self._fetcher.busy
        self.lenders.wait(0.001 if busy else timeout_s, (*also, self.constrained.fileno()))

    def close(self) -> None:
        self.constrained.close()
        self.lenders.close()
        self._ranks.close()

    def _take_heard(self) -> None:
        """What other ranks have learned of holders counts as if it had been learned here."""
        while self._ranks.heard:
            heard = self._ranks.heard.popleft()
            for instance, reason in heard.lost.items():
                self.lenders.drop(instance, reason)
            self._backend.missed.update(heard.missed)
            self.lenders.inbox.extend(heard.declined)

    def _take(self, instance: int, message: Message) -> None:
        if isinstance(message, Ack):
            move = self._mover.on_ack(instance, message)
            if move is not None:
                self.scheduler.on_moved(move.sequence, move.leaf)
            return
        if isinstance(message, Drawn) and message.staging:
            self._backend.staging.add(message.blocks)
            return
        if isinstance(message, FencedOff):
            self._backend.forget_tables(instance)  # attach anew what still stands
            self._ranks.tell(ForgetTables(instance))
        if isinstance(message, Granted):
            for callback in self._callbacks:
                callback.on_borrow(instance, len(message.blocks))
        self.scheduler.on_message(instance, message, self._clock())

    def _lose(self, instance: int, reason: str) -> None:
        if instance == self._instance:
            raise PeerLost(f"the own pool is gone: {reason}")
        self._ranks.tell(Drop(instance))
        self._backend.forget_tables(instance)
        self._backend.staging.forget(instance)
        self._mover.drop_instance(instance)
        self._fetcher.drop_instance(instance)
        self.scheduler.on_lost(instance, self._clock())
        for callback in self._callbacks:
            callback.on_peer_lost(instance, reason)

    def _perform(self) -> None:
        """Carry out effects until there are none; some bring new ones."""
        while effects := self.scheduler.take_effects():
            for effect in effects:
                self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case ToPool():
                self.lenders.send(effect.instance, effect.message)
            case ToPlanner():
                self._to_planner(effect.message)
            case ToClient():
                self._tell(effect.request_id, effect.message)
            case Move():
                self._mover.add(effect)
            case Fetch():
                self._fetcher.add(effect)
            case Cancel():
                self._mover.cancel(effect.sequence, effect.leaf)
                self._fetcher.cancel(effect.sequence, effect.leaf)
            case Connect():
                self._ranks.tell(Dial(effect.instance, effect.address))
                try:
                    self.lenders.connect(effect.instance, effect.address, CONNECT_S)
                except PeerLost as error:
                    self.lenders.lost[effect.instance] = str(error)
            case Finish():
                self._finish(effect)

    def _tell(self, request_id: str, message: Message) -> None:
        if isinstance(message, Report | Failed | HandedOver):
            self.constrained.forget(request_id)
        self._to_client(request_id, message)

    def _finish(self, effect: Finish) -> None:
        self._mover.cancel(effect.sequence)
        self._fetcher.cancel(effect.sequence)
        self._backend.forget_sequence(effect.sequence)
        self._ranks.tell(ForgetSequence(effect.sequence))
        if not effect.final:
            return
        report = self.accounts.report(effect)
        self._tell(effect.request_id, report)
        for callback in self._callbacks:
            callback.on_request_finished(report)
