"""BackendKernel: a local backend as a pool's kernel, where the host cannot read the pool's blocks.

A pool in a device's memory answers others with what its own step computes with; only queries and
node rows cross the border.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.attention.base import Kernel
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.stored import DTYPES
from engine.attention.tree import MergeProgram, Piece
from engine.core import BlockLayout

Make = Callable[[int, BlockLayout], LocalBackend]
"""a backend for so many query heads over the pool's blocks, as the layout shows them"""


class BackendKernel(Kernel):
    """One backend for each set of heads that is asked for (tp ranks ask for their own)."""

    def __init__(self, make: Make, heads: int, layout: BlockLayout) -> None:
        self._make = make
        self._backends = {(heads, layout): make(heads, layout)}
        backend = self._backends[heads, layout]
        self.fingerprint = backend.fingerprint or f"{type(backend).__name__}, bits by placement"

    @torch.inference_mode()
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
        heads = q_THD.shape[1]
        backend = self._backends.get((heads, layout))
        if backend is None:
            backend = self._backends[heads, layout] = self._make(heads, layout)
        backend.scale = scale
        there = torch.device(backend.device)
        # A copy: what came in a message may be read only, and go away.
        q = torch.tensor(q_THD).view(DTYPES[layout.query_dtype]).to(there)
        rows = NodeRows(
            torch.empty(out_RHD.shape, device=there), torch.empty(lse_RH.shape, device=there)
        )
        backend.attend(piece, q, layer, rows)
        out_RHD[:], lse_RH[:] = rows.out_RHD.cpu().numpy(), rows.lse_RH.cpu().numpy()

    def merge(
        self,
        program: MergeProgram,
        out_RHD: NDArray[np.float32],
        lse_RH: NDArray[np.float32],
        out_THD: NDArray[np.float32],
        lse_TH: NDArray[np.float32],
    ) -> None:
        backend = next(iter(self._backends.values()))
        rows = NodeRows(
            torch.tensor(out_RHD).to(backend.device), torch.tensor(lse_RH).to(backend.device)
        )
        partial = backend.merge(program, rows, len(out_THD))
        out_THD[:], lse_TH[:] = partial.out_THD.cpu().numpy(), partial.lse_TH.cpu().numpy()
