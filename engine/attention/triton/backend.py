"""TritonBackend: LocalBackend over the Triton kernels, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import os
import platform
import weakref
import zlib
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.attention.base import Partial
from engine.attention.local import DTYPES, LocalBackend, NodeRows
from engine.attention.tree import MergeProgram, Piece
from engine.core import ITEM_BYTES, Plan
from engine.errors import ConfigError
from engine.memory.base import header_bytes
from engine.native.library import processor_flags

if TYPE_CHECKING:
    from engine.attention.triton.launch import Launch

INTERPRET = "TRITON_INTERPRET"
TILE_ROWS = (16, 32, 64, 128)


def is_interpreted() -> bool:
    """Whether triton, once imported, runs kernels on the CPU."""
    return os.environ.get(INTERPRET, "").lower() in ("1", "true", "yes", "on", "y")


def why_not() -> str:
    """Why the kernels cannot run here, in a sentence with what to do; empty where they can."""
    if find_spec("triton") is None:
        return "the backend triton needs the package triton: pip install 'lendkv[triton]'"
    if not torch.cuda.is_available() and not is_interpreted():
        return (
            "the backend triton needs a CUDA GPU, and PyTorch finds none: use native, or set "
            f"{INTERPRET}=1 to try the kernels slowly on the CPU"
        )
    return ""


class TritonBackend(LocalBackend):
    """Keys and values stay in the pool's host memory, which a GPU reads and writes in place."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        tile_rows: int = 16
        """query rows of a KV head that are attended together: 16, 32, 64 or 128. More suit long
        prompts, fewer decodes; the bits depend on it"""

    def __init__(self, config: Config, **runtime: Any) -> None:
        if reason := why_not():
            raise ConfigError(reason)
        if config.tile_rows not in TILE_ROWS:
            known = ", ".join(map(str, TILE_ROWS))
            raise ConfigError(f"tile_rows is {config.tile_rows}; it must be one of {known}")
        super().__init__(**runtime)
        self._device = torch.device("cpu" if is_interpreted() else "cuda")
        if self._device.type == "cuda":
            self._show_pool_to_gpu()
            self.reads_mapped = False
        # Imported here: whoever does not use it pays for no triton, and needs none.
        launch = import_module("engine.attention.triton.launch")
        first, dtype = header_bytes(self.pool.num_blocks), DTYPES[self.layout.dtype]
        anchor = torch.frombuffer(self.pool.region, dtype=dtype, count=1, offset=first)
        tiles = launch.Tiles.suited(rows=config.tile_rows)
        self._launch: Launch = launch.Launch(
            self.layout, self.shape.num_heads, anchor, self._device, tiles
        )
        self._slot_at_T = torch.empty(0, dtype=torch.int64)
        self.fingerprint = f"triton/{version('triton')}/{_where()}/rows {config.tile_rows}"

    def place_writes(self, plan: Plan) -> None:
        super().place_writes(plan)
        layout = self.layout
        item = ITEM_BYTES[layout.dtype]
        block_T = self._block_T * (layout.block_bytes // item) + layout.offset_bytes // item
        slot_at_T = block_T + self._slot_T * layout.head_dim
        self._slot_at_T = slot_at_T.to(self._device)
        self._launch.moved_on()

    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        self._launch.write(k_TKD.to(self._device), v_TKD.to(self._device), self._slot_at_T, layer)

    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        own = rows.slice(0, piece.num_node_rows)
        out_RHD, lse_RH = own.out_RHD.to(self._device), own.lse_RH.to(self._device)
        self._launch.attend(piece, q_THD.to(self._device), layer, self.scale, out_RHD, lse_RH)
        own.take(out_RHD, lse_RH)

    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        out_RHD, lse_RH = rows.out_RHD.to(self._device), rows.lse_RH.to(self._device)
        out_THD = out_RHD.new_empty(num_queries, *out_RHD.shape[1:])
        lse_TH = lse_RH.new_empty(num_queries, lse_RH.shape[1])
        self._launch.merge(program, out_RHD, lse_RH, out_THD, lse_TH)
        return Partial(out_THD.to(rows.out_RHD.device), lse_TH.to(rows.lse_RH.device))

    def _show_pool_to_gpu(self) -> None:
        """Pin the pool's memory and map it for the GPU; its addresses are the same there."""
        region = self.pool.region
        cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        portable_and_mapped = 3
        error = int(cudart.cudaHostRegister(self.pool.address, len(region), portable_and_mapped))
        if error:
            raise ConfigError(
                f"CUDA cannot map the pool's {len(region)} bytes for the GPU (error {error}): "
                "lower pool.num_blocks, or use the backend native"
            )
        weakref.finalize(self, cudart.cudaHostUnregister, self.pool.address)


def _where() -> str:
    """What the bits depend on apart from the kernels."""
    if not is_interpreted():
        return torch.cuda.get_device_name()
    processor = zlib.crc32(" ".join(sorted(processor_flags())).encode())
    return f"interpreter/{platform.machine()}/{processor:08x}/numpy {np.__version__}"
