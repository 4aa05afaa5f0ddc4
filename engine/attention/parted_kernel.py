"""PartedKernel: answers others from a pool whose heads lie on several devices.

Whoever asks may have other ranks than this instance, or none: each device attends to those of the
heads that are asked for and lie there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import devices
from engine.attention.backend_kernel import BackendKernel, Make
from engine.attention.base import Kernel
from engine.attention.tree import MergeProgram, Piece
from engine.core import BlockLayout
from engine.memory.base import MemoryPool


class PartedKernel(Kernel):
    """A BackendKernel for each of the pool's ``parts``."""

    def __init__(
        self, make_over: Callable[[MemoryPool], Make], num_heads: int, pool: MemoryPool
    ) -> None:
        group = num_heads // pool.layout.kv_heads
        self._block_bytes = pool.layout.block_bytes
        self._parts: list[tuple[range, MemoryPool, BackendKernel]] = []
        for heads, part in pool.parts:
            with devices.on(part.device):
                kernel = BackendKernel(make_over(part), group * len(heads), part.layout)
            self._parts.append((heads, part, kernel))
        self._first = self._parts[0][2]
        self.fingerprint = self._first.fingerprint

    def attend(
        self,
        piece: Piece,
        q_THD: NDArray[Any],
        layout: BlockLayout,
        layer: int,
        scale: float,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
    ) -> None:
        group, first = q_THD.shape[1] // layout.kv_heads, layout.first_kv_head
        offset_N = piece.address.astype(np.int64) - layout.offset_bytes
        block_N = offset_N // self._block_bytes
        for heads, part, own, kernel in self._of(range(first, first + layout.kv_heads)):
            there = part.layout
            if own != heads:
                there = there.part(range(own.start - heads.start, own.stop - heads.start))
            start = part.block_address(0) + there.offset_bytes
            address = (start + block_N * there.block_bytes).astype(np.uint64)
            rows = slice(group * (own.start - first), group * (own.stop - first))
            with devices.on(part.device):
                kernel.attend(
                    replace(piece, address=address),
                    q_THD[:, rows],
                    there,
                    layer,
                    scale,
                    out_RHD[:, rows],
                    lse_RH[:, rows],
                )

    def merge(
        self,
        program: MergeProgram,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
        out_THD: NDArray[np.float32],
        lse_TH: NDArray[np.float32],
    ) -> None:
        self._first.merge(program, out_RHD, lse_RH, out_THD, lse_TH)

    def _of(self, wanted: range) -> Iterator[tuple[range, MemoryPool, range, BackendKernel]]:
        """Each part that has some of these heads: its heads, where they lie, and which of them it
        is to attend to. A head that several ranks have is asked of the first."""
        at = wanted.start
        for heads, part, kernel in self._parts:
            own = range(max(heads.start, at), min(heads.stop, wanted.stop))
            if own:
                yield heads, part, own, kernel
                at = own.stop
