"""A tiny model of random weights, for benchmarks of memory and messages rather than of arithmetic.

It is written once, beside the cache of converted weights, so that it is converted once as well.
"""

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.model.config import from_huggingface
from engine.model.layout import fused_weights
from engine.native.library import cache_folder

VOCABULARY = 128
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1 << 20,
}


def tiny_model() -> Path:
    """Its Hugging Face folder, without a tokenizer."""
    target = cache_folder() / "bench" / "tiny"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    made = torch.Generator().manual_seed(0)
    parts = [part for fused in fused_weights(from_huggingface(CONFIG)) for part in fused.parts]
    weights = {part.huggingface: torch.randn(part.shape, generator=made) / 4 for part in parts}
    partial = Path(tempfile.mkdtemp(dir=target.parent))
    save_file(weights, partial / "model.safetensors")
    (partial / "config.json").write_text(json.dumps(CONFIG))
    os.replace(partial, target)
    return target
