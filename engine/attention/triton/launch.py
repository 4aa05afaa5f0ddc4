"""Launch: runs the kernels over torch tensors of one device, with tiles that suit it."""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from engine import devices
from engine.attention.base import Rotary
from engine.attention.stored import DTYPES, LARGEST
from engine.attention.tree import MergeProgram, Piece
from engine.attention.triton.attend import attend_kernel
from engine.attention.triton.fixed import FixedTables, Sizes
from engine.attention.triton.merge import merge_kernel
from engine.attention.triton.tiles import LEAST_TILE, TILE_BYTES, Tiles
from engine.attention.triton.trees import Tree
from engine.attention.triton.units import Units, level_for
from engine.attention.triton.write import write_kernel
from engine.core import BlockLayout

LOG2_E = 1.4426950408889634
MOST_FIXED = 32
"""sizes of fixed tables that are kept, those that were used last"""


class _Forest(NamedTuple):
    """A Tree on the device."""

    merges: Tensor
    rounds: Tensor
    roots: Tensor
    max_rows: int


class _Batch(NamedTuple):
    """Units on the device."""

    units: Tensor
    num_rows: int
    forest: _Forest | None


class _Tables(NamedTuple):
    """Of one piece; it comes again for each layer of a step, and for steps of decodes."""

    piece: Piece
    segments: Tensor
    leaves: Tensor
    offsets: Tensor
    batches: list[_Batch]


class Launch:
    """``memory``: bytes, from whose first one addresses count; 16 at least, at a multiple of 16.
    All other tensors lie on ``device``, which can reach what the addresses point to."""

    def __init__(
        self, layout: BlockLayout, heads: int, memory: Tensor, device: torch.device, tiles: Tiles
    ) -> None:
        self.tiles = tiles
        self._device = device
        self._layout = layout
        self._heads = heads
        self._items = memory[:16].view(DTYPES[layout.dtype])
        self._scales = memory[:16].view(torch.float32)
        self._query_dtype = DTYPES[layout.query_dtype]
        dim, tokens = layout.head_dim, layout.tokens
        self._tables: _Tables | None = None
        self._programs: list[tuple[MergeProgram, _Forest]] = []
        """the latest two: a layer may merge a piece, then all pieces"""
        self._cut: tuple[Piece, list[Units]] | None = None
        self._kept: dict[Sizes, FixedTables] = {}
        self._fixed: FixedTables | None = None
        """this step's, where it has such"""
        group = heads // layout.kv_heads
        block_m = max(LEAST_TILE, self.tiles.rows, triton.next_power_of_2(group))
        self._tile_tokens = block_m // group
        block_d = max(LEAST_TILE, triton.next_power_of_2(dim))
        most = max(LEAST_TILE, TILE_BYTES // (block_d * self._query_dtype.itemsize))
        self.attend_constants: dict[str, Any] = {
            "HEADS": heads,
            "GROUP": group,
            "TOKENS": tokens,
            "DIM": dim,
            "TILE_TOKENS": self._tile_tokens,
            "BLOCK_M": block_m,
            "BLOCK_C": min(most, max(LEAST_TILE, triton.next_power_of_2(tokens))),
            "BLOCK_D": block_d,
            "HEAD_BYTES": layout.head_bytes,
            "SCALES_BYTES": layout.scales_offset if layout.is_scaled else 0,
            "ITEM_BYTES": self._items.element_size(),
            "ALIGN": gcd(layout.head_bytes // self._items.element_size(), 16),
            "INTERPRETED": bool(triton.knobs.runtime.interpret),
            "num_warps": 4 if block_m < 64 else 8,
            "num_stages": 2,
        }
        self.merge_constants = {
            "HEADS": heads,
            "DIM": dim,
            "BLOCK_D": block_d,
            "PAIRS": tiles.pairs,
            "AT_ONCE": tiles.merges,
        }
        self.write_constants = {
            "KV_HEADS": layout.kv_heads,
            "HEAD_BYTES": layout.head_bytes,
            "ITEM_BYTES": self._items.element_size(),
            "TOKENS": tokens,
            "DIM": dim,
            "BLOCK_D": block_d,
            "PAIRS": tiles.writes,
            "LARGEST": int(LARGEST.get(layout.dtype, 0)),
        }

    def attend(
        self, piece: Piece, q_THD: Tensor, layer: int, scale: float, out_RHD: Tensor, lse_RH: Tensor
    ) -> None:
        """Fill the piece's node rows, float32; ``q`` has the layout's dtype of queries."""
        assert q_THD.dtype == self._query_dtype
        tables = self._tables
        if self._fixed is not None:
            tables = _fixed_tables(piece, self._fixed)
        elif tables is None or tables.piece is not piece:
            tables = self._tables = self._tables_of(piece)
        shape = (self._heads, self._layout.head_dim)
        for units, num_rows, forest in tables.batches:
            out, lse = out_RHD, lse_RH
            if forest is not None:
                out = out_RHD.new_empty(num_rows, *shape)
                lse = lse_RH.new_empty(num_rows, self._heads)
            if len(units):
                attend_kernel[len(units), self._layout.kv_heads](
                    q_THD,
                    self._items,
                    self._scales,
                    tables.segments,
                    units,
                    tables.leaves,
                    tables.offsets,
                    out,
                    lse,
                    layer * self._layout.layer_bytes,
                    scale * LOG2_E,
                    **self.attend_constants,
                )
            if forest is not None:
                self._merge(forest, out, lse, out_RHD, lse_RH)

    def moved_on(self) -> None:
        """A new step: the positions of the piece's segments may have changed."""
        self._fixed = None
        if self._tables is not None:
            segments = self._put(self._tables.piece.segments_S6)
            self._tables.segments.copy_(segments, non_blocking=True)

    def fix(
        self,
        piece: Piece,
        program: MergeProgram,
        slots_2T: NDArray[np.int64],
        num_node_rows: int,
    ) -> FixedTables | None:
        """Until the step moves on, launches take what these tables say, which are the same tensors
        for all steps of the same Sizes. Each segment has one row; None where there is too much."""
        if self._cut is None or self._cut[0] is not piece:
            self._cut = piece, self._units_of(piece)
        if len(self._cut[1]) != 1:
            return None
        (units,) = self._cut[1]
        sizes = Sizes.of(piece, units, len(piece.segments_S6), num_node_rows)
        fixed = self._kept.pop(sizes, None)
        if fixed is None:
            fixed = FixedTables(sizes, self._heads, self._layout.head_dim, self._device)
        self._kept = {**dict(list(self._kept.items())[1 - MOST_FIXED :]), sizes: fixed}
        fixed.fill(piece, program, units, self._offsets_of(piece), slots_2T)
        self._fixed, self._tables = fixed, None
        return fixed

    def merge(
        self,
        program: MergeProgram,
        out_RHD: Tensor,
        lse_RH: Tensor,
        out_THD: Tensor,
        lse_TH: Tensor,
    ) -> None:
        """Run the program over node rows (which it overwrites) into finished rows."""
        known = next((forest for of, forest in self._programs if of is program), None)
        if self._fixed is not None:
            known = _fixed_forest(self._fixed, "step")
        elif known is None:
            known = self._forest(Tree.of(program))
            self._programs = [*self._programs[-1:], (program, known)]
        self._merge(known, out_RHD, lse_RH, out_THD, lse_TH)

    def write(self, k_TKD: Tensor, v_TKD: Tensor, slots_2T: Tensor, layer: int) -> None:
        """``slots_2T``: int64 items from the memory's first to the key row of layer 0, head 0;
        float32 numbers to its scale."""
        self._write(k_TKD, v_TKD, None, v_TKD, slots_2T, layer)

    def write_rotated(
        self, qk_TJD: Tensor, v_TKD: Tensor, rotary: Rotary, slots_2T: Tensor, layer: int
    ) -> Tensor:
        """The same with the last K heads of ``qk_TJD`` rotated; the H before them, rotated too."""
        q_THD = v_TKD.new_empty(len(v_TKD), self._heads, self._layout.head_dim)
        self._write(qk_TJD, v_TKD, rotary, q_THD, slots_2T, layer)
        return q_THD

    def _write(
        self,
        keys: Tensor,
        v_TKD: Tensor,
        rotary: Rotary | None,
        turned_THD: Tensor,
        slots_2T: Tensor,
        layer: int,
    ) -> None:
        assert v_TKD.dtype == self._query_dtype
        layout = self._layout
        heads = self._heads if rotary else 0
        pairs = len(v_TKD) * max(heads, layout.kv_heads)
        if pairs:
            write_kernel[triton.cdiv(pairs, self.tiles.writes), 2 if rotary else 1](
                keys,
                v_TKD,
                *(rotary or (self._scales, self._scales)),
                turned_THD,
                self._items.view(torch.int8) if self._layout.is_scaled else self._items,
                self._scales,
                *slots_2T,
                layer * layout.layer_bytes,
                len(v_TKD),
                HEADS=heads,
                **self.write_constants,
            )

    def _merge(
        self, forest: _Forest, rows: Tensor, rows_lse: Tensor, to: Tensor, lse: Tensor
    ) -> None:
        pairs = forest.max_rows * self._heads
        if pairs:
            merge_kernel[len(forest.roots), triton.cdiv(pairs, self.tiles.pairs)](
                rows,
                rows_lse,
                forest.merges,
                forest.rounds,
                forest.roots,
                to,
                lse,
                **self.merge_constants,
            )

    def _tables_of(self, piece: Piece) -> _Tables:
        return _Tables(
            piece,
            self._put(piece.segments_S6.copy()),
            self._put(piece.leaf_index),
            self._put(self._offsets_of(piece)),
            [
                _Batch(self._put(u.units_U5), u.num_rows, self._forest(u.tree) if u.tree else None)
                for u in self._units_of(piece)
            ],
        )

    def _units_of(self, piece: Piece) -> list[Units]:
        tile, kv_heads = self._tile_tokens, self._layout.kv_heads
        level = level_for(piece, tile, kv_heads, self.tiles.programs)
        row_bytes = 4 * self._heads * (self._layout.head_dim + 1)
        return Units.of(piece, tile, level, self.tiles.scratch_bytes // row_bytes)

    def _offsets_of(self, piece: Piece) -> NDArray[np.int64]:
        """Items from the memory's first to each leaf's rBlock."""
        from_first = piece.address.astype(np.int64) - self._items.data_ptr()
        offsets: NDArray[np.int64] = from_first // self._items.element_size()
        return offsets

    def _forest(self, tree: Tree) -> _Forest:
        merges, rounds, roots = map(self._put, (tree.merges_M2, tree.rounds, tree.roots_S5))
        return _Forest(merges, rounds, roots, tree.max_rows)

    def _put(self, table: NDArray[Any]) -> Tensor:
        return devices.sent(torch.from_numpy(np.ascontiguousarray(table)), self._device)


def _fixed_tables(piece: Piece, fixed: FixedTables) -> _Tables:
    forest = _fixed_forest(fixed, "parts") if fixed.sizes.is_cut_up else None
    batch = _Batch(fixed["units"], fixed.sizes.units, forest)
    return _Tables(piece, fixed["segments"], fixed["leaves"], fixed["offsets"], [batch])


def _fixed_forest(fixed: FixedTables, name: str) -> _Forest:
    """Of partials of one row each."""
    return _Forest(fixed[f"{name} merges"], fixed[f"{name} rounds"], fixed[f"{name} roots"], 1)
