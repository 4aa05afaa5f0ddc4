"""Post: control messages between processes, in order to each, and lost with their receiver."""

from collections.abc import Callable
from typing import Any

from engine import protocol as p
from engine.scheduler.reports import Series
from engine.sim.lane import Lane
from engine.sim.world import Action, Process, World, kind_of

LOST_SHARE = 0.01
"""of the messages to and from the planner: its state is soft"""


class Party(Process):
    """A process that talks with the planner."""

    def __init__(
        self,
        world: World,
        name: str,
        ask: Callable[["Party", p.Message], None],
        states: tuple[str, ...] = (),
    ) -> None:
        super().__init__(world, name, states)
        self._ask = ask

    def start(self) -> None:
        super().start()
        self._series = Series[Any]()

    def to_planner(self, message: p.Message) -> None:
        self._ask(self, message)

    def report(self, report: p.Heartbeat | p.Load) -> None:
        """What has changed of it since the one before."""
        self.to_planner(self._series.next(report))

    def hear(self, message: p.Message) -> None:
        """The planner says this."""
        if isinstance(message, p.Resend):
            self._series.resend()
        else:
            self.on_planner(message)

    def on_planner(self, message: p.Message) -> None:
        raise NotImplementedError


class Post:
    """Knows each life of a process by a name, as the control sockets do."""

    def __init__(self, world: World, dropped: Callable[[Process], None]) -> None:
        """``dropped``: a process lost what is never lost while it lives."""
        self._world = world
        self._dropped = dropped
        self._parties: dict[bytes, tuple[Party, int]] = {}
        self._lanes: dict[tuple[Process, bool], Lane] = {}
        """of each receiver: from the planner and to it, and from or to the gateway"""

    def name_of(self, party: Party) -> bytes:
        """Under which the planner knows it until it dies."""
        name = f"{party.name}/{party.life}".encode()
        self._parties[name] = (party, party.life)
        return name

    def tell(self, name: bytes, message: p.Message) -> None:
        """From the planner; who is dead hears nothing."""
        party, life = self._parties.get(name, (None, 0))
        if party is not None and party.life == life:
            self.send(party, message, lambda: party.hear(message), lossy=True)

    def send(
        self, receiver: Process, message: p.Message, arrive: Action, *, lossy: bool = False
    ) -> None:
        """``lossy``: it may be lost on the way; else its receiver dies of a loss."""
        world, kind, life = self._world, kind_of(message), receiver.life
        world.messages += 1

        def deliver() -> None:
            state, fate = receiver.state, "none"
            if receiver.life != life or (lossy and world.chance.random() < LOST_SHARE):
                fate = "lost"
            elif receiver.states:
                fate = world.fate(kind, state)
            if fate == "late":
                receiver.pause()
            elif fate == "none" and receiver.is_frozen:
                fate = "late"
            world.coverage[kind, fate, state] += 1
            if fate != "lost":
                receiver.after(0.0, arrive)
            elif receiver.life == life and not lossy:
                self._dropped(receiver)

        arrival = world.now + (world.delay() if lossy else 0.001)
        lane = self._lanes.setdefault((receiver, lossy), Lane(world, receiver))
        world.at(arrival, lambda: lane.arrive(kind, deliver))
