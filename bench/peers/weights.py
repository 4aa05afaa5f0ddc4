"""The embedded model's weights in the forms that peers read: the same numbers, written once."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.model.checkpoint import embedded
from engine.model.gguf import GgufFile
from engine.model.layout import fused_weights
from engine.native.library import cache_folder


def written(name: str, write: Callable[[Path], object]) -> Path:
    """The file or folder of that name among the peers' weights; made by ``write`` when missing."""
    target = cache_folder() / "peers" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{os.getpid()}-{name}")
        write(partial)
        partial.rename(target)
    return target


def huggingface_folder() -> Path:
    """BF16 in the layout of transformers."""
    return written("smollm2-bf16", lambda folder: write_folder(embedded(), folder))


def write_folder(gguf: Path, folder: Path) -> None:
    """A GGUF file of architecture llama, without rope scaling, as config.json and safetensors."""
    source = GgufFile(gguf)
    config = source.config
    tensors = {
        part.huggingface: source.read(part).to(torch.bfloat16).contiguous()
        for weight in fused_weights(config)
        for part in weight.parts
    }
    facts = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope.theta},
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(facts, indent=2))
