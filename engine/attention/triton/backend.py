"""TritonBackend: LocalBackend over the Triton kernels, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import os
import platform
import zlib
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine import devices
from engine.attention.base import Partial, Rotary
from engine.attention.fixed import Fixed
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.tree import MergeProgram, Piece
from engine.core import KV_BYTES, SCALE_BYTES
from engine.errors import ConfigError
from engine.memory.base import MemoryPool
from engine.native.library import processor_flags

if TYPE_CHECKING:
    from engine.attention.triton.launch import Launch

INTERPRET = "TRITON_INTERPRET"
TILE_ROWS = (16, 32, 64, 128)
FP8_SINCE = (8, 9)
"""compute capability: what is older cannot convert such floats, and triton compiles nothing"""


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
    """Over a pool in the GPU's memory, or in host memory, which a GPU reads and writes in place."""

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
        if self.device != "cpu":
            _require_fp8(self.layout.dtype, self.device)
            self.maps = self.device if self.pool.gpu else ""
            if self.pool.device == "cpu":
                num_bytes = self.pool.num_blocks * self.layout.block_bytes
                devices.show(self, self.pool.block_address(0), num_bytes)
        # Imported here: whoever does not use it pays for no triton, and needs none.
        launch = import_module("engine.attention.triton.launch")
        tiles = import_module("engine.attention.triton.tiles").Tiles.suited(config.tile_rows)
        device = torch.device(self.device)
        self._launch: Launch = launch.Launch(
            self.layout, self.shape.num_heads, self.bytes_PB.view(-1), device, tiles
        )
        self._slots_2T = self._host_slots_2T = torch.empty(2, 0, dtype=torch.int64)
        self.fingerprint = f"triton/{version('triton')}/{_where()}/rows {config.tile_rows}"

    def device_over(self, pool: MemoryPool) -> str:
        if is_interpreted() or pool.tiers is not None:
            return super().device_over(pool)
        return "cuda" if pool.device == "cpu" else pool.device

    def place(self, block_T: Tensor, slot_T: Tensor) -> None:
        super().place(block_T, slot_T)
        layout = self.layout
        head_T = block_T * layout.block_bytes + layout.offset_bytes
        items_T = head_T // KV_BYTES[layout.dtype] + slot_T * layout.head_dim
        scales_T = (head_T + layout.scales_offset) // SCALE_BYTES + slot_T
        self._host_slots_2T = torch.stack([items_T, scales_T])
        self._slots_2T = devices.sent(self._host_slots_2T, torch.device(self.device))
        self._launch.moved_on()

    def fix(self, piece: Piece, program: MergeProgram, num_node_rows: int) -> Fixed | None:
        slots_2T = self._host_slots_2T.numpy()
        fixed = self._launch.fix(piece, program, slots_2T, num_node_rows)
        if fixed is not None:
            self._slots_2T = fixed["slots"]
        return fixed

    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        self._launch.write(k_TKD.to(self.device), v_TKD.to(self.device), self._slots_2T, layer)

    def write_rotated(self, qk_TJD: Tensor, v_TKD: Tensor, rotary: Rotary, layer: int) -> Tensor:
        there = [x.to(self.device).contiguous() for x in (qk_TJD, v_TKD, *rotary)]
        qk_TJD, v_TKD, cos, sin = there
        return self._launch.write_rotated(qk_TJD, v_TKD, (cos, sin), self._slots_2T, layer)

    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        own = rows.slice(0, piece.num_node_rows)
        q_THD = q_THD.to(self.device)
        self._launch.attend(piece, q_THD, layer, self.scale, own.out_RHD, own.lse_RH)

    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        out_RHD, lse_RH = rows.out_RHD, rows.lse_RH
        out_THD = out_RHD.new_empty(num_queries, *out_RHD.shape[1:])
        lse_TH = lse_RH.new_empty(num_queries, lse_RH.shape[1])
        self._launch.merge(program, out_RHD, lse_RH, out_THD, lse_TH)
        return Partial(out_THD, lse_TH)


def _require_fp8(dtype: str, device: str) -> None:
    major, minor = torch.cuda.get_device_capability(device)
    if dtype == "fp8" and (major, minor) < FP8_SINCE:
        raise ConfigError(
            f"the backend triton takes pool.dtype=fp8 on GPUs of compute capability "
            f"{FP8_SINCE[0]}.{FP8_SINCE[1]} or later, and {torch.cuda.get_device_name(device)} "
            f"has {major}.{minor}: use pool.dtype=int8"
        )


def _where() -> str:
    """What the bits depend on apart from the kernels."""
    if not is_interpreted():
        return torch.cuda.get_device_name()
    processor = zlib.crc32(" ".join(sorted(processor_flags())).encode())
    return f"interpreter/{platform.machine()}/{processor:08x}/numpy {np.__version__}"
