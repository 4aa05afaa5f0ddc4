"""Units: a piece cut into what the attention kernel's programs compute. No triton, no torch.

A unit is some query tokens of a segment over the leaves of one node of the tree. Nodes larger than
``2 ** level`` leaves are cut into subtrees of that size, whose partials the merge kernel brings
together: so long contexts keep a whole GPU busy, and no bit depends on where they are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.attention.tree import Piece
from engine.attention.triton.trees import Perfect, Tree

MAX_LEVEL = 3
"""a program merges up to 8 leaves by itself (``attend_kernel``)"""


@dataclass(frozen=True, slots=True)
class Units:
    """Of some of a piece's segments."""

    units_U5: NDArray[np.int32]
    """segment, first token, first leaf, number of leaves, first row of its partials"""
    num_rows: int
    """rows of a buffer for the partials; 0 where they are the piece's node rows"""
    tree: Tree | None
    """makes node rows of that buffer"""

    @staticmethod
    def of(piece: Piece, tile_tokens: int, level: int, max_rows: int) -> list[Units]:
        """All segments, in batches whose partials take at most ``max_rows`` rows if possible."""
        batches: list[Units] = []
        batch: list[int] = []
        taken = 0
        for number, (at, nodes) in enumerate(zip(piece.segments_S6, piece.nodes, strict=True)):
            rows = int(at[1]) * sum(1 << max(0, node.level - level) for node in nodes)
            if batch and taken + rows > max_rows:
                batches.append(_units(piece, batch, tile_tokens, level))
                batch, taken = [], 0
            batch.append(number)
            taken += rows
        return [*batches, _units(piece, batch, tile_tokens, level)] if batch else batches


def level_for(piece: Piece, tile_tokens: int, kv_heads: int, enough: int) -> int:
    """The highest level that still gives ``enough`` programs, else 0."""
    tiles = [-(-int(rows) // tile_tokens) for rows in piece.segments_S6[:, 1]]
    for level in range(MAX_LEVEL, 0, -1):
        parts = [sum(1 << max(0, node.level - level) for node in nodes) for nodes in piece.nodes]
        if kv_heads * sum(a * b for a, b in zip(tiles, parts, strict=True)) >= enough:
            return level
    return 0


def _units(piece: Piece, segments: list[int], tile_tokens: int, level: int) -> Units:
    cut_up = any(node.level > level for number in segments for node in piece.nodes[number])
    units = [np.empty((0, 5), np.int32)]
    perfect: list[Perfect] = []
    row = 0
    for number in segments:
        num_tokens = int(piece.segments_S6[number, 1])
        if not num_tokens:
            continue
        tokens = np.arange(0, num_tokens, tile_tokens, dtype=np.int32)
        for first_leaf, num_leaves, num_parts, node_row in _nodes(piece, number, level):
            at = row if cut_up else node_row
            part = np.arange(num_parts, dtype=np.int32).repeat(len(tokens))
            token = np.tile(tokens, num_parts)
            unit = np.empty((len(part), 5), np.int32)
            unit[:, 0], unit[:, 1], unit[:, 3] = number, token, num_leaves
            unit[:, 2] = first_leaf + part * num_leaves
            unit[:, 4] = at + part * num_tokens + token
            units.append(unit)
            perfect.append(Perfect(at, num_parts, num_tokens, node_row))
            row += num_parts * num_tokens
    tree = Tree.over(perfect) if cut_up else None
    return Units(np.concatenate(units), row if cut_up else 0, tree)


def _nodes(piece: Piece, number: int, level: int) -> Iterator[tuple[int, int, int, int]]:
    """For each node: first leaf, leaves of a part, number of parts, node row."""
    _, num_tokens, _, first_leaf, _, node_row = piece.segments_S6[number].tolist()
    for node in piece.nodes[number]:
        part = min(node.level, level)
        yield first_leaf, 1 << part, 1 << (node.level - part), node_row
        first_leaf += 1 << node.level
        node_row += num_tokens
