"""Units: a piece cut into what the attention kernel's programs compute. No triton, no torch.

A unit is some query tokens of a segment over the leaves of one node of the tree. Nodes larger than
``2 ** level`` leaves are cut into subtrees of that size, whose partials the merge kernel brings
together: so long contexts keep a whole GPU busy, and no bit depends on where they are cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from engine.attention.tree import Piece
from engine.attention.triton.trees import Tree, numbered

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
        nodes_N5 = _nodes(piece)
        segment_N, level_N, _, _, tokens_N = nodes_N5.T
        rows_N = tokens_N << np.maximum(level_N - level, 0)
        rows_S = np.bincount(segment_N, rows_N, len(piece.nodes))
        starts: list[int] = []
        taken = 0
        for number, rows in enumerate(rows_S.tolist()):
            if not starts or taken + rows > max_rows:
                starts.append(number)
                taken = 0
            taken += rows
        batches = np.split(nodes_N5, np.searchsorted(segment_N, starts[1:]))
        return [_units(batch, tile_tokens, level) for batch in batches] if starts else []


def level_for(piece: Piece, tile_tokens: int, kv_heads: int, enough: int) -> int:
    """The highest level that still gives ``enough`` programs, else 0."""
    _, level_N, _, _, tokens_N = _nodes(piece).T
    tiles_N = -(-tokens_N // tile_tokens)
    for level in range(MAX_LEVEL, 0, -1):
        if kv_heads * (tiles_N << np.maximum(level_N - level, 0)).sum() >= enough:
            return level
    return 0


def _nodes(piece: Piece) -> NDArray[np.int64]:
    """Of each node: segment, level, first leaf, first node row, number of query tokens [N, 5]."""
    segment_N, _ = numbered(np.array([len(own) for own in piece.nodes], np.int64))
    level_N = np.array([node.level for node in chain.from_iterable(piece.nodes)], np.int64)
    tokens_N = piece.segments_S6[segment_N, 1].astype(np.int64)
    leaves_N = 1 << level_N
    before = (np.cumsum(x_N) - x_N for x_N in (leaves_N, tokens_N))
    return np.stack([segment_N, level_N, *before, tokens_N], 1)


def _units(nodes_N5: NDArray[np.int64], tile_tokens: int, level: int) -> Units:
    """Of these nodes; for each its parts, and for each of them its tiles of tokens."""
    segment_N, level_N, first_leaf_N, node_row_N, tokens_N = nodes_N5[nodes_N5[:, 4] > 0].T
    depth_N, leaves_N = np.maximum(level_N - level, 0), 1 << np.minimum(level_N, level)
    rows_N, tiles_N = tokens_N << depth_N, -(-tokens_N // tile_tokens)
    is_cut_up = bool(depth_N.any())
    at_N = np.cumsum(rows_N) - rows_N if is_cut_up else node_row_N
    node_U, number_U = numbered(tiles_N << depth_N)
    part_U, tile_U = np.divmod(number_U, tiles_N[node_U])
    token_U = tile_U * tile_tokens
    first_leaf_U = first_leaf_N[node_U] + part_U * leaves_N[node_U]
    row_U = at_N[node_U] + part_U * tokens_N[node_U] + token_U
    units_U5 = np.stack([segment_N[node_U], token_U, first_leaf_U, leaves_N[node_U], row_U], 1)
    return Units(
        units_U5.astype(np.int32),
        int(rows_N.sum()) if is_cut_up else 0,
        Tree.over(at_N, depth_N, tokens_N, node_row_N) if is_cut_up else None,
    )
