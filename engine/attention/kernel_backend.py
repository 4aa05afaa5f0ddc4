"""Backends over a Kernel (numpy or native): the same kernel a pool process answers others with."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import Kernel, Partial
from engine.attention.kernel_native import KINDS, NativeKernel
from engine.attention.kernel_numpy import NumpyKernel
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.native_calls import NativeStep, StoreCall
from engine.attention.stored import DTYPES
from engine.attention.tree import MergeProgram, Piece
from engine.core import KV_BYTES, SCALE_BYTES
from engine.native.library import load


def as_numpy(x: Tensor) -> NDArray[Any]:
    """The tensor's memory as a kernel takes it: bfloat16 as uint16."""
    x = x.cpu().contiguous()
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


class KernelBackend(LocalBackend):
    """LocalBackend over any Kernel."""

    def __init__(self, kernel: Kernel, **runtime: Any) -> None:
        super().__init__(**runtime)
        self._kernel = kernel
        self.fingerprint = kernel.fingerprint

    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        self._kernel.attend(
            piece,
            as_numpy(q_THD),
            self.layout,
            layer,
            self.scale,
            rows.out_RHD.numpy(),
            rows.lse_RH.numpy(),
        )

    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        out_THD, lse_TH = self._finished_rows(num_queries)
        self._kernel.merge(
            program, rows.out_RHD.numpy(), rows.lse_RH.numpy(), out_THD.numpy(), lse_TH.numpy()
        )
        return Partial(out_THD, lse_TH)

    def _finished_rows(self, num_queries: int) -> tuple[Tensor, Tensor]:
        heads = self.shape.num_heads
        return torch.empty(num_queries, heads, self.shape.head_dim), torch.empty(num_queries, heads)


_Made = tuple[Piece, MergeProgram, NodeRows, NativeStep, tuple[Tensor, Tensor]]
"""a native step, what it is of, and the memory of its finished rows"""


class NumpyBackend(KernelBackend):
    """Needs no compiler; slow."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config, **runtime: Any) -> None:
        super().__init__(NumpyKernel(), **runtime)


class NativeBackend(KernelBackend):
    """C++; the default."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config, *, num_threads: int = 1, **runtime: Any) -> None:
        self._native = NativeKernel(num_threads)
        super().__init__(self._native, num_threads=num_threads, **runtime)
        self._lk_store = load().lk_store
        pointer = ctypes.c_void_p
        self._lk_store.argtypes = [pointer, ctypes.c_int64, pointer, pointer]
        self._lk_store.restype = None
        self._row_bytes = self.layout.head_dim * KV_BYTES[self.layout.dtype]
        self._key_at_T = self._scale_at_T = np.empty(0, np.int64)
        self._store = StoreCall()
        self._made: _Made | None = None

    def place(self, block_T: Tensor, slot_T: Tensor) -> None:
        super().place(block_T, slot_T)
        addresses = [self.pool.block_address(block) for block in block_T.tolist()]
        layout, slots = self.layout, slot_T.numpy()
        head_at_T = np.array(addresses, np.int64) + layout.offset_bytes
        self._key_at_T = head_at_T + slots * self._row_bytes
        self._scale_at_T = head_at_T + layout.scales_offset + slots * SCALE_BYTES
        self._store = StoreCall(
            key_at=self._key_at_T.ctypes.data,
            scale_at=self._scale_at_T.ctypes.data if layout.is_scaled else None,
            value_offset=layout.values_offset,
            value_scale=layout.tokens * SCALE_BYTES,
            head_offset=layout.head_bytes,
            rows=len(addresses),
            kv_heads=layout.kv_heads,
            dim=layout.head_dim,
            row_kind=KINDS[layout.query_dtype],
            kind=KINDS[layout.dtype],
        )

    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        shape = (len(self._key_at_T), self.layout.kv_heads, self.layout.head_dim)
        assert k_TKD.shape == v_TKD.shape == shape
        k_TKD, v_TKD = k_TKD.cpu(), v_TKD.cpu()
        assert k_TKD.dtype == v_TKD.dtype == DTYPES[self.layout.query_dtype]
        assert k_TKD.is_contiguous()
        assert v_TKD.is_contiguous()
        self._lk_store(
            ctypes.addressof(self._store),
            layer * self.layout.layer_bytes,
            k_TKD.data_ptr(),
            v_TKD.data_ptr(),
        )

    def native_step_of(
        self, piece: Piece, program: MergeProgram, rows: NodeRows, q_THD: Tensor
    ) -> NativeStep | None:
        assert len(q_THD) == len(self._key_at_T)
        assert DTYPES[self.layout.query_dtype] == q_THD.dtype
        assert q_THD.is_contiguous()
        made = self._made
        if made is None or made[0] is not piece or made[1] is not program or made[2] is not rows:
            made = self._made = self._make(piece, program, rows, q_THD)
        step = NativeStep.from_buffer_copy(made[3])
        step.store, step.attend.q = self._store, q_THD.data_ptr()
        return step

    def _make(self, piece: Piece, program: MergeProgram, rows: NodeRows, q_THD: Tensor) -> _Made:
        node_rows = (rows.out_RHD.numpy(), rows.lse_RH.numpy())
        finished = self._finished_rows(len(q_THD))
        step = NativeStep(
            attend=self._native.attend_call(
                piece, as_numpy(q_THD), self.layout, 0, self.scale, *node_rows
            ),
            merge=self._native.merge_call(program, *node_rows, *(row.numpy() for row in finished)),
            layer_bytes=self.layout.layer_bytes,
        )
        return piece, program, rows, step, finished
