"""Tiny random Hugging Face checkpoints without a tokenizer, and what transformers says of them."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
LOGITS = {"rtol": 1e-4, "atol": 1e-4}
"""tolerance of float32 logits of a tiny model; they lie between -10 and 10"""


def make_tiny(
    path: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    num_layers: int = 2,
    vocab: int = 128,
    max_positions: int = 512,
    shard_size: str = "1GB",
    **overrides: Any,
) -> Path:
    """Write a random float32 checkpoint: hidden 64, 4 query and 2 KV heads of 16; returns ``path``.

    Weights are large enough that greedy tokens vary; every id of the vocabulary is ordinary.
    ``overrides`` go to the transformers config (``rope_parameters``, ``head_dim`` ...).
    """
    settings: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": max_positions,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if family == "mistral":
        settings["sliding_window"] = None
    config = transformers.AutoConfig.for_model(family, **(settings | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias"):  # ones and zeros hide a missing term
                    parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(path, max_shard_size=shard_size)
    return Path(path)


@lru_cache(maxsize=8)
def reference_model(path: Path) -> Any:
    """The checkpoint in transformers, float32, eager attention."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


@torch.inference_mode()
def reference_logits(path: Path, token_ids: list[int]) -> torch.Tensor:
    """Float32 logits ``[T, V]`` of every position."""
    return reference_model(path)(torch.tensor([token_ids]), use_cache=False).logits[0]


def reference_tokens(path: Path, prompt_ids: list[int], num_tokens: int) -> list[int]:
    """The ``num_tokens`` greedy tokens after the prompt, end-of-sequence ids ignored."""
    rows = list(prompt_ids)
    for _ in range(num_tokens):
        rows.append(int(reference_logits(path, rows)[-1].argmax()))
    return rows[len(prompt_ids) :]
