"""Strain: how long an instance's steps take on its machine, with all that goes on beside them.

Beyond a step's own work: what its device did for others, what else its holders' devices do (who
works on one at the same time gets equal shares of it), neighbours on the host that are in steps
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
INSTANT_S = 1e-9
"""a step of prompts that are there takes no time: not to divide by it"""


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
        self._own_share = 0.0
        """of its step's time that its device works for it, else it waits for answers; 0: no step"""
        self._shares: dict[int, float] = {}
        """by asker: of its step's time that this device is busy for it"""
        self._holders: set[int] = set()
        """that its step asks"""
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
        self._own_share = 0.0
        for holder in self._holders:
            self._strain(holder).served(self._number)
        self._holders.clear()

    def load(self, asker: int) -> float:
        """What its device does but for this asker: 1 is all of the time on one thing."""
        others = (share for other, share in self._shares.items() if other != asker)
        return self._own_share + sum(others)

    def serve(self, asker: int, share: float) -> None:
        """This device is busy for the asker's step for such a share of its time."""
        self._shares[asker] = share

    def served(self, asker: int) -> None:
        """That step has ended."""
        self._shares.pop(asker, None)

    def charged(self, work: Work) -> float:
        """Seconds of such a step, which begins; its holders owe what it takes of their time."""
        took = self._took(work)
        self._share(took)
        self._owe(took)
        return self._beside(took.seconds, work)

    def seconds(self, work: Work, num_steps: int) -> Iterator[float]:
        """Of so many decode steps in a row, of which this one begins: each row has a key more in
        each. Holders owe nothing for them yet.
        """
        if work.remote:
            return self._asking(work, num_steps)
        self._own_share = 1.0
        alone = self._cluster.times.alone(work, num_steps)
        return (self._beside(seconds, work) for seconds in alone) if self._measured else alone

    def strode(self, work: Work, num_steps: int) -> None:
        """So many of them were run."""
        if work.remote:
            for _ in range(num_steps):
                self._owe(self._took(work))

    def _asking(self, work: Work, num_steps: int) -> Iterator[float]:
        for more in range(num_steps):
            took = self._took(further(work, more))
            if not more:
                self._share(took)
            yield self._beside(took.seconds, work)

    def _share(self, took: Took) -> None:
        """A step begins: for which shares of its time devices work for it, here and at holders."""
        seconds = max(took.seconds, INSTANT_S)
        # What a step delays was measured whatever is in it.
        self._own_share = 1.0 if self._measured else took.own_s / seconds
        for holder, serving_s in took.serving_s.items():
            strain = self._strain(holder)
            busy_s = (1 + strain.load(self._number)) * serving_s
            strain.serve(self._number, min(1.0, busy_s / seconds))
            self._holders.add(holder)

    def _owe(self, took: Took) -> None:
        for holder, serving_s in took.serving_s.items():
            self._strain(holder).owe(serving_s)

    def _took(self, work: Work) -> Took:
        """By the way that the engine's own rule prefers where memory can be read in place."""
        times, here = self._cluster.times, self._host(self._number)
        asked = times.of(self._number, work, self._load_of)
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

    def _load_of(self, holder: int) -> float:
        return self._strain(holder).load(self._number)

    def _strain(self, instance: int) -> Strain:
        return self._cluster.instances[instance].strain

    def _is_stepping(self, instance: int) -> bool:
        return self._cluster.instances[instance].is_stepping
