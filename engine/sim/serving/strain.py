"""Strain: how long an instance's steps take on its machine, with all that goes on beside them.

Beyond a step's own work: what its device did for others, neighbours on the host that are in steps
(they share its memory's bandwidth), frontend and planner on the first instance's cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.attention.ways import Ways
from engine.sim.hardware.step_time import Took, Work, further

if TYPE_CHECKING:
    from engine.sim.serving.cluster import Cluster

FRONT = 0
"""the instance whose cores frontend and planner are on"""


class Strain:
    def __init__(self, cluster: Cluster, number: int) -> None:
        self._cluster = cluster
        self._number = number
        self._measured = cluster.profile.measured
        self._ways = Ways()
        self._host = host = cluster.times.topology.host
        self._neighbours = [
            other
            for other in range(cluster.config.instances)
            if self._measured and other != number and host(other) == host(number)
        ]
        self._owed_s = 0.0
        """what its device was asked to do for others and its own steps have not felt"""
        self._began = 0.0
        """its last step that felt it"""
        self._ended = 0.0
        """its last step"""

    @property
    def is_steady(self) -> bool:
        """Its steps take what their own work takes, whatever goes on beside them."""
        return self._measured is None and not self._owed_s

    def owe(self, seconds: float) -> None:
        """The device computed partials for others."""
        self._owed_s += seconds

    def felt(self) -> float:
        """What others have asked for since it last felt that, unless it was done between steps."""
        now = self._cluster.clock.now
        left_s = max(0.0, self._owed_s - (now - self._ended))
        felt_s, self._owed_s = min(left_s, now - self._began), 0.0
        self._began = now
        return felt_s

    def rest(self) -> None:
        """A step has ended: until the next one the device is free to do what it owes."""
        self._ended = self._cluster.clock.now

    def charged(self, work: Work) -> float:
        """Seconds of such a step; its holders owe what it takes of their time."""
        took = self._took(work)
        for holder, serving_s in took.serving_s.items():
            self._cluster.instances[holder].owe(serving_s)
        return self._beside(took.seconds, work)

    def seconds(self, work: Work, num_steps: int) -> Iterator[float]:
        """Of so many decode steps in a row, this one the first: each row has a key more in each."""
        if work.remote:
            return (
                self._beside(self._took(further(work, n)).seconds, work) for n in range(num_steps)
            )
        alone = self._cluster.times.alone(work, num_steps)
        return (self._beside(seconds, work) for seconds in alone) if self._measured else alone

    def _took(self, work: Work) -> Took:
        """By the way that the engine's own rule prefers where memory can be read in place."""
        times, here = self._cluster.times, self._host(self._number)
        asked = times.of(self._number, work, self._is_stepping)
        is_near = times.is_mapped and all(self._host(one) == here for one in work.remote)
        if not work.remote or not is_near:
            return asked
        layers, ways = times.model.num_layers, self._ways
        own, lent = int(work.own.pairs), int(sum(keys.pairs for keys in work.remote.values()))
        ways.learn_work(times.costs.attention_s(work.own.read, work.own.pairs) / layers, own)
        if not ways.prefers_query(own, lent):
            return times.mapped(work)
        ways.learn_trip(asked.answered_s / layers, lent)
        return asked

    def _beside(self, seconds: float, work: Work) -> float:
        if self._measured is None:
            return seconds
        if any(map(self._is_stepping, self._neighbours)):
            seconds *= self._measured.beside
        if self._number == FRONT:
            seconds += self._measured.front_s + self._measured.token_s * work.num_sampled
        return seconds

    def _is_stepping(self, instance: int) -> bool:
        return self._cluster.instances[instance].is_stepping
