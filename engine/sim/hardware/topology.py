"""Topology: which device an instance's rank is on, and what lies between two of them."""

import math
from dataclasses import dataclass

from engine.sim.hardware.profile import Link, Profile


@dataclass(frozen=True, slots=True)
class Topology:
    """Instances of ``tp`` devices each, one after another, over nodes."""

    profile: Profile
    tp: int

    def host(self, instance: int) -> str:
        """The node of its first rank: instances there are close to each other."""
        return f"node{instance * self.tp // self.profile.devices_per_node}"

    def link(self, one: int, other: int) -> Link:
        """Between equal ranks of two instances; the worst of them counts."""
        per_node = self.profile.devices_per_node
        ranks = range(self.tp)
        is_near = all(
            (one * self.tp + rank) // per_node == (other * self.tp + rank) // per_node
            for rank in ranks
        )
        return self.profile.intra if is_near else self.profile.inter

    def all_reduce_s(self, num_bytes: float) -> float:
        """Sum of a tensor over an instance's ranks: in each node, then between nodes.

        A ring's bytes; latencies of a tree, each with a hand-over there and back.
        """
        tp, per_node = self.tp, self.profile.devices_per_node
        near, nodes = min(tp, per_node), -(-tp // per_node)
        seconds = 0.0
        if near > 1:
            rate = self.profile.intra.bandwidth * self.profile.intra.bandwidth_share
            seconds += 2 * (near - 1) / near * num_bytes / rate
            seconds += self.profile.intra.latency_s * (1 + math.log2(near)) / 2
        if nodes > 1:
            rate = self.profile.inter.bandwidth * self.profile.inter.bandwidth_share
            seconds += 2 * (nodes - 1) / nodes * num_bytes / near / rate
            seconds += 2 * self.profile.inter.latency_s * math.log2(nodes)
        return seconds
