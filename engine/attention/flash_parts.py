"""What flash attention is asked for: no torch.

A flash kernel takes many (queries, keys) pairs in one call; either every query sees every key, or
the last query sees all keys and each one before it one fewer. So the rows of a node are cut in two:
those within the node's keys, and those behind them. Rows before its first key see nothing and are
left out: libraries do not agree on what they get.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.attention.tree import Piece


class Part(NamedTuple):
    """``num_rows`` queries over the first ``num_keys`` keys from ``first_leaf`` on."""

    causal: bool
    query_row: int
    num_rows: int
    first_leaf: int
    """index into the piece's leaves"""
    num_keys: int
    node_row: int


class Packed(NamedTuple):
    """Parts of one call, by where their rows and keys are taken from and where results go."""

    query_rows: NDArray[np.int64]
    keys: NDArray[np.int64]
    """token ``c`` of leaf ``n`` is ``n * tokens + c``"""
    node_rows: NDArray[np.int64]
    query_ends: NDArray[np.int32]
    """0, then where each part's rows end"""
    key_ends: NDArray[np.int32]
    most_rows: int
    most_keys: int

    @staticmethod
    def of(parts: Sequence[Part], tokens: int) -> "Packed":
        rows = [part.num_rows for part in parts]
        keys = [part.num_keys for part in parts]

        def ranges(starts: list[int], counts: list[int]) -> NDArray[np.int64]:
            spans = [np.arange(a, a + n) for a, n in zip(starts, counts, strict=True)]
            return np.concatenate([np.empty(0, np.int64), *spans])

        return Packed(
            query_rows=ranges([part.query_row for part in parts], rows),
            keys=ranges([part.first_leaf * tokens for part in parts], keys),
            node_rows=ranges([part.node_row for part in parts], rows),
            query_ends=np.cumsum([0, *rows], dtype=np.int32),
            key_ends=np.cumsum([0, *keys], dtype=np.int32),
            most_rows=max(rows, default=0),
            most_keys=max(keys, default=0),
        )


def parts_of(piece: Piece, tokens: int) -> Iterator[Part]:
    """All that the piece's rows see, node by node."""
    for at, nodes in zip(piece.segments_S6.tolist(), piece.nodes, strict=True):
        row_start, num_rows, first_position, first_leaf, _, node_row = at
        for node in nodes:
            start, num_keys = (node.index << node.level) * tokens, tokens << node.level
            seeing = max(0, start - first_position)
            behind = min(num_rows, max(seeing, start + num_keys - first_position))
            for causal, from_row, to_row, keys in (
                (behind - seeing > 1, seeing, behind, first_position + behind - start),
                (False, behind, num_rows, num_keys),
            ):
                if to_row > from_row:
                    yield Part(
                        causal=causal,
                        query_row=row_start + from_row,
                        num_rows=to_row - from_row,
                        first_leaf=first_leaf,
                        num_keys=keys,
                        node_row=node_row + from_row,
                    )
            first_leaf += 1 << node.level
            node_row += num_rows
