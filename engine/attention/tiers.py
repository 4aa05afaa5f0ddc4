"""Tiers: which leaves of a piece are attended where, when some lie on a device and some do not.

The piece is cut in two: leaves that the device's backend reads, and leaves that the host's does.
Each part has its own nodes, and merging them along the tree gives the nodes of the whole. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from engine.attention.tree import MergeProgram, Node, Piece, Segment


@dataclass(frozen=True, slots=True)
class Parts:
    """Node rows of ``near`` come first in one buffer, those of ``far`` behind them."""

    whole: Piece
    near: Piece
    far: Piece
    program: MergeProgram
    """from the rows of both to the node rows of the whole"""
    copies: Mapping[int, int]
    """address of a leaf in host memory -> address of the copy that the near part reads"""

    @staticmethod
    def of(whole: Piece, is_near: Callable[[int], bool], copies: Mapping[int, int]) -> Parts:
        """``copies`` names far addresses that are read near, elsewhere."""
        near: list[Segment] = []
        far: list[Segment] = []
        for row_start, num_rows, position, first, num_leaves, _ in whole.segments_S6.tolist():
            leaves = whole.leaf_index[first : first + num_leaves].tolist()
            addresses = whole.address[first : first + num_leaves].tolist()
            at_near, at_far = {}, {}
            for leaf, address in zip(leaves, addresses, strict=True):
                if is_near(address) or address in copies:
                    at_near[leaf] = copies.get(address, address)
                else:
                    at_far[leaf] = address
            near.append(_segment(row_start, num_rows, position, at_near))
            far.append(_segment(row_start, num_rows, position, at_far))
        parts = Piece.of(near), Piece.of(far)
        rows, held = [], []
        for number, nodes in enumerate(whole.nodes):
            _, num_rows, _, _, _, to = whole.segments_S6[number].tolist()
            found: dict[Node, int] = {}
            for part, base in zip(parts, (0, parts[0].num_node_rows), strict=True):
                first_row = base + int(part.segments_S6[number, 5])
                for index, node in enumerate(part.nodes[number]):
                    found[node] = first_row + index * num_rows
            for index, node in enumerate(nodes):
                rows.append((to + index * num_rows, num_rows))
                held.append({one: at for one, at in found.items() if _covers(node, one)})
        return Parts(whole, *parts, MergeProgram.of(rows, held), dict(copies))

    def go_on(self) -> None:
        """The whole has later positions."""
        for part in (self.near, self.far):
            np.copyto(part.segments_S6[:, 2], self.whole.segments_S6[:, 2])

    @property
    def num_row_keys(self) -> int:
        """Query rows times leaves of the far part."""
        table = self.far.segments_S6
        return int((table[:, 1] * table[:, 4]).sum())


def rows_by_address(piece: Piece, wanted: range) -> Counter[int]:
    """How many query rows read each leaf whose address is in ``wanted``."""
    found: Counter[int] = Counter()
    for _, num_rows, _, first, num_leaves, _ in piece.segments_S6.tolist():
        for address in piece.address[first : first + num_leaves].tolist():
            if address in wanted:
                found[address] += num_rows
    return found


def _segment(row_start: int, num_rows: int, position: int, leaves: Mapping[int, int]) -> Segment:
    return Segment(row_start, num_rows, position, tuple(leaves), tuple(leaves.values()))


def _covers(node: Node, one: Node) -> bool:
    return one.level <= node.level and one.index >> (node.level - one.level) == node.index
