"""Link: a step's channel to a pool: in order and without loss until it is cut, at both ends."""

from collections.abc import Callable
from typing import Any

from engine.protocol import Message
from engine.sim.lane import Lane
from engine.sim.world import Process, World, kind_of

NOTICE_S = 0.002
"""until the other end of a channel learns that it is gone"""

Receive = Callable[["Link", Message, Any], None]


class Link:
    """``up`` goes to the pool, ``down`` to the step; each message may carry a payload."""

    def __init__(
        self,
        world: World,
        number: int,
        *,
        step: Process,
        pool: Process,
        to_pool: Receive,
        to_step: Receive,
        lost: Callable[["Link"], None],
        broken: Callable[["Link"], None],
    ) -> None:
        self.world = world
        self.number = number
        self.step = step
        self.pool = pool
        self.is_cut = False
        self.held_until = 0.0
        """a partition holds messages back, as TCP would send them again"""
        self._lost = lost
        self._broken = broken
        self._ends = {"up": (pool, to_pool), "down": (step, to_step)}
        self._last = {"up": 0.0, "down": 0.0}
        self._lanes = {"up": Lane(world, pool), "down": Lane(world, step)}
        self._lives = {"up": pool.life, "down": step.life}

    def send(self, way: str, message: Message, payload: Any = None) -> bool:
        """False when the channel is gone."""
        if self.is_cut:
            return False
        world, (receiver, _) = self.world, self._ends[way]
        slow = receiver.slowness if world.chance.random() < 0.5 else 1.0
        arrival = max(self._last[way], world.now + world.delay() * slow, self.held_until)
        self._last[way] = arrival
        world.messages += 1
        held = self.held_until > world.now
        lane, kind = self._lanes[way], kind_of(message)
        world.at(
            arrival,
            lambda: lane.arrive(kind, lambda: self._arrive(way, message, payload, held=held)),
        )
        return True

    def cut(self) -> None:
        """Both ends learn of it; what is under way is lost."""
        if self.is_cut:
            return
        self.is_cut = True
        self._lost(self)

    def _arrive(self, way: str, message: Message, payload: Any, *, held: bool) -> None:
        receiver, receive = self._ends[way]
        sender = self.step if way == "up" else self.pool
        state = receiver.state
        if self.is_cut or receiver.life != self._lives[way]:
            self.world.coverage[kind_of(message), "lost", state] += 1
            return
        fate = self.world.fate(kind_of(message), state)
        is_late = held or receiver.is_frozen or max(receiver.slowness, sender.slowness) > 1
        if fate == "late":
            receiver.pause()
        elif fate == "none" and is_late:
            fate = "late"
        self.world.coverage[kind_of(message), fate, state] += 1
        if fate == "lost":
            self.world.faults["break"] += 1
            self._broken(self)
            return
        self.world.told(f"{receiver.name} < {kind_of(message)}")

        def take() -> None:
            if not self.is_cut:
                receive(self, message, payload)

        receiver.after(0.0, take)
