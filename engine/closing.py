"""Closing: how an instance that was told to end does so in order, and when it may.

Its gateways take nothing new and end what they have. On rank 0 the cluster ends with them; another
instance that began with the cluster waits for that, since torchrun tells all ranks at once, and
what it lent is needed until then. One that joined, or that waited in vain, leaves by evacuation.
Who is told twice ends at once.
"""

import math
import signal
import time
from collections.abc import Mapping

from engine.children import ONE_S, Child
from engine.meeting import listens

GRACE_S = 2.0
"""beyond its time, for a gateway to tell its clients, and for others to see that it has"""
LEAVE_S = 40.0
"""longest evacuation: a step hands over at once, a pool waits for what it lent"""
LOOK_S = 0.5


class Closing:
    """``on_signal`` and ``begin`` say that it was told; ``may_end`` is asked again and again."""

    def __init__(self, *, drain_s: float, leads: bool, joined: bool) -> None:
        """``drain_s``: for requests under way; 0: ends at once."""
        self._drain_s = drain_s
        self._leads = leads
        self._joined = joined
        self.signal = 0
        """the first that came"""
        self._signals: list[float] = []
        self._until = math.inf
        self._next_look = 0.0
        self._told: set[int] = set()

    @property
    def status(self) -> int:
        """Exit status when nothing failed."""
        return 128 + self.signal if self.signal not in (0, signal.SIGTERM) else 0

    @property
    def begun(self) -> bool:
        return self._until < math.inf

    def on_signal(self, number: int, _frame: object) -> None:
        self.signal = self.signal or number
        self._signals.append(time.monotonic())

    def begin(self, now: float) -> None:
        """May be said again."""
        self._until = min(self._until, now + self._drain_s)

    def may_end(
        self,
        planner: str,
        frontends: Mapping[str, Child],
        step: Child | None,
        pool: Child | None,
        now: float,
    ) -> bool:
        """Tells the processes what to do; True when nothing is left to wait for."""
        twice = bool(self._signals) and self._signals[-1] - self._signals[0] > ONE_S
        if twice or not self._drain_s or self.signal == signal.SIGHUP:
            return True
        for child in frontends.values():
            if child.pid not in self._told:  # a restarted one, too
                self._told.add(child.pid)
                child.say(drain=max(0.0, self._until - now))
        too_late = now >= self._until + GRACE_S
        if self._leads:
            return not frontends or too_late
        if now >= self._until + GRACE_S + LEAVE_S:
            return True
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_S
        leaver = step or pool  # a donor has no step
        if ((self._joined and not frontends) or too_late) and leaver is not None:
            leaver.say(leave=True)
        return not frontends and not (planner and listens(planner))
