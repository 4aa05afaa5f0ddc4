"""Ports: an instance's way in and out for blocks; copies through one of them wait for each other.

Questions and answers are small and go first (assumption), so copies do not hold them up.
"""

from engine.sim.hardware.step_time import StepTime


class Ports:
    def __init__(self, times: StepTime) -> None:
        self._times = times
        self._out: dict[int, float] = {}
        self._in: dict[int, float] = {}

    def copy(self, source: int, target: int, num_bytes: int, now: float) -> float:
        """When a copy that is wanted now has arrived."""
        latency_s = self._times.message_s(source, target)
        begins = max(now, self._out.get(source, 0.0), self._in.get(target, 0.0))
        seconds = self._times.copy_s(source, target, num_bytes)
        self._out[source] = self._in[target] = begins + seconds - latency_s
        return begins + seconds
