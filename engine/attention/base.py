"""AttentionBackend and Kernel: exact partial attention; the convention of all partials.

A *partial* of some query rows over some keys, with ``s = q . k * scale``:

    m = max s,  e = sum exp(s - m),  out = sum exp(s - m) v / e,  lse = m + ln e

and two partials over disjoint keys merge to

    lse = ln(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

The convention, everywhere: natural logarithm, float32, ``out`` [T, H, D], ``lse`` [T, H],
contiguous; no key seen is ``out = 0, lse = -inf``. A backend converts at its own edge.
(PAPER: MicroAttention and its aggregation, in the log-sum-exp form.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.attention.tree import MergeProgram, Piece
from engine.core import BlockLayout, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from engine.attention.fixed import FixedStep
    from engine.attention.native_calls import NativeStep


@dataclass(frozen=True, slots=True)
class Partial:
    """Attention of query rows over some of their keys."""

    out_THD: Tensor
    lse_TH: Tensor


Rotary: TypeAlias = "tuple[Tensor, Tensor]"
"""float32 factors ``cos, sin`` [T, 1, D] of each row: ``x * cos + roll(x, D / 2) * sin``, the sign
within sin"""


class Kernel(ABC):
    """Computes node rows over rBlocks at given addresses; numpy in and out, no torch.

    Used by a pool process for others and by a step for itself: the same kernel gives the same bits
    for the same (query row, leaf), whatever else is in the call.
    """

    fingerprint: str
    """equal fingerprints promise equal bits"""

    @abstractmethod
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
        """Fill the piece's node rows. ``q`` is float32, float16, or bfloat16 as uint16.

        A key at position p is seen by a query at position >= p; whatever lies behind the last
        query's position may be uninitialised memory and is never used.
        """

    @abstractmethod
    def merge(
        self,
        program: MergeProgram,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
        out_THD: NDArray[np.float32],
        lse_TH: NDArray[np.float32],
    ) -> None:
        """Run the program over the node rows (which it overwrites) into finished rows."""


class AttentionBackend(ABC):
    """Attention of one step, layer by layer. The model cannot tell where keys live.

    ``begin(plan)``; for each layer ``write``, ``start``, ``finish``; then ``end``. Between
    ``start`` and ``finish`` the caller may do other work while remote partials are computed.
    Where ``native_step`` gives something, the native library does all layers by itself.
    """

    @abstractmethod
    def begin(self, plan: Plan) -> None:
        """Take the step's table. Must come before the first layer; ends an unfinished step."""

    @abstractmethod
    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        """Store the rows' new keys and values in their sequences' own blocks, before ``start``."""

    def write_rotated(self, qk_TJD: Tensor, v_TKD: Tensor, rotary: Rotary, layer: int) -> Tensor:
        """Rotate queries and keys, J = H + K heads, and ``write`` these; the queries [T, H, D].

        Both are rotated in float32 and then rounded to the values' dtype.
        """
        cos, sin = rotary
        qk_TJD = qk_TJD.float()
        turned_TJD = (qk_TJD * cos).addcmul(qk_TJD.roll(qk_TJD.shape[-1] // 2, -1), sin)
        turned_TJD = turned_TJD.to(v_TKD.dtype)
        heads = qk_TJD.shape[1] - v_TKD.shape[1]
        self.write(turned_TJD[:, heads:].contiguous(), v_TKD.contiguous(), layer)
        return turned_TJD[:, :heads].contiguous()

    @abstractmethod
    def start(self, q_THD: Tensor, layer: int) -> Any:
        """Send what must travel, begin what can begin; returns a pending partial for finish."""

    @abstractmethod
    def finish(self, pending: Any) -> Partial:
        """The rows' attention over all their keys; poisoned rows hold zeros."""

    def native_step(self, q_THD: Tensor) -> NativeStep | None:
        """All layers of this step for the native library, or None: then layer by layer.

        ``q_THD`` is where each layer's queries will be; keep it until the step has ended.
        """
        return None

    def catch_up(self, q_THD: Tensor, layer: int) -> None:
        """Get the layer's answers for which the native library has not waited."""
        raise NotImplementedError(f"{type(self).__name__} has nobody to wait for")

    def fixed_step(self) -> FixedStep | None:
        """This step, begun, for launches that are replayed instead of ``write``, ``start`` and
        ``finish``; None: layer by layer."""
        return None

    @abstractmethod
    def end(self) -> frozenset[int]:
        """Finish the step; returns the sequences whose rows are poisoned and must be redone."""
