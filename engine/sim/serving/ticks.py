"""Ticks: a pool's periodic looks at its leases; those that would find nothing are left out."""

from collections.abc import Callable
from math import inf

from engine.memory.effects import Output
from engine.sim.serving.clock import Clock
from engine.sim.serving.pool import Pool

TICK_S = 0.05
"""as the processes do"""


class Ticks:
    """Each at the time that it would have if all took place."""

    def __init__(
        self, clock: Clock, pool: Pool, first: float, obey: Callable[[list[Output]], None]
    ) -> None:
        """``obey``: what the pool wants done then."""
        self._clock = clock
        self._pool = pool
        self._obey = obey
        self._first = first
        """a time of one, which is not later than the next one's"""
        self._next = inf
        """the one that is set"""
        pool.on_heard = self.set_next

    def set_next(self) -> None:
        """Something was said to the pool, or it has ticked."""
        now = self._clock.now
        due = self._pool.rmanager.next_due(now)
        if due == inf or due > self._next:
            return
        time = self._first
        while time <= now:
            time += TICK_S
        self._first = time
        while time < due:
            time += TICK_S
        if time < self._next:
            self._next = time
            self._clock.at(time, lambda: self._tick(time))

    def _tick(self, time: float) -> None:
        if time != self._next:
            return  # an earlier one came between
        self._next = inf
        if self._pool.rmanager.next_due(time) <= time:
            self._obey(self._pool.tick(time))
        self.set_next()
