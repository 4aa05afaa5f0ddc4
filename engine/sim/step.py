"""SimStep: a step process around the real Scheduler, with what Loop and DistAttention do.

Each step reads all keys before its own through the plan's tables; holders are asked and answer with
what they hold.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from engine import protocol as p
from engine.core import NO_SCORES, Request
from engine.scheduler.effects import (
    Cancel,
    Connect,
    Fetch,
    Finish,
    Move,
    ToClient,
    ToPlanner,
    ToPool,
)
from engine.scheduler.scheduler import Scheduler
from engine.sim.copies import Copies
from engine.sim.coverage import STEP
from engine.sim.link import Link
from engine.sim.model import Model
from engine.sim.pool import SimPool
from engine.sim.post import Party
from engine.sim.reading import Reading
from engine.sim.truth import layout_of
from engine.sim.world import World

IDLE_S, STEP_S, ROW_S, TRIP_S = 0.02, 0.004, 0.0001, 0.002
LOAD_S, REGISTER_S = 0.25, 0.3


class SimStep(Party):
    """A new epoch with each life; its pool outlives it."""

    def __init__(
        self,
        world: World,
        pool: SimPool,
        *,
        connect: Callable[["SimStep", int], Link | None],
        make: Callable[["SimStep"], Scheduler],
        ask: Callable[[Party, p.Message], None],
        to_client: Callable[["SimStep", str, p.Message], None],
        left: Callable[["SimStep"], None],
    ) -> None:
        super().__init__(world, f"step{pool.instance}", ask, STEP)
        self.instance = pool.instance
        self.pool = pool
        self.epoch = 0
        self._connect = connect
        self._make = make
        self._to_client = to_client
        self._left = left

    def start(self) -> None:
        super().start()
        self.epoch = max(self.epoch + 1, int(1000 * self.world.now))
        self.scheduler = self._make(self)
        self.links: dict[int, Link] = {}
        self._lost: list[int] = []
        self._control: deque[Callable[[], None]] = deque()
        self._inbox: deque[tuple[int, p.Message, Any]] = deque()
        self.copies = Copies(self, self.pool.memory)
        self._model = Model(self.pool.memory, self.world.config.block_tokens, self.scheduler.roster)
        self._told_to_leave = False
        self.attached: dict[tuple[int, int], tuple[int, list[tuple[int, int, int]]]] = {}
        self._reading: Reading | None = None
        self._wake = False
        self._connect_to(self.instance)
        self.every(LOAD_S, lambda: self.report(self.scheduler.load(self.clock())))
        self.every(REGISTER_S, self._register)
        self._turn_soon(0.0)

    @property
    def state(self) -> str:
        if not self.is_alive:
            return "dead"
        if self.scheduler.is_leaving:
            return "leaving"
        if any(sequence.is_wounded for sequence in self.scheduler.roster.all()):
            return "wounded"
        if any(sequence.is_prefill for sequence in self.scheduler.running):
            return "prefill"
        return "decode" if self.scheduler.running else "idle"

    @property
    def num_debts(self) -> int:
        return len(self.scheduler.debts) if self.is_alive else 0

    # --- what comes in ------------------------------------------------------------------------

    def receive(self, link: Link, message: p.Message, payload: Any) -> None:
        instance = link.pool.instance  # type: ignore[attr-defined]
        reading = self._reading
        match message:
            case p.Answer():
                if reading is not None:
                    reading.on_answer(instance, message, payload)
                    self._finish_when_read()
                return
            case p.FencedOff() | p.Busy():
                if reading is not None and message.step == reading.plan.step:
                    reading.fail(instance)
                    self._finish_when_read()
        self._inbox.append((instance, message, payload))
        self._turn_soon(0.0)

    def lost(self, link: Link) -> None:
        instance = link.pool.instance  # type: ignore[attr-defined]
        if self.links.get(instance) is link:
            del self.links[instance]
            self._lost.append(instance)
            if self._reading is not None:
                self._reading.fail(instance)
                self._finish_when_read()
            self._turn_soon(0.0)

    def submit(self, request: Request) -> None:
        self._between_steps(lambda: self.scheduler.add(request))

    def abort(self, request_id: str) -> None:
        self._between_steps(lambda: self.scheduler.abort(request_id))

    def on_planner(self, message: p.Message) -> None:
        self._between_steps(lambda: self._take_advice(message))

    def _take_advice(self, message: p.Message) -> None:
        if isinstance(message, p.BorrowOffer):
            self.scheduler.on_offer(message, self.clock())
        else:
            self._told_to_leave |= isinstance(message, p.Evacuate) and message.leave
            self.scheduler.on_advice(message, self.clock())

    def _between_steps(self, action: Callable[[], None]) -> None:
        self._control.append(action)
        self._turn_soon(0.0)

    # --- a turn -------------------------------------------------------------------------------

    def _turn_soon(self, seconds: float) -> None:
        if not self._wake:
            self._wake = True
            self.after(seconds, self._turn)

    def _turn(self) -> None:
        """Receive, schedule, begin a step; when there is none, look again soon."""
        self._wake = False
        if self._reading is not None:  # the step under way ends first
            return
        while self._inbox:
            self._take(*self._inbox.popleft())
        while self._lost:
            self._lose(self._lost.pop())
        while self._control:
            self._control.popleft()()
        self._perform()
        if self._told_to_leave and self.scheduler.evacuated:
            self.to_planner(p.Register(self.instance, self.pool.epoch, ""))
            self._left(self)
            return
        if self.instance not in self.links:
            return  # the own pool is gone, and the supervisor on its way
        plan = self.scheduler.schedule(self.clock())
        self._perform()
        if plan is None:
            self._turn_soon(IDLE_S)
            return
        self._reading = Reading(self, plan, self.pool.memory)
        life, seconds = self._reading, STEP_S + ROW_S * plan.num_rows
        self.after(seconds, lambda: self._computed(life))
        self.after(seconds + self.world.config.wait_s, lambda: self._give_up(life))

    def _computed(self, reading: Reading) -> None:
        if self._reading is reading:
            reading.is_computed = True
            self._finish_when_read()

    def _give_up(self, reading: Reading) -> None:
        """Whoever has not answered by now is lost: its blocks are computed again."""
        if self._reading is not reading:
            return
        for instance in reading.waiting:
            self.world.notes["gave_up"] += 1
            if link := self.links.get(instance):
                link.cut()
        self._finish_when_read()

    def _finish_when_read(self) -> None:
        reading = self._reading
        if reading is None or not reading.is_computed or reading.waiting:
            return
        self._reading = None
        poisoned, wrong = reading.check(self._model.keys_of)
        for what in wrong:
            self.world.notes["wrong_reads"] += 1
            self.world.violation(f"{self.name}: {what}")
        plan, nobody, now = reading.plan, frozenset[int](), self.clock()
        next_ids = self._model.run(plan, poisoned)
        self.scheduler.commit(plan, next_ids, NO_SCORES, nobody, poisoned, now)
        self.scheduler.timed(plan, [STEP_S], now, TRIP_S)
        self._perform()
        self._turn_soon(0.0)

    # --- messages and effects -----------------------------------------------------------------

    def _take(self, instance: int, message: p.Message, payload: Any) -> None:
        now = self.clock()
        match message:
            case p.Welcome() | p.Released():
                return
            case p.Rejected():
                self.links[instance].cut()
            case p.Ack():
                if move := self.copies.on_ack(instance, message):
                    self.scheduler.on_moved(move.sequence, move.leaf)
            case p.Data():
                if fetch := self.copies.on_data(instance, message, payload):
                    self.scheduler.on_fetched(fetch.sequence, fetch.leaf, now)
            case _:
                if isinstance(message, p.FencedOff):
                    self._forget_tables(instance)
                if isinstance(message, p.Recall) and self.state == "prefill":
                    self.world.notes["recall_in_prefill"] += 1
                self.scheduler.on_message(instance, message, now)
        self._perform()

    def _lose(self, instance: int) -> None:
        self._forget_tables(instance)
        self.copies.forget_instance(instance)
        self.scheduler.on_lost(instance, self.clock())

    def _forget_tables(self, instance: int) -> None:
        self.attached = {key: of for key, of in self.attached.items() if key[0] != instance}

    def _perform(self) -> None:
        while effects := self.scheduler.take_effects():
            for effect in effects:
                self._do(effect)

    def _do(self, effect: Any) -> None:
        match effect:
            case ToPool():
                self.send(effect.instance, effect.message)
            case ToPlanner():
                self.to_planner(effect.message)
            case ToClient():
                self._to_client(self, effect.request_id, effect.message)
            case Connect():
                if effect.instance not in self.links and not self._connect_to(effect.instance):
                    self._lost.append(effect.instance)
            case Move():
                self.copies.move(effect)
            case Fetch():
                self.copies.fetch(effect)
            case Cancel():
                self.copies.forget(
                    lambda one: (one.sequence, one.leaf) == (effect.sequence, effect.leaf)
                )
            case Finish():
                self._finish(effect)

    def _finish(self, effect: Finish) -> None:
        number = effect.sequence
        self.copies.forget(lambda one: one.sequence == number)
        for instance, known in list(self.attached):
            if known == number:
                del self.attached[instance, known]
                self.send(instance, p.Detach(number))
        self.world.notes["recomputed_tokens"] += effect.recomputed_tokens if effect.final else 0
        if effect.final:
            self._model.forget(number)
            name, again = effect.request_id, effect.recomputed_tokens
            self._to_client(self, name, p.Report(name, [*effect.holders], 0, 0, 0, 0, {}, again))

    def _register(self) -> None:
        self.to_planner(p.Register(self.instance, self.pool.epoch, f"{self.instance}/{self.life}"))
        self.to_planner(p.MembersQuery())

    def send(self, instance: int, message: p.Message, payload: Any = None) -> None:
        if (link := self.links.get(instance)) is not None:
            link.send("up", message, payload)

    def _connect_to(self, instance: int) -> bool:
        link = self._connect(self, instance)
        if link is None:
            return False
        self.links[instance] = link
        epoch = self.pool.epoch if instance == self.instance else self.epoch
        layout = layout_of(self.world.config.block_tokens).fingerprint
        link.send("up", p.Hello(p.VERSION, "sim", self.instance, epoch, layout))
        return True
