"""NativeLlama: the Llama forward pass in C++, in bfloat16.

The matrices that rows are multiplied with may be 8-bit integers (``int8.py``).

For few rows torch spends most of a step between its operators. Here all layers are one call
(``engine/native/forward.cpp``) where the attention backend is native and all keys are at hand;
otherwise what comes behind one layer's attention and before the next one's is one. Letters as in
``llama.py``.
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

_LAYER_WEIGHTS = (
    *("attn_norm", "mlp_norm", "qkv", "out", "gate_up", "down", "qkv_bias", "qk_norm"),
)
PROCESSOR = {"avx2", "fma"}
"""instruction sets it needs"""
PROCESSOR_INT8 = PROCESSOR | {"avx512bw", "avx512vl", "avx512_vnni"}
"""those for 8-bit weights"""


class _LayerWeights(ctypes.Structure):
    """The same fields as LayerWeights in decoder.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in _LAYER_WEIGHTS)


class _ForwardCall(ctypes.Structure):
    """The same fields as ForwardCall in forward.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("layers", "attention", "embed", "cos", "sin")),
        *((name, ctypes.c_void_p) for name in ("token_ids", "positions", "hidden", "attended")),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v")),
        *((name, ctypes.c_int32) for name in ("vocab", "num_positions", "num_layers", "rows")),
        *((name, ctypes.c_int32) for name in ("size", "heads", "kv_heads")),
        *((name, ctypes.c_int32) for name in ("dim", "mlp", "num_threads", "int8", "layer")),
        ("eps", ctypes.c_float),
    )


class _LogitsCall(ctypes.Structure):
    """The same fields as LogitsCall in decoder.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("hidden", "row_ids", "norm", "head", "logits")),
        *((name, ctypes.c_int32) for name in ("rows", "size", "vocab", "num_threads", "int8")),
        ("eps", ctypes.c_float),
    )


def is_possible(dtype: torch.dtype, *, int8: bool = False) -> bool:
    """Whether it can run in this dtype, with this machine's processor and compiler."""
    wanted = PROCESSOR_INT8 if int8 else PROCESSOR
    if dtype != torch.bfloat16 or not processor_flags() >= wanted:
        return False
    try:
        return bool(load().lk_has_int8() if int8 else load().lk_has_forward())
    except ConfigError:
        return False


class NativeLlama(Llama):
    """A row's bits depend on neither the rows beside it nor the number of threads."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__(config, weights)
        self._library = load()
        self._int8 = int(self.head.dtype == torch.uint8)
        for function in (self._library.lk_forward, self._library.lk_logits):
            function.argtypes = [ctypes.c_void_p]
        self._library.lk_forward.restype, self._library.lk_logits.restype = ctypes.c_bool, None
        pointers = [
            [_address(getattr(layer, name)) for name in _LAYER_WEIGHTS] for layer in self.layers
        ]
        self._layers = (_LayerWeights * len(pointers))(*(_LayerWeights(*p) for p in pointers))

    @torch.inference_mode()
    def forward(
        self,
        token_ids_T: Tensor,
        positions_T: Tensor,
        logit_rows: Tensor,
        backend: AttentionBackend,
    ) -> Tensor:
        rows, config = len(token_ids_T), self.config
        # After a step torch's code has left the caches: each of its operators takes some 50 us.
        hidden_TE = torch.empty(rows, config.hidden_size)
        call = _ForwardCall(
            layers=ctypes.addressof(self._layers),
            embed=self.embed.data_ptr(),
            cos=self.cos_PD.data_ptr(),
            sin=self.sin_PD.data_ptr(),
            token_ids=token_ids_T.data_ptr(),
            positions=positions_T.data_ptr(),
            hidden=hidden_TE.data_ptr(),
            vocab=len(self.embed),
            num_positions=len(self.cos_PD),
            num_layers=len(self._layers),
            rows=rows,
            size=config.hidden_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            dim=config.head_dim,
            mlp=config.mlp_size,
            num_threads=torch.get_num_threads(),
            int8=self._int8,
            layer=-1,
            eps=config.norm_eps,
        )
        address, forward = ctypes.addressof(call), self._library.lk_forward
        q_THD, k_TKD, v_TKD = self._new_qkv(call)
        attention = backend.native_step(q_THD)
        if attention is not None:
            call.attention, call.attended = ctypes.addressof(attention), attention.merge.out
        if not forward(address):
            tokens, positions = f"0 to {call.vocab - 1}", f"0 to {call.num_positions - 1}"
            raise IndexError(f"a token is not in {tokens}, or a position not in {positions}")
        while attention is not None and call.layer < call.num_layers:
            backend.catch_up(q_THD, call.layer)
            forward(address)
        while call.layer < call.num_layers:
            backend.write(k_TKD, v_TKD, call.layer)
            attended_THD = backend.finish(backend.start(q_THD, call.layer)).out_THD.cpu()
            call.attended = attended_THD.data_ptr()
            # New memory: a transport may still be sending the last layer's.
            q_THD, k_TKD, v_TKD = self._new_qkv(call)
            forward(address)
        return self._native_logits(hidden_TE, logit_rows, call.num_threads)

    def _new_qkv(self, call: _ForwardCall) -> tuple[Tensor, ...]:
        """Memory for a layer's queries, keys and values, which the call is told of."""
        parts = tuple(
            torch.empty(call.rows, heads, call.dim, dtype=torch.bfloat16)
            for heads in (call.heads, call.kv_heads, call.kv_heads)
        )
        call.q, call.k, call.v = (part.data_ptr() for part in parts)
        return parts

    def _native_logits(self, hidden_TE: Tensor, row_ids_N: Tensor, num_threads: int) -> Tensor:
        rows, vocab = len(row_ids_N), self.config.vocab_size
        logits_NV = torch.empty(rows, vocab)
        if rows:
            call = _LogitsCall(
                hidden=hidden_TE.data_ptr(),
                row_ids=row_ids_N.data_ptr(),
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
