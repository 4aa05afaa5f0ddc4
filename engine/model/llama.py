"""The Llama family's forward pass over packed rows: Llama, SmolLM2, Mistral, Qwen2, Qwen3.

Knows nothing of sequences, batches, caches or where keys live: rows have positions, and attention
is the backend's. Letters: T rows, H query heads, K KV heads, D head dimension, E hidden size,
V vocabulary, N rows whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention.base import AttentionBackend, Rotary
from engine.attention.fixed import FixedStep
from engine.model.config import LlamaConfig
from engine.model.rope import rotary_tables

HEAD_SLICE = 1 << 20
"""Head weights turned to float32 at a time: 4 MiB stays in the processor's cache."""
DEVICE_HEAD_SLICE = 1 << 26
"""The same on a GPU, where each slice is two launches: 256 MiB, 8 slices of Llama 3 8B's head."""

MIN_ROWS, MAX_ROWS = 16, 128
"""of a product whose rows must not depend on their number; measured: 12 to 129 give equal bits"""

Product = Callable[..., Tensor]


class Llama:
    """A model ready to run; ``weights`` are those of ``layout.fused_weights``, on one device."""

    def __init__(
        self, config: LlamaConfig, weights: Mapping[str, Tensor], *, steady: bool = False
    ) -> None:
        """``steady``: a row's bits do not depend on the rows beside it (see ``steady_product``)."""
        self._product: Product = steady_product if steady else F.linear
        self.config = config
        self.embed = weights["embed"]
        self.norm = weights["norm"]
        self.head = weights.get("head", self.embed)
        self.layers = [_Layer.of(weights, index) for index in range(config.num_layers)]
        cos_PD, sin_PD = rotary_tables(config)
        self.cos_PD, self.sin_PD = cos_PD.to(self.embed.device), sin_PD.to(self.embed.device)

    @torch.inference_mode()
    def forward(
        self,
        token_ids_T: Tensor,
        positions_T: Tensor,
        logit_rows: Tensor,
        backend: AttentionBackend,
    ) -> Tensor:
        """Float32 logits ``[N, V]`` of the rows ``logit_rows``; all three are int64 vectors on the
        weights' device.

        The backend gets contiguous q, k, v in the model's dtype, rotated, and applies the scale
        ``1 / sqrt(D)``; the step was begun by the caller, who also ends it.
        """
        rotary = self.rotary(positions_T)
        hidden_TE = self.embedded(token_ids_T)
        for index in range(len(self.layers)):
            pending = backend.start(self.queries(index, hidden_TE, rotary, backend), index)
            hidden_TE = self.behind(index, hidden_TE, backend.finish(pending).out_THD)
        return self.logits(hidden_TE[logit_rows])

    def queries(
        self, index: int, hidden_TE: Tensor, rotary: Rotary, keys: AttentionBackend | FixedStep
    ) -> Tensor:
        """The layer's queries [T, H, D]; its keys and values are written."""
        config, dtype, rows = self.config, hidden_TE.dtype, len(hidden_TE)
        layer = self.layers[index]
        num_qk = config.num_heads + config.num_kv_heads
        normed_TE = _rms_norm(hidden_TE, layer.attn_norm, config.norm_eps).to(dtype)
        qkv = self._qkv(normed_TE, layer).view(rows, -1, config.head_dim)
        qk, v_TKD = qkv[:, :num_qk], qkv[:, num_qk:]
        if layer.qk_norm is not None:
            qk = _rms_norm(qk, None, config.norm_eps) * layer.qk_norm
        return keys.write_rotated(qk, v_TKD, rotary, index)

    def behind(self, index: int, hidden_TE: Tensor, out_THD: Tensor) -> Tensor:
        """Hidden states behind the layer, given its attention."""
        layer, out_TF = self.layers[index], out_THD.reshape(len(hidden_TE), -1).to(hidden_TE)
        hidden_TE = hidden_TE + self._out(layer, out_TF)
        return hidden_TE + self._mlp(layer, hidden_TE)

    def logits(self, hidden_NE: Tensor) -> Tensor:
        return self._logits(_rms_norm(hidden_NE, self.norm, self.config.norm_eps))

    def embedded(self, token_ids_T: Tensor) -> Tensor:
        return F.embedding(token_ids_T, self.embed)

    def _qkv(self, normed_TE: Tensor, layer: _Layer) -> Tensor:
        return self._product(normed_TE, layer.qkv, layer.qkv_bias)

    def _out(self, layer: _Layer, out_TF: Tensor) -> Tensor:
        return self._product(out_TF, layer.out)

    def _mlp(self, layer: _Layer, hidden_TE: Tensor) -> Tensor:
        normed_TE = _rms_norm(hidden_TE, layer.mlp_norm, self.config.norm_eps).to(hidden_TE.dtype)
        gate, up = self._product(normed_TE, layer.gate_up).chunk(2, -1)
        return self._product(F.silu(gate) * up, layer.down)

    def rotary(self, positions_T: Tensor) -> Rotary:
        """Factors ``[T, 1, D]`` of ``x * cos + roll(x, D / 2) * sin``, the sign within sin."""
        cos, sin = self.cos_PD[positions_T], self.sin_PD[positions_T]
        return torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None]

    def _logits(self, hidden_NE: Tensor) -> Tensor:
        """Float32 products with the head; rounding logits to bfloat16 would tie 5 % of arg-maxes.

        Slices of a bfloat16 head are widened in cache: 6.1 ms for one row of SmolLM2, 4.6 ms with
        a bfloat16 product, 11.5 ms with a float32 head (two cores).
        """
        vocab, hidden = self.head.shape
        logits_NV = hidden_NE.new_empty(len(hidden_NE), vocab)
        if len(hidden_NE):
            size = DEVICE_HEAD_SLICE if self.head.is_cuda else HEAD_SLICE
            step = max(size // hidden, 1)
            for start in range(0, vocab, step):
                weight = self.head[start : start + step].float()
                logits_NV[:, start : start + step] = self._product(hidden_NE, weight)
        return logits_NV


def steady_product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``F.linear`` whose rows have the same bits however many there are.

    Few rows take other paths through the libraries than many do: so never fewer than MIN_ROWS are
    multiplied (zeros fill up) nor more than MAX_ROWS at once.
    """
    parts = []
    for part in torch.split(x_TI, MAX_ROWS):
        missing = max(MIN_ROWS - len(part), 0)
        padded = F.pad(part, (0, 0, 0, missing)) if missing else part
        parts.append(F.linear(padded, weight_OI, bias_O)[: len(part)])
    return torch.cat(parts) if parts else x_TI.new_empty(0, len(weight_OI))


class _Layer(NamedTuple):
    attn_norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], index: int) -> _Layer:
        def get(name: str) -> Tensor:
            return weights[f"layers.{index}.{name}"]

        def optional(name: str) -> Tensor | None:
            return weights.get(f"layers.{index}.{name}")

        return cls(
            attn_norm=get("attn_norm"),
            qkv=get("qkv"),
            out=get("out"),
            mlp_norm=get("mlp_norm"),
            gate_up=get("gate_up"),
            down=get("down"),
            qkv_bias=optional("qkv_bias"),
            qk_norm=optional("qk_norm"),
        )


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension, float32 in and out."""
    return F.rms_norm(x.float(), x.shape[-1:], weight, eps)
