"""OwnTime: time as it passes for a process, without what it was stopped for. No I/O.

A laptop that sleeps, a machine that is paused, SIGSTOP: whoever could not listen meanwhile cannot
say that others were silent.
"""


class OwnTime:
    def __init__(self, most_s: float, now: float) -> None:
        """It begins at ``now``. Who runs looks more often than every ``most_s``."""
        self._most_s = most_s
        self._looked_at = self._time = now

    def at(self, now: float) -> float:
        """Own time, at ``now`` by the clock; not before that of the last look."""
        self._time += max(0.0, min(now - self._looked_at, self._most_s))
        self._looked_at = max(self._looked_at, now)
        return self._time
