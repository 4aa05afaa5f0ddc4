"""Backends over a Kernel (numpy or native): the same kernel a pool process answers others with."""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import Kernel, Partial
from engine.attention.kernel_native import NativeKernel
from engine.attention.kernel_numpy import NumpyKernel
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.tree import MergeProgram, Piece
from engine.core import ITEM_BYTES, Plan
from engine.native.library import load


def as_numpy(x: Tensor) -> NDArray[Any]:
    """The tensor's memory as a kernel takes it: bfloat16 as uint16."""
    x = x.contiguous()
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
        out_THD = torch.empty(num_queries, self.shape.num_heads, self.shape.head_dim)
        lse_TH = torch.empty(num_queries, self.shape.num_heads)
        self._kernel.merge(
            program, rows.out_RHD.numpy(), rows.lse_RH.numpy(), out_THD.numpy(), lse_TH.numpy()
        )
        return Partial(out_THD, lse_TH)


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
        super().__init__(NativeKernel(num_threads), num_threads=num_threads, **runtime)
        self._store = load().lk_store
        pointer, number, long = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
        self._store.argtypes = [*(pointer,) * 3, number, number, *(long,) * 4]
        self._store.restype = None
        item_bytes = ITEM_BYTES[self.layout.dtype]
        self._row_bytes = self.layout.head_dim * item_bytes
        self._value_offset = self.layout.tokens * self._row_bytes
        self._key_at_T = torch.empty(0, dtype=torch.int64)

    def place_writes(self, plan: Plan) -> None:
        super().place_writes(plan)
        addresses = [self.pool.block_address(block) for block in self._block_T.tolist()]
        self._key_at_T = torch.tensor(addresses, dtype=torch.int64)
        self._key_at_T += self._slot_T * self._row_bytes

    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        shape = (len(self._key_at_T), self.layout.kv_heads, self.layout.head_dim)
        assert k_TKD.shape == v_TKD.shape == shape
        assert k_TKD.is_contiguous()
        assert v_TKD.is_contiguous()
        self._store(
            self._key_at_T.data_ptr(),
            k_TKD.data_ptr(),
            v_TKD.data_ptr(),
            *k_TKD.shape[:2],
            self._row_bytes,
            layer * self.layout.layer_bytes,
            self._value_offset,
            2 * self._value_offset,
        )
