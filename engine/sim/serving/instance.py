"""Instance: a real Scheduler on its own pool, with what Loop does; its steps take modelled time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine import protocol as p
from engine.core import NO_SCORES, Plan, Request
from engine.memory.effects import CopyOut, LosePeer, Output, Reply
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
from engine.scheduler.reports import Series
from engine.scheduler.scheduler import Scheduler
from engine.sim.hardware.step_time import Work, further
from engine.sim.serving.pool import Pool
from engine.sim.serving.step_work import StepWork, new_prompts
from engine.sim.serving.strain import Strain
from engine.sim.serving.stride import (
    TOKEN,
    advance,
    all_have_begun,
    num_quiet_steps,
    quiet_until,
)

if TYPE_CHECKING:
    from engine.sim.serving.cluster import Cluster

IDLE_S = 0.05
ANSWER_SHARE, ANSWER_S = 0.2, 0.05
"""as in engine/roles.py and engine/loop.py"""
MAX_ANSWERS, AGAIN_S = 4, 0.02
"""of the own pool, between two steps; who has none of what it wants asks again so much later"""
NEVER = float("inf")
NOBODY: frozenset[int] = frozenset()

Action = Callable[[], None]


class Instance:
    """What came while a step runs is looked at between two steps."""

    def __init__(self, cluster: Cluster, number: int, scheduler: Scheduler, pool: Pool) -> None:
        self.number = number
        self.scheduler = scheduler
        self.pool = pool
        self.loads = Series[p.Load]()
        self._cluster = cluster
        self._clock = cluster.clock
        self._work = StepWork(cluster.config.block_tokens)
        neighbour = (number + 1) % cluster.config.instances
        self._trip_s = 0.0 if cluster.times.is_mapped else cluster.times.trip_s(number, neighbour)
        self._inbox: deque[Action] = deque()
        self._next_turn = NEVER
        self._is_turning = False
        self._step: Plan | None = None
        """the one under way"""
        self._ready: set[int] = set()
        """sequences of the step under way whose keys are there, each where it has its block"""
        self._stride: tuple[Plan, list[float], list[float], Work] | None = None
        """the plan, each step's end and seconds, the first one's work"""
        self._stride_ends = NEVER
        self._step_s = 0.0
        self._wait_until = 0.0
        self.reports_at = NEVER
        """when it is asked next for what it tells the planner: a stride ends there"""
        self.strain = Strain(cluster, number)
        self._copies: dict[tuple[int, int], Move | Fetch] = {}
        """(sequence, leaf) -> under way"""
        self.num_steps = 0
        self.busy_s = 0.0

    # --- what comes in ------------------------------------------------------------------------

    def between_steps(self, action: Action) -> None:
        """As soon as no step is under way."""
        self._inbox.append(action)
        if self._stride is not None:
            self._cut_stride()
        elif self._step is None and not self._is_turning:
            self._turn_at(self._clock.now)

    def submit(self, request: Request) -> None:
        self.between_steps(lambda: self.scheduler.add(request))

    def hear(self, instance: int, message: p.Message) -> None:
        """A pool has something to say."""
        self.between_steps(lambda: self._take(instance, message))

    @property
    def is_stepping(self) -> bool:
        return self._step is not None or self._stride is not None

    # --- a turn -------------------------------------------------------------------------------

    def _turn_at(self, time: float) -> None:
        if time < self._next_turn:
            self._next_turn = time
            self._clock.at(time, lambda: self._turn(time))

    def _turn(self, time: float | None = None) -> None:
        if time not in (None, self._next_turn):
            return  # an earlier turn did it
        self._next_turn = NEVER
        if self._step is None and self._stride is None:  # else it is looked at behind it
            self._is_turning = True
            self._take_turn()
            self._is_turning = False

    def _take_turn(self) -> None:
        scheduler, now = self.scheduler, self._clock.now
        self._receive()
        for _ in range(MAX_ANSWERS):  # the own pool answers at once
            scheduler.tick(now)
            self.perform()
            if not self._inbox:
                break
            self._receive()
        if scheduler.awaits_answer and now < self._wait_until:
            self._turn_at(self._wait_until)
            return
        plan = scheduler.schedule(now)
        self.perform()
        if plan is None and self._inbox:
            self._receive()
            plan = scheduler.schedule(now)
            self.perform()
        if plan is not None:
            self._begin(plan)
        elif self._inbox or scheduler.roster.all():
            self._turn_at(now + (AGAIN_S if self._inbox else IDLE_S))

    def _receive(self) -> None:
        """What has come by now; what that brings is for the next time."""
        for _ in range(len(self._inbox)):
            self._inbox.popleft()()
            self.perform()

    def _begin(self, plan: Plan) -> None:
        self._ready = set() if self._cluster.config.prefill else new_prompts(self.scheduler)
        work = self._work.of(plan, self._ready)
        if self._is_alone(work) and all_have_begun(self.scheduler):
            self._begin_stride(plan, work, first=0)
            if self._stride is not None:
                return
        seconds = self.strain.charged(work) + self.strain.felt()
        self._step = plan
        self._clock.after(seconds, lambda: self._end(plan, work, seconds))

    def _end(self, plan: Plan, work: Work, seconds: float) -> None:
        self._step = None
        self.strain.rest()
        next_ids = dict.fromkeys(plan.sampled, TOKEN)
        self.scheduler.commit(plan, next_ids, NO_SCORES, NOBODY, NOBODY, self._clock.now)
        self._count(plan, [seconds])
        self.perform()
        self._ready.clear()
        if not self._inbox and self._cluster.config.strides:
            self._begin_stride(plan, work, first=1)
        if self._stride is None:
            self._wait_until = self._clock.now + min(ANSWER_SHARE * seconds, ANSWER_S)
            self._turn()

    def _count(self, plan: Plan, lasted: Sequence[float]) -> None:
        if not self._ready:  # rows that were there say nothing of what rows take
            self.scheduler.timed(plan, lasted, self._clock.now, self._trip_s)
        self.num_steps += len(lasted)
        self.busy_s = sum(lasted, self.busy_s)

    # --- strides ------------------------------------------------------------------------------

    def _is_alone(self, work: Work) -> bool:
        """Nothing has come, and nobody's work but its own is in its steps' time."""
        is_lending = work.remote or self.pool.num_lent or not self.strain.is_steady
        return not self._inbox and not is_lending and self._cluster.config.strides

    def _begin_stride(self, plan: Plan, work: Work, *, first: int) -> None:
        """Of the plan's own step (``first`` 0), or of those behind it, which is committed (1)."""
        config, now = self._cluster.config, self._clock.now
        num_steps = num_quiet_steps(plan, self.scheduler, config.block_tokens)
        until = quiet_until(self.scheduler, config.scheduler.max_num_seqs) if num_steps else now
        if until <= now:
            return
        until = min(until, self.reports_at)
        ends, lasted, felt_s = [], [], self.strain.felt()
        first_work = further(work, first)
        for seconds in self.strain.seconds(first_work, num_steps):
            seconds, felt_s = seconds + felt_s, 0.0
            now += seconds
            ends.append(now)
            lasted.append(seconds)
            if now >= until:
                break
        self._stride, self._stride_ends = (plan, ends, lasted, first_work), ends[-1]
        self._clock.at(ends[-1], self._end_stride)

    def _cut_stride(self) -> None:
        """Something came: the step under way is the stride's last."""
        assert self._stride is not None
        now = self._clock.now
        ends = next(end for end in self._stride[1] if end >= now)
        if ends < self._stride_ends:
            self._stride_ends = ends
            self._clock.at(ends, self._end_stride)

    def _end_stride(self) -> None:
        if self._stride is None or self._clock.now != self._stride_ends:
            return  # it was cut
        plan, ends, lasted, work = self._stride
        self._stride, self._stride_ends = None, NEVER
        num_steps = ends.index(self._clock.now) + 1
        for request_id, index in advance(self.scheduler, plan, num_steps):
            self._cluster.front.hear(p.Tokens(request_id, index, [TOKEN] * num_steps))
        self._count(plan, lasted[:num_steps])
        self.strain.strode(work, num_steps)
        self.strain.rest()
        self._wait_until = self._clock.now + min(ANSWER_SHARE * lasted[0], ANSWER_S)
        self._turn()

    # --- messages and effects -----------------------------------------------------------------

    def _take(self, instance: int, message: p.Message) -> None:
        if not isinstance(message, p.Welcome | p.Released | p.Ack):
            self.scheduler.on_message(instance, message, self._clock.now)

    def perform(self) -> None:
        while self.scheduler.has_effects:
            for effect in self.scheduler.take_effects():
                self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case ToClient():
                self._cluster.front.hear(effect.message)
            case ToPool():
                self._send(effect.instance, effect.message)
            case ToPlanner():
                self._cluster.front.ask(self, effect.message)
            case Connect():
                self._cluster.instances[effect.instance].pool.hello(self.number, self._clock.now)
            case Move():
                self._copies[effect.sequence, effect.leaf] = effect
                self._cluster.copies.move(self, effect, effect.sequence in self._ready)
            case Fetch():
                self._copies[effect.sequence, effect.leaf] = effect
                self._cluster.copies.fetch(self, effect)
            case Cancel():
                self._copies.pop((effect.sequence, effect.leaf), None)
            case Finish():
                for key in [key for key in self._copies if key[0] == effect.sequence]:
                    del self._copies[key]
                self._work.forget(effect.sequence)
                if effect.final:
                    self._cluster.front.finished(effect)

    def _send(self, instance: int, message: p.Message) -> None:
        if instance == self.number:
            self.obey(self.pool.handle(self.number, message, self._clock.now))
        else:
            self._cluster.carry(self.number, instance, message)

    def obey(self, outputs: list[Output]) -> None:
        """What the own pool wants done."""
        for out in outputs:
            match out:
                case Reply() if out.peer == self.number:
                    self.hear(self.number, out.message)
                case Reply():
                    self._cluster.reply(self.number, out.peer, out.message)
                case CopyOut() | LosePeer():
                    raise RuntimeError(f"pool {self.number}: {out}")

    def arrived(self, copy: Move | Fetch) -> None:
        """A block is where it should be, unless nobody wants it there any more."""
        key = copy.sequence, copy.leaf
        if self._copies.get(key) is not copy:
            return
        del self._copies[key]
        if isinstance(copy, Move):
            self.between_steps(lambda: self.scheduler.on_moved(copy.sequence, copy.leaf))
        else:
            now = self._clock.now
            self.between_steps(lambda: self.scheduler.on_fetched(copy.sequence, copy.leaf, now))
