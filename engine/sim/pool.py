"""SimPool: a pool process around the real RManager; answers asks from the keys it holds."""

from collections.abc import Callable
from typing import Any

from engine import protocol as p
from engine.errors import Fenced
from engine.memory.books import BlockState
from engine.memory.effects import CopyIn, CopyOut, LosePeer, Output, Reply
from engine.memory.rmanager import RManager
from engine.sim.coverage import DONOR, POOL
from engine.sim.link import Link
from engine.sim.post import Party
from engine.sim.promises import Promises
from engine.sim.truth import SimMemory, layout_of
from engine.sim.world import World

HEARTBEAT_S = 0.1
TICK_S = 0.02
COMPUTE_S = 0.002
"""partials of one ask"""
LEAVE_S = 12.0
"""how long a pool that leaves waits for others to give back what it lent them"""


class SimPool(Party):
    """New memory and a new epoch with each life."""

    def __init__(
        self,
        world: World,
        instance: int,
        num_blocks: int,
        *,
        is_donor: bool,
        is_guest: bool,
        ask: Callable[[Party, p.Message], None],
        left: Callable[["SimPool"], None],
    ) -> None:
        """``left``: it was told to leave, and nobody needs it any more."""
        super().__init__(world, f"pool{instance}", ask, DONOR if is_donor else POOL)
        self.instance = instance
        self.num_blocks = num_blocks
        self.is_donor = is_donor
        """it has no step"""
        self.is_guest = is_guest
        """nobody takes its place when it leaves"""
        self.epoch = 0
        self._left = left

    def start(self) -> None:
        super().start()
        config = self.world.config
        self.epoch = max(self.epoch + 1, int(1000 * self.world.now))
        self.memory = SimMemory(layout_of(config.block_tokens), self.num_blocks)
        self.rmanager = RManager(
            RManager.Config(
                keep_blocks=1,
                max_lease_s=10.0,
                recall_s=self.world.recall_s,
                min_residence_s=config.min_residence_s,
                drift=2.5 * config.drift,  # both clocks may be wrong, in opposite ways
            ),
            instance=self.instance,
            epoch=self.epoch,
            cluster="sim",
            kernel_fingerprint="sim",
            pool=self.memory,
        )
        self.links: dict[int, Link] = {}
        self._begun: dict[int, p.Begin] = {}
        self._declined: dict[int, int] = {}
        self._strained_until = 0.0
        self._leave_by: float | None = None
        self.every(HEARTBEAT_S, self._beat)
        self._promises = Promises(self.world, self.name)
        self.every(TICK_S, self._tick)

    @property
    def state(self) -> str:
        if not self.is_alive:
            return "dead"
        if self.clock() < self._strained_until:
            return "strained"
        return "recalling" if self.rmanager.is_recalling else "plain"

    @property
    def is_leaving(self) -> bool:
        return self._leave_by is not None

    @property
    def has_room(self) -> bool:
        return self.is_alive and self.rmanager.books.num_available > 0

    @property
    def num_lent(self) -> int:
        return self.rmanager.books.count(BlockState.LENT)

    def receive(self, link: Link, message: p.Message, payload: Any) -> None:
        self.links[link.number] = link
        now = self.clock()
        match message:
            case p.Begin():
                self._begun[link.number] = message
            case p.Ask():
                self._on_ask(link, message)
            case p.Strain():
                if self.rmanager.is_step(link.number):
                    self._strained_until = now + message.for_s
            case _:
                num_bytes = payload[0] if isinstance(message, p.Write) else 0
                outputs = self.rmanager.handle(link.number, message, now, num_bytes)
                for out in outputs:
                    said = out.message if isinstance(out, Reply) else None
                    if isinstance(message, p.Draw) and isinstance(said, p.Drawn):
                        self._promises.on_draw(message, said, now)
                        self.world.notes["recovered_blocks"] += len(said.cached)
                    if isinstance(said, p.Pinned):
                        self.world.notes["pinned_blocks"] += len(said.found)
                self._perform(outputs, payload)

    def lost(self, link: Link) -> None:
        """The channel is gone; if it was the own step's, the step is dead."""
        if self.links.pop(link.number, None) is not None:
            if self.rmanager.is_step(link.number):
                self._promises.forget()
            self._perform(self.rmanager.peer_lost(link.number, self.clock()))

    def on_planner(self, message: p.Message) -> None:
        match message:
            case p.Freeze():
                self.rmanager.freeze(message.num_blocks, message.for_s, self.clock())
            case p.Evacuate() if self.is_donor:  # else its step is asked
                self.leave()

    def leave(self) -> None:
        """Lend nothing any more, wait for what is lent, and end."""
        if self._leave_by is None:
            self._leave_by = self.clock() + LEAVE_S

    def _on_ask(self, link: Link, ask: p.Ask) -> None:
        if self._declined.get(link.number) == ask.step:
            return
        left_s = self._strained_until - self.clock()
        if left_s > 0:
            self._declined[link.number] = ask.step
            link.send("down", p.Busy(ask.step, left_s))
            return
        self.after(COMPUTE_S, lambda: self._compute(link, ask))

    def _compute(self, link: Link, ask: p.Ask) -> None:
        """Check the books, then compute, in one turn."""
        begun = self._begun.get(link.number)
        if link.is_cut or begun is None or begun.step != ask.step:
            return
        now, found = self.clock(), {}
        try:
            for span in begun.slices[ask.slice]:
                table = self.rmanager.resolve(link.number, span.sequence, span.version, now)
                keys = {leaf: list(self.memory.keys[block]) for leaf, block in table}
                found[span.sequence] = keys
        except Fenced as error:
            self.world.notes["stale_asks_refused"] += 1
            gone = list(getattr(error, "loans", ()))
            link.send("down", p.FencedOff(ask.step, gone, "fenced"))
            return
        link.send("down", p.Answer(ask.step, ask.layer, ask.slice), found)

    def _perform(self, outputs: list[Output], payload: Any = None) -> None:
        for out in outputs:
            match out:
                case Reply():
                    if isinstance(out.message, p.Recall):
                        self.world.notes["recalls"] += 1
                    if link := self.links.get(out.peer):
                        link.send("down", out.message)
                case CopyIn():
                    if payload[1] is not None:
                        self.memory.keys[out.block] = list(payload[1])
                case CopyOut():
                    if link := self.links.get(out.peer):
                        link.send("down", out.message, list(self.memory.keys[out.block]))
                case LosePeer():
                    if not out.reason.startswith(("you are epoch", "epoch", "instance")):
                        self.world.violation(f"{self.name} cuts off {out.peer}: {out.reason}")
                    if link := self.links.get(out.peer):
                        link.cut()

    def _tick(self) -> None:
        now = self.clock()
        self._perform(self.rmanager.tick(now))
        self._promises.check(self.rmanager.books.num_available, now)

    def _beat(self) -> None:
        now, leave_by = self.clock(), self._leave_by
        if leave_by is not None:
            self._perform(self.rmanager.lend(False, now))
        beat = self.rmanager.heartbeat(address=str(self.instance), host="sim", now=now)
        self.report(beat)
        if leave_by is not None and (not beat.num_lent or now >= leave_by):
            self._left(self)
