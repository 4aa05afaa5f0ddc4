"""PartedKernel: answers others from a pool whose heads lie on several devices.

Whoever asks may have other ranks than this instance, or none: each device attends to those of the
heads that are asked for and lie there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
    """A BackendKernel for each of the pool's ``parts``. A piece is asked with the same heads in all
    layers."""

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
        self._known: Piece | None = None
        self._asked: list[_Asked] = []
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
        if self._known is not piece:  # it comes again for each layer of a step
            self._known, self._asked = piece, list(self._asked_of(piece, layout))
        group = q_THD.shape[1] // layout.kv_heads
        for one in self._asked:
            rows = slice(group * one.heads.start, group * one.heads.stop)
            with devices.on(one.device):
                one.kernel.attend(
                    one.piece,
                    q_THD[:, rows],
                    one.layout,
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

    def _asked_of(self, piece: Piece, layout: BlockLayout) -> Iterator[_Asked]:
        first = layout.first_kv_head
        offset_N = piece.address.astype(np.int64) - layout.offset_bytes
        blocks = (offset_N // self._block_bytes).tolist()
        for heads, part, own, kernel in self._of(range(first, first + layout.kv_heads)):
            there = part.layout
            if own != heads:
                there = there.part(range(own.start - heads.start, own.stop - heads.start))
            address = np.array([part.block_address(block) for block in blocks], np.uint64)
            yield _Asked(
                range(own.start - first, own.stop - first),
                part.device,
                kernel,
                there,
                replace(piece, address=address + np.uint64(there.offset_bytes)),
            )

    def _of(self, wanted: range) -> Iterator[tuple[range, MemoryPool, range, BackendKernel]]:
        """Each part that has some of these heads: its heads, where they lie, and which of them it
        is to attend to. A head that several ranks have is asked of the first."""
        at = wanted.start
        for heads, part, kernel in self._parts:
            own = range(max(heads.start, at), min(heads.stop, wanted.stop))
            if own:
                yield heads, part, own, kernel
                at = own.stop


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one part is asked of a piece."""

    heads: range
    """KV heads, counted from the first that is asked for"""
    device: str
    kernel: BackendKernel
    layout: BlockLayout
    piece: Piece
    """its leaves are where this part has them"""
