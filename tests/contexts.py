"""A sequence's keys and values in scattered rBlocks, garbage wherever none was written."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from engine.attention.base import Kernel
from engine.attention.stored import blocks_of, narrow
from engine.attention.tree import MergeProgram, Node, Piece, Segment
from engine.core import BlockLayout

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
KV_DTYPES = st.one_of(
    st.sampled_from(list(DTYPES)).map(lambda dtype: {"dtype": dtype}),
    st.fixed_dictionaries(
        {"dtype": st.sampled_from(["int8", "fp8"]), "queries": st.sampled_from(list(DTYPES))}
    ),
)
"""what a layout says of keys, values and queries"""


def bits(array: np.ndarray[Any, Any]) -> bytes:
    return np.ascontiguousarray(array).tobytes()


class Context:
    """``num_keys`` keys of one layer; ``rows`` queries at its last positions (T >= 1)."""

    def __init__(
        self,
        layout: BlockLayout,
        *,
        num_keys: int,
        rows: int,
        group: int,
        seed: int,
        size: float = 1.0,
        layer: int = 0,
    ) -> None:
        self.layout, self.num_keys, self.layer = layout, num_keys, layer
        self.heads, self.scale = layout.kv_heads * group, layout.head_dim**-0.5
        self.first_position = num_keys - rows
        torch_dtype = DTYPES[layout.query_dtype]
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return (size * torch.randn(shape, generator=random)).to(torch_dtype)

        self.q_THD = normal(rows, self.heads, layout.head_dim)
        self.k_SKD = normal(num_keys, layout.kv_heads, layout.head_dim)
        self.v_SKD = normal(num_keys, layout.kv_heads, layout.head_dim)
        self.num_leaves = layout.blocks_for(num_keys)
        order = torch.randperm(self.num_leaves + 1, generator=random)[: self.num_leaves].tolist()
        # Every byte that holds no key is part of a NaN.
        memory = torch.full((self.num_leaves + 1, layout.block_bytes), 0xFF, dtype=torch.uint8)
        self.memory = memory
        self.k_SKD, k_scales_SK = self._stored(self.k_SKD)
        self.v_SKD, v_scales_SK = self._stored(self.v_SKD)
        items, scales = blocks_of(memory.view(-1), layout)
        for leaf, block in enumerate(order):
            at = slice(leaf * layout.tokens, min((leaf + 1) * layout.tokens, num_keys))
            count = at.stop - at.start
            for part, x_SKD in enumerate((self.k_SKD, self.v_SKD)):
                items[block, layer, :, part, :count] = x_SKD[at].transpose(0, 1)
            if scales is not None:
                for part, x_SK in enumerate((k_scales_SK, v_scales_SK)):
                    scales[block, layer, :, part, :count] = x_SK[at].T
        if layout.is_scaled:  # from here on keys and values are what is stored
            self.k_SKD = self.k_SKD.float() * k_scales_SK[..., None]
            self.v_SKD = self.v_SKD.float() * v_scales_SK[..., None]
        self.addresses = [memory.data_ptr() + block * layout.block_bytes for block in order]

    def _stored(self, x_SKD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.layout.is_scaled:
            return x_SKD, torch.ones(x_SKD.shape[:2])
        return narrow(x_SKD, self.layout.dtype)

    def fill_behind_the_last_key(self, item: float) -> None:
        """Numbers instead of NaN where no key is in the last leaf."""
        block = (self.addresses[-1] - self.memory.data_ptr()) // self.layout.block_bytes
        if end := self.num_keys % self.layout.tokens:
            for view in blocks_of(self.memory.view(-1), self.layout):
                if view is not None:
                    view[block, :, :, :, end:] = item

    @property
    def q(self) -> np.ndarray[Any, Any]:
        bfloat16 = self.q_THD.dtype == torch.bfloat16
        return (self.q_THD.view(torch.uint16) if bfloat16 else self.q_THD).numpy()

    def segment(self, leaves: Sequence[int], from_row: int = 0, num_rows: int = -1) -> Segment:
        num_rows = len(self.q_THD) - from_row if num_rows < 0 else num_rows
        addresses = tuple(self.addresses[leaf] for leaf in leaves)
        first = self.first_position + from_row
        return Segment(from_row, num_rows, first, tuple(leaves), addresses)

    def attend(self, kernel: Kernel, segments: Sequence[Segment]) -> "Rows":
        piece = Piece.of(segments)
        rows = Rows(self, piece)
        kernel.attend(piece, self.q, self.layout, self.layer, self.scale, rows.out, rows.lse)
        return rows

    def whole(self, kernel: Kernel, cuts: Sequence[Segment]) -> tuple[Any, Any]:
        """Finished rows: each segment is its own piece; those of equal rows are merged."""
        pieces = [self.attend(kernel, [cut]) for cut in cuts]
        held: dict[tuple[int, int], dict[Node, int]] = {}
        base = 0
        for cut, rows in zip(cuts, pieces, strict=True):
            nodes = held.setdefault((cut.row_start, cut.num_rows), {})
            for number, node in enumerate(rows.piece.nodes[0]):
                nodes[node] = base + number * cut.num_rows
            base += len(rows.lse)
        program = MergeProgram.of(list(held), list(held.values()))
        out = np.concatenate([rows.out for rows in pieces])
        lse = np.concatenate([rows.lse for rows in pieces])
        out_THD = np.full(self.q_THD.shape, np.nan, np.float32)
        lse_TH = np.full(self.q_THD.shape[:2], np.nan, np.float32)
        kernel.merge(program, out, lse, out_THD, lse_TH)
        return out_THD, lse_TH


class Rows:
    """A piece's node rows, filled with NaN before the kernel runs."""

    def __init__(self, context: Context, piece: Piece) -> None:
        self.piece = piece
        shape = (piece.num_node_rows, context.heads, context.layout.head_dim)
        self.out = np.full(shape, np.nan, np.float32)
        self.lse = np.full(shape[:2], np.nan, np.float32)

    def node(self, segment: int, node: Node) -> tuple[Any, Any]:
        _, num_rows, _, _, _, start = self.piece.segments_S6[segment].tolist()
        start += self.piece.nodes[segment].index(node) * num_rows
        return self.out[start : start + num_rows], self.lse[start : start + num_rows]
