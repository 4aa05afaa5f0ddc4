"""NativeLlama: the Llama forward pass with everything but attention in C++, in bfloat16.

The matrices that rows are multiplied with may be 8-bit integers (``int8.py``).

For few rows torch spends most of a step between its operators. Here what comes behind one layer's
attention and before the next one's is one call (``engine/native/decoder.cpp``): 4 to 5 times as
fast for 1 to 8 rows, 1.2 times for 512. Letters as in ``llama.py``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.errors import ConfigError
from engine.model.config import LlamaConfig
from engine.model.llama import Llama
from engine.native.library import load, processor_flags

PROCESSOR = {"avx512_bf16", "avx512_vnni"}
"""instruction sets it needs"""


class _BetweenCall(ctypes.Structure):
    """The same fields as BetweenCall in decoder.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("hidden", "attended", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("mlp_norm", "attn_norm", "qkv", "qkv_bias")),
        *((name, ctypes.c_void_p) for name in ("qk_norm", "cos", "sin", "q", "k", "v")),
        *((name, ctypes.c_int32) for name in ("rows", "size", "heads", "kv_heads")),
        *((name, ctypes.c_int32) for name in ("dim", "mlp", "num_threads", "int8")),
        ("eps", ctypes.c_float),
    )


class _LogitsCall(ctypes.Structure):
    """The same fields as LogitsCall in decoder.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("hidden", "norm", "head", "logits")),
        *((name, ctypes.c_int32) for name in ("rows", "size", "vocab", "num_threads", "int8")),
        ("eps", ctypes.c_float),
    )


def is_possible(dtype: torch.dtype) -> bool:
    """Whether it can run in this dtype, with this machine's processor and compiler."""
    if dtype != torch.bfloat16 or not processor_flags() >= PROCESSOR:
        return False
    try:
        return bool(load().lk_has_decoder())
    except ConfigError:
        return False


class NativeLlama(Llama):
    """A row's bits depend on neither the rows beside it nor the number of threads."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__(config, weights)
        self._library = load()
        self._int8 = int(self.head.dtype == torch.uint8)
        for function in (self._library.lk_between, self._library.lk_logits):
            function.argtypes, function.restype = [ctypes.c_void_p], None

    @torch.inference_mode()
    def forward(
        self,
        token_ids_T: Tensor,
        positions_T: Tensor,
        logit_rows: Tensor,
        backend: AttentionBackend,
    ) -> Tensor:
        rows, config = len(token_ids_T), self.config
        hidden_TE = self.embed[token_ids_T].float()
        cos_TD, sin_TD = (factor.contiguous() for factor in self._rotary(positions_T))
        call = _BetweenCall(
            hidden=hidden_TE.data_ptr(),
            cos=cos_TD.data_ptr(),
            sin=sin_TD.data_ptr(),
            rows=rows,
            size=config.hidden_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            dim=config.head_dim,
            mlp=config.mlp_size,
            num_threads=torch.get_num_threads(),
            int8=self._int8,
            eps=config.norm_eps,
        )
        address, between = ctypes.addressof(call), self._library.lk_between
        heads = config.num_heads + 2 * config.num_kv_heads
        ends = config.num_heads, config.num_heads + config.num_kv_heads
        for index, layer in enumerate(self.layers):
            # New memory for each layer: a transport may still be sending the last one's.
            qkv = torch.empty(rows * heads, config.head_dim, dtype=torch.bfloat16)
            q_THD = qkv[: rows * ends[0]].view(rows, -1, config.head_dim)
            k_TKD = qkv[rows * ends[0] : rows * ends[1]].view(rows, -1, config.head_dim)
            v_TKD = qkv[rows * ends[1] :].view(rows, -1, config.head_dim)
            call.q, call.k, call.v = q_THD.data_ptr(), k_TKD.data_ptr(), v_TKD.data_ptr()
            call.attn_norm, call.qkv = layer.attn_norm.data_ptr(), layer.qkv.data_ptr()
            call.qkv_bias, call.qk_norm = _address(layer.qkv_bias), _address(layer.qk_norm)
            between(address)
            backend.write(k_TKD, v_TKD, index)
            attended_THD = backend.finish(backend.start(q_THD, index)).out_THD
            call.attended, call.out = attended_THD.data_ptr(), layer.out.data_ptr()
            call.gate_up, call.down = layer.gate_up.data_ptr(), layer.down.data_ptr()
            call.mlp_norm = layer.mlp_norm.data_ptr()
        call.qkv = None
        between(address)
        return self._native_logits(hidden_TE[logit_rows], call.num_threads)

    def _native_logits(self, hidden_NE: Tensor, num_threads: int) -> Tensor:
        rows, vocab = len(hidden_NE), self.config.vocab_size
        logits_NV = torch.empty(rows, vocab)
        if rows:
            call = _LogitsCall(
                hidden=hidden_NE.data_ptr(),
                norm=self.norm.data_ptr(),
                head=self.head.data_ptr(),
                logits=logits_NV.data_ptr(),
                rows=rows,
                size=self.config.hidden_size,
                vocab=vocab,
                num_threads=num_threads,
                int8=self._int8,
                eps=self.config.norm_eps,
            )
            self._library.lk_logits(ctypes.addressof(call))
        return logits_NV


def _address(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.data_ptr()
