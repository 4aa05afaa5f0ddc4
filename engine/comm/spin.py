"""Spin: how long to watch for a message before sleeping, learned from what came of it."""

import resource
from time import monotonic

from engine.comm.watched import Watched

LEAST_S = 10e-6
REST_S = 0.05
"""no spinning for so long once somebody else has wanted this core"""


class Spin:
    """Longer where messages come soon after it slept, shorter where they take too long for it.

    A sleeper is woken in some 50 us, on a virtual machine more: a layer's answer takes hardly
    longer. But who spins on a core that others want only delays them: being preempted says so.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._seconds = min(longest_s, 5 * LEAST_S)
        self._rests_until = 0.0
        self._num_preempted = _times_preempted()

    def begin(self, now: float) -> float:
        """Seconds to watch now; 0 for not at all."""
        if now < self._rests_until:
            return 0.0
        self._num_preempted = _times_preempted()
        return self._seconds

    def end(self) -> None:
        """After watching."""
        if _times_preempted() != self._num_preempted:
            self._rests_until = monotonic() + REST_S

    def learn(self, waited_s: float) -> None:
        """News came after so long, watching or not: does longer watching pay? As watched.h does."""
        if waited_s <= self._seconds:
            return
        better_s = self._seconds * (2.0 if waited_s <= self._longest_s else 0.5)
        self._seconds = min(self._longest_s, max(LEAST_S, better_s))

    def begin_in(self, watched: Watched, now: float) -> None:
        """Let the native library watch, and learn the same meanwhile."""
        watched.spin_ns = int(1e9 * self.begin(now))
        watched.least_spin_ns, watched.most_spin_ns = int(1e9 * LEAST_S), int(1e9 * self._longest_s)

    def end_in(self, watched: Watched) -> None:
        if watched.spin_ns:
            self._seconds = 1e-9 * watched.spin_ns
        self.end()


def _times_preempted() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
