"""The fixed merge tree over a context's leaves. Pure bookkeeping: no tensors, no torch.

A *leaf* is one rBlock at its absolute position in the sequence. Node ``(level, index)`` covers the
leaves ``[index << level, (index + 1) << level)``; its partial is the merge of its two children,
left then right. A leaf that is not there yet, or that a query may not see, is the empty partial,
and merging with it changes no bit. So the bits of the whole depend on the leaves alone: not on who
computed which, nor on how far a holder merged what it holds.

A holder sends the *cover* of its leaves: the fewest nodes whose leaves it all has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KNOWN_COVERS, KNOWN_MERGES = 4096, 512
"""runs of leaves and sets of nodes, the latest ones, that are not worked out again"""


@dataclass(frozen=True, order=True, slots=True)
class Node:
    level: int
    index: int

    @property
    def sibling(self) -> "Node":
        return Node(self.level, self.index ^ 1)

    @property
    def parent(self) -> "Node":
        return Node(self.level + 1, self.index >> 1)


def cover(leaves: Sequence[int] | NDArray[np.int32]) -> tuple[Node, ...]:
    """The fewest nodes that hold exactly these leaves, ascending; ``leaves`` must ascend."""
    if not len(leaves):
        return ()
    first, last = int(leaves[0]), int(leaves[-1])
    if last - first < len(leaves):
        return _cover_of_run(first, last + 1)
    numbers = np.asarray(leaves)
    behind = 1 + np.flatnonzero(np.diff(numbers) > 1)
    starts, lasts = numbers[[0, *behind]].tolist(), numbers[[*(behind - 1), -1]].tolist()
    runs = (_cover_of_run(leaf, last + 1) for leaf, last in zip(starts, lasts, strict=True))
    return tuple(chain.from_iterable(runs))


@lru_cache(KNOWN_COVERS)
def _cover_of_run(leaf: int, end: int) -> tuple[Node, ...]:
    nodes: list[Node] = []
    while leaf < end:  # the largest node that begins here and does not reach beyond
        level = (end - leaf).bit_length() - 1
        if leaf:
            level = min(level, (leaf & -leaf).bit_length() - 1)
        nodes.append(Node(level, leaf >> level))
        leaf += 1 << level
    return tuple(nodes)


class Segment(NamedTuple):
    """Consecutive query rows of one sequence, and the leaves they meet in one piece."""

    row_start: int
    num_rows: int
    first_position: int
    leaves: Sequence[int] | NDArray[np.int32]
    """ascending leaf indexes"""
    addresses: Sequence[int] | NDArray[np.uint64]
    """memory address of each leaf's rBlock (its first byte, layer 0) in this process"""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one kernel call computes: segments of query rows against leaves that lie at hand.

    The result has one *node row* for each (segment, node of its cover, query row), in this order:
    node rows ``[node_start[s] + n * num_rows, + num_rows)`` are node ``n`` of segment ``s``.
    """

    segments_S6: NDArray[np.int32]
    """row_start, num_rows, first_position, leaf_start, num_leaves, node_start of each segment"""
    leaf_index: NDArray[np.int32]
    address: NDArray[np.uint64]
    nodes: tuple[tuple[Node, ...], ...]
    num_node_rows: int

    @staticmethod
    def of(segments: Sequence[Segment]) -> "Piece":
        table: list[tuple[int, ...]] = []
        nodes: list[tuple[Node, ...]] = []
        leaf_start = node_start = 0
        for row_start, num_rows, first_position, leaves, _ in segments:
            at = row_start, num_rows, first_position, leaf_start, len(leaves), node_start
            table.append(at)
            nodes.append(cover(leaves))
            leaf_start += len(leaves)
            node_start += len(nodes[-1]) * num_rows
        all_leaves = [np.asarray(segment.leaves, np.int32) for segment in segments]
        addresses = [np.asarray(segment.addresses, np.uint64) for segment in segments]
        return Piece(
            segments_S6=np.array(table, np.int32).reshape(-1, 6),
            leaf_index=np.concatenate([np.empty(0, np.int32), *all_leaves]),
            address=np.concatenate([np.empty(0, np.uint64), *addresses]),
            nodes=tuple(nodes),
            num_node_rows=node_start,
        )


@dataclass(frozen=True, slots=True)
class MergeProgram:
    """How node rows of all pieces, laid in one buffer, become one partial a query row."""

    merges_M3: NDArray[np.int32]
    """in order: rows ``[left, left + n)`` become the merge of themselves and ``[right, + n)``"""
    roots_S3: NDArray[np.int32]
    """(node row, query row, n): the finished rows; node row -1 where no key is seen"""

    @staticmethod
    def of(rows: Sequence[tuple[int, int]], held: Sequence[dict[Node, int]]) -> "MergeProgram":
        """``rows[s]`` is (row_start, num_rows); ``held[s]`` maps a node to its first buffer row."""
        merges: list[tuple[int, int, int]] = []
        roots: list[tuple[int, int, int]] = []
        for (row_start, num_rows), nodes in zip(rows, held, strict=True):
            at = list(nodes.values())
            pairs, root = _merges(tuple(nodes))
            merges += [(at[left], at[right], num_rows) for left, right in pairs]
            roots.append((at[root] if at else -1, row_start, num_rows))
        return MergeProgram(
            np.array(merges, np.int32).reshape(-1, 3), np.array(roots, np.int32).reshape(-1, 3)
        )


@lru_cache(KNOWN_MERGES)
def _merges(nodes: tuple[Node, ...]) -> tuple[tuple[tuple[int, int], ...], int]:
    """Which of these nodes, by number, are merged in turn, right into left; which is the whole."""
    merges: list[tuple[int, int]] = []
    level_nodes = {node: number for number, node in enumerate(nodes)}
    while len(level_nodes) > 1:
        level = min(node.level for node in level_nodes)
        lifted: dict[Node, int] = {}
        for node in sorted(n for n in level_nodes if n.level == level):
            at = level_nodes.pop(node)
            if node.parent in lifted:
                merges.append((lifted[node.parent], at))
            else:
                lifted[node.parent] = at
        level_nodes |= lifted
    return tuple(merges), next(iter(level_nodes.values()), -1)
