"""Promises: what a pool said its own step will get back, and when. The lender comes first."""

from dataclasses import dataclass

from engine import protocol as p
from engine.sim.world import World

FROZEN_S = 0.05
"""a pool that does not tick for so long is frozen, or as good as that"""


@dataclass(slots=True)
class _Promise:
    num_blocks: int
    until: float
    num_drawn: int = 0
    """since it was made"""


class Promises:
    """One life of a step. ``check`` is called behind the pool's tick: what is due must be there."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._promises: list[_Promise] = []
        self._due: list[_Promise] = []
        """since the last tick: what was called back a tick late comes a tick late"""
        self._last = 0.0

    def on_draw(self, draw: p.Draw, drawn: p.Drawn, now: float) -> None:
        """Who wants less than before is owed less."""
        for promise in self._promises + self._due:
            if draw.recall:
                wanted = promise.num_drawn + draw.num_blocks
                promise.num_blocks = min(promise.num_blocks, wanted)
            promise.num_drawn += len(drawn.blocks) + len(drawn.cached)
        if drawn.num_recalled:
            self._promises.append(_Promise(drawn.num_recalled, now + drawn.recall_s))

    def check(self, num_available: int, now: float) -> None:
        if now > self._last + FROZEN_S:
            self.forget()  # nobody could keep a word meanwhile
        self._last = now
        for promise in self._due:
            self._world.notes["recall_deadlines"] += 1
            there = promise.num_drawn + num_available
            if there < promise.num_blocks:
                self._world.violation(
                    f"{self._name} owed its step {promise.num_blocks} blocks by now, {there} came"
                )
        self._due = [one for one in self._promises if one.until <= now]
        self._promises = [one for one in self._promises if one.until > now]

    def forget(self) -> None:
        """The step is dead: nobody waits any more."""
        self._promises, self._due = [], []
