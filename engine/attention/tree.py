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
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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


def cover(leaves: Sequence[int]) -> list[Node]:
    """The fewest nodes that hold exactly these leaves, ascending; ``leaves`` must ascend."""
    nodes: list[Node] = []
    for _, run in groupby(enumerate(leaves), lambda item: item[1] - item[0]):
        numbers = [leaf for _, leaf in run]
        leaf, end = numbers[0], numbers[-1] + 1
        while leaf < end:  # the largest node that begins here and does not reach beyond
            level = (end - leaf).bit_length() - 1
            if leaf:
                level = min(level, (leaf & -leaf).bit_length() - 1)
            nodes.append(Node(level, leaf >> level))
            leaf += 1 << level
    return nodes


class Segment(NamedTuple):
    """Consecutive query rows of one sequence, and the leaves they meet in one piece."""

    row_start: int
    num_rows: int
    first_position: int
    leaves: tuple[int, ...]
    """ascending leaf indexes"""
    addresses: tuple[int, ...]
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
        table = np.zeros((len(segments), 6), np.int32)
        nodes: list[tuple[Node, ...]] = []
        num_leaves = num_node_rows = 0
        for number, segment in enumerate(segments):
            table[number] = (
                segment.row_start,
                segment.num_rows,
                segment.first_position,
                num_leaves,
                len(segment.leaves),
                num_node_rows,
            )
            nodes.append(tuple(cover(segment.leaves)))
            num_leaves += len(segment.leaves)
            num_node_rows += len(nodes[-1]) * segment.num_rows
        leaves = [leaf for segment in segments for leaf in segment.leaves]
        addresses = [address for segment in segments for address in segment.addresses]
        return Piece(
            segments_S6=table,
            leaf_index=np.array(leaves, np.int32),
            address=np.array(addresses, np.uint64),
            nodes=tuple(nodes),
            num_node_rows=num_node_rows,
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
            level_nodes = dict(nodes)
            while len(level_nodes) > 1:
                level = min(node.level for node in level_nodes)
                lifted: dict[Node, int] = {}
                for node in sorted(n for n in level_nodes if n.level == level):
                    at = level_nodes.pop(node)
                    if node.parent in lifted:
                        merges.append((lifted[node.parent], at, num_rows))
                    else:
                        lifted[node.parent] = at
                level_nodes |= lifted
            roots.append((next(iter(level_nodes.values()), -1), row_start, num_rows))
        return MergeProgram(
            np.array(merges, np.int32).reshape(-1, 3), np.array(roots, np.int32).reshape(-1, 3)
        )
