"""FlashBackend: flash attention on a CUDA GPU, by the package flash-attn or by PyTorch itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.attention.base import Partial
from engine.attention.flash_parts import Packed, parts_of
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.merge import run_program
from engine.attention.tree import MergeProgram, Piece
from engine.core import BlockLayout
from engine.errors import ConfigError
from engine.memory.base import MemoryPool

MAX_DIM = 256
MULTIPLE = 8
"""of a head's dimension: PyTorch's operator takes no others, and flash-attn fills them up itself"""
DTYPES = ("bfloat16", "float16")
"""of keys and queries"""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, bool, float], Any]
"""``(q_THD, k_SKD, v_SKD, query_ends, key_ends, most_rows, most_keys, causal, scale)``; gives out
[T, H, D] and natural lse [H, T]. Causal: the last row of each part sees all its keys."""


class Library(NamedTuple):
    name: str
    attend: Attend
    device: torch.device


def has_package() -> bool:
    """Whether flash-attn is installed; else PyTorch's own kernels are used."""
    return find_spec("flash_attn") is not None


def why_not() -> str:
    """Why it cannot run here, in a sentence with what to do; empty where it can."""
    if torch.cuda.is_available():
        return ""
    return "the backend flash needs a CUDA GPU, and PyTorch finds none: use native or sdpa"


def pick() -> Library:
    """flash-attn where it is installed, else what PyTorch has."""
    name, attend = ("flash-attn", by_package) if has_package() else ("PyTorch", by_pytorch)
    return Library(name, attend, torch.device("cuda"))


def by_package(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    most_rows: int,
    most_keys: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    out, lse, _ = import_module("flash_attn").flash_attn_varlen_func(
        q,
        k,
        v,
        query_ends,
        key_ends,
        most_rows,
        most_keys,
        softmax_scale=scale,
        causal=causal,
        return_attn_probs=True,  # with dropout 0 that is: the lse too
    )
    return out, lse


def by_pytorch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    most_rows: int,
    most_keys: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The operator below ``torch.nn.attention.varlen``, whose options change between releases."""
    dim = q.shape[-1]
    if missing := -dim % MULTIPLE:  # zeros change no product
        q, k, v = (pad(x, (0, missing)) for x in (q, k, v))
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, query_ends, key_ends, most_rows, most_keys, 0.0, causal, False, scale=scale
    )
    return out[..., :dim], lse


class FlashBackend(LocalBackend):
    """Over a pool on the GPU; of one in host memory the keys go there for each layer.

    Exact but not placement-invariant: it sums over a node at once. Partials come rounded to the
    model's dtype.
    """

    maps = ""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config, **runtime: Any) -> None:
        if reason := why_not():
            raise ConfigError(reason)
        layout: BlockLayout = runtime["layout"]
        if layout.dtype not in DTYPES or layout.head_dim > MAX_DIM:
            raise ConfigError(
                f"the backend flash takes bfloat16 and float16 and heads of at most {MAX_DIM}, not "
                f"{layout.dtype} of {layout.head_dim}: use another backend"
            )
        self.library = pick()
        super().__init__(**runtime)
        self._packed: tuple[Piece, list[tuple[bool, Packed]]] | None = None

    def device_over(self, pool: MemoryPool) -> str:
        if pool.tiers is not None:
            return super().device_over(pool)
        return str(self.library.device) if pool.device == "cpu" else pool.device

    def place(self, block_T: Tensor, slot_T: Tensor) -> None:
        super().place(block_T, slot_T)
        self._packed = None  # a piece that comes again has other positions

    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        rows.slice(0, piece.num_node_rows).clear()
        q_THD = q_THD.to(self.device)
        k_SKD, v_SKD = self._keys_and_values(piece, layer)
        for causal, packed in self._calls(piece):
            keys = self._there(packed.keys)
            out_THD, lse_HT = self.library.attend(
                q_THD[self._there(packed.query_rows)],
                k_SKD[keys],
                v_SKD[keys],
                self._there(packed.query_ends),
                self._there(packed.key_ends),
                packed.most_rows,
                packed.most_keys,
                causal,
                self.scale,
            )
            to = self._there(packed.node_rows)
            rows.out_RHD[to] = out_THD.to(rows.out_RHD)
            rows.lse_RH[to] = lse_HT.T.to(rows.lse_RH)

    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        return run_program(program, rows, num_queries)

    def _keys_and_values(self, piece: Piece, layer: int) -> tuple[Tensor, Tensor]:
        """Those of all the piece's leaves, one behind the other: [N * C, K, D]."""
        blocks = (piece.address - np.uint64(self.pool.block_address(0))) // np.uint64(
            self.layout.block_bytes
        )
        cache = self.stored.items_PLK2CD
        leaves_NK2CD = cache[torch.from_numpy(blocks.astype(np.int64)).to(cache.device), layer]
        k_NCKD, v_NCKD = leaves_NK2CD.to(self.device).permute(2, 0, 3, 1, 4)
        return k_NCKD.flatten(0, 1), v_NCKD.flatten(0, 1)

    def _calls(self, piece: Piece) -> list[tuple[bool, Packed]]:
        if self._packed is None or self._packed[0] is not piece:
            parts, tokens = list(parts_of(piece, self.layout.tokens)), self.layout.tokens
            kinds = [
                (kind, [part for part in parts if part.causal is kind]) for kind in (False, True)
            ]
            self._packed = piece, [(kind, Packed.of(own, tokens)) for kind, own in kinds if own]
        return self._packed[1]

    def _there(self, table: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(table).to(self.device)
