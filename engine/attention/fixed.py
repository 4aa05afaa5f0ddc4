"""FixedStep: a decode step whose kernels find everything where earlier steps had it.

So its launches can be recorded once and replayed (``model/graphed.py``). What another instance is
asked for cannot: then the step is cut into stretches, and between them ``ask`` and ``collect``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from engine.attention.base import Partial, Rotary
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.tree import MergeProgram, Piece

if TYPE_CHECKING:
    from engine.attention.reading import Reading


class Fixed:
    """Where a local backend has what a step's launches read; the same object for steps alike."""

    rows: NodeRows
    num_queries: int
    """query rows of all launches: those that the step does not have are computed for nothing"""


@dataclass(frozen=True, slots=True)
class FixedStep:
    fixed: Fixed
    asks: bool
    """whether holders are asked, so that the host has to do with each layer"""
    ask: Callable[[Tensor, int], object]
    """(q_THD, layer): queries leave, before the layer's ``attend``"""
    collect: Callable[[], None]
    """their answers are there, behind ``attend`` and before ``merge``"""
    local: LocalBackend
    piece: Piece
    program: MergeProgram

    @staticmethod
    def of(
        reading: Reading,
        local: LocalBackend,
        ask: Callable[[Tensor, int], object],
        collect: Callable[[], None],
    ) -> FixedStep | None:
        """None where a sequence has several query rows, or the local backend has no such place."""
        piece, program = reading.piece, reading.program
        if (piece.segments_S6[:, 1] != 1).any():
            return None
        fixed = local.fix(piece, program, len(reading.rows.lse_RH))
        if fixed is None:
            return None
        reading.rows = fixed.rows  # answers go there as well
        return FixedStep(fixed, bool(reading.steps), ask, collect, local, piece, program)

    def write_rotated(self, qk_TJD: Tensor, v_TKD: Tensor, rotary: Rotary, layer: int) -> Tensor:
        return self.local.write_rotated(qk_TJD, v_TKD, rotary, layer)

    def attend(self, q_THD: Tensor, layer: int) -> None:
        self.local.attend(self.piece, q_THD, layer, self.fixed.rows)

    def merge(self) -> Partial:
        return self.local.merge(self.program, self.fixed.rows, self.fixed.num_queries)
