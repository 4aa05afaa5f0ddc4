"""FixedTables: a step's tables where those of later steps will be, for replayed launches.

A replayed launch has the grid and the pointers of the one that was recorded. So tables have room
for more than a step needs, and what is left over does nothing: units without rows, roots without
rows, rows without a slot. No triton.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.fixed import Fixed
from engine.attention.local import NodeRows
from engine.attention.tree import MergeProgram, Piece
from engine.attention.triton.trees import Tree
from engine.attention.triton.units import Units

ALIGN = 16
"""bytes; triton compiles other kernels for pointers that are no multiples of it"""
IDLE_ROOT = (-1, 0, 0, 0, 0)


class Sizes(NamedTuple):
    """Room of the tables: equal ones can have one step after the other."""

    queries: int
    leaves: int
    units: int
    node_rows: int
    is_cut_up: bool
    """whether units are parts of nodes, which a tree of their own brings together"""

    @staticmethod
    def of(piece: Piece, units: Units, num_queries: int, num_node_rows: int) -> Sizes:
        return Sizes(
            padded(num_queries),
            _power(len(piece.leaf_index)),
            _power(len(units.units_U5)),
            _power(num_node_rows),
            units.tree is not None,
        )


def padded(num_queries: int) -> int:
    """Rows of a step with so many: a power of two, above 16 a multiple of that."""
    return _power(num_queries) if num_queries <= 16 else -(-num_queries // 16) * 16


def _power(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


class FixedTables(Fixed):
    """All tables of decodes lie in one buffer, so one copy brings them to the device."""

    def __init__(self, sizes: Sizes, heads: int, dim: int, device: torch.device) -> None:
        self.sizes, self.num_queries = sizes, sizes.queries
        self.rows = NodeRows(
            torch.zeros(sizes.node_rows, heads, dim, device=device),
            torch.zeros(sizes.node_rows, heads, device=device),
        )
        queries, leaves, units, node_rows, is_cut_up = sizes
        shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "slots": (np.int64, (2, queries)),
            "offsets": (np.int64, (leaves,)),
            "leaves": (np.int32, (leaves,)),
            "segments": (np.int32, (queries + 1, 6)),
            "units": (np.int32, (units, 5)),
            **_tree_shapes("step", node_rows, queries),
            **(_tree_shapes("parts", leaves, node_rows) if is_cut_up else {}),
        }
        ends = np.cumsum([-(-_bytes(*of) // ALIGN) * ALIGN for of in shapes.values()]).tolist()
        starts = [0, *ends[:-1]]
        on_gpu = device.type == "cuda"
        host = torch.zeros(ends[-1], dtype=torch.uint8, pin_memory=on_gpu)
        self._host, self._there = host, host.to(device)
        self._tables: dict[str, NDArray[np.generic]] = {}
        self._views: dict[str, Tensor] = {}
        for start, (name, (dtype, shape)) in zip(starts, shapes.items(), strict=True):
            part = slice(start, start + _bytes(dtype, shape))
            self._tables[name] = host[part].numpy().view(dtype).reshape(shape)
            of = torch.int64 if dtype is np.int64 else torch.int32
            self._views[name] = self._there[part].view(of).view(shape)
        self._filled: tuple[Piece, MergeProgram] | None = None

    def __getitem__(self, name: str) -> Tensor:
        """The table on the device."""
        return self._views[name]

    def fill(
        self,
        piece: Piece,
        program: MergeProgram,
        units: Units,
        offsets: NDArray[np.int64],
        slots_2T: NDArray[np.int64],
    ) -> None:
        """A step's tables, behind what was launched before; its rows are one query each.

        The step before must be done: it may read the buffer that is filled.
        """
        queries, num_queries = self.sizes.queries, len(piece.segments_S6)
        self._put("segments", piece.segments_S6, 0)
        self._tables["slots"][:, :num_queries] = slots_2T
        self._tables["slots"][:, num_queries:] = -1
        known = self._filled
        if known is None or known[0] is not piece or known[1] is not program:
            self._filled = piece, program
            self._put("leaves", piece.leaf_index, 0)
            self._put("offsets", offsets, 0)
            self._put("units", units.units_U5, (queries, 0, 0, 0, 0))
            tree = Tree.of(program)
            nothing = [(-1, row, 1, 0, 0) for row in range(num_queries, queries)]
            self._put_tree("step", tree, [*tree.roots_S5.tolist(), *nothing])
            if units.tree is not None:
                self._put_tree("parts", units.tree, units.tree.roots_S5.tolist())
        if self._there is not self._host:
            self._there.copy_(self._host, non_blocking=True)

    def _put_tree(self, name: str, tree: Tree, roots: Iterable[tuple[int, ...]]) -> None:
        self._put(f"{name} merges", tree.merges_M2, 0)
        self._put(f"{name} rounds", tree.rounds, 0)
        self._put(f"{name} roots", np.array(list(roots), np.int32).reshape(-1, 5), IDLE_ROOT)

    def _put(self, name: str, rows: NDArray[np.generic], rest: int | tuple[int, ...]) -> None:
        table = self._tables[name]
        table[: len(rows)], table[len(rows) :] = rows, np.array(rest, table.dtype)


def _tree_shapes(
    name: str, most_leaves: int, num_roots: int
) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """A tree of so many leaves has fewer merges, and at most as many rounds."""
    return {
        f"{name} merges": (np.int32, (most_leaves, 2)),
        f"{name} rounds": (np.int32, (most_leaves + 1,)),
        f"{name} roots": (np.int32, (num_roots, 5)),
    }


def _bytes(dtype: type[np.generic], shape: tuple[int, ...]) -> int:
    return int(np.dtype(dtype).itemsize * np.prod(shape))
