"""Models of random weights for bench.gpu, and the same weights in transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.model.config import LlamaConfig, from_huggingface
from engine.model.layout import fused_weights

LLAMA_3_8B: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
}
"""the keys of its config.json, which both libraries read"""
DEVIATION = 0.02


class RandomModel:
    """Weights as ``Llama`` takes them, on ``device``; norms are ones."""

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        self.settings, self.dtype, self.device = settings, dtype, device
        self.config: LlamaConfig = from_huggingface(settings)
        self.weights: dict[str, Tensor] = {}
        for fused in fused_weights(self.config):
            if fused.dtype:
                self.weights[fused.name] = torch.ones(fused.shape, device=device)
            else:
                weight = torch.empty(fused.shape, dtype=dtype, device=device)
                self.weights[fused.name] = weight.normal_(0.0, DEVIATION)

    @property
    def read_bytes(self) -> int:
        """Of the matrices that each step reads whole: all but the embedding."""
        multiplied = {fused.name for fused in fused_weights(self.config) if fused.multiplies}
        return sum(self.weights[name].nbytes for name in multiplied)

    def in_transformers(self, attention: str) -> Any:
        """The library's model over the same memory, so that a GPU has the matrices once."""
        import transformers

        config = transformers.LlamaConfig(**self.settings, tie_word_embeddings=False)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=self.dtype, attn_implementation=attention
            )
        parts = {}
        for fused in fused_weights(self.config):
            rows = [part.shape[0] for part in fused.parts]
            for part, weight in zip(fused.parts, self.weights[fused.name].split(rows), strict=True):
                parts[part.huggingface] = weight.to(self.dtype)
        model.load_state_dict(parts, assign=True)
        # Its factors are in no state, so they are on no device yet.
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(self.device)
        return model.eval()
