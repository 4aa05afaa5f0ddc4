"""A checkpoint of ours as a folder of the transformers library."""

from pathlib import Path

import transformers
from safetensors.torch import save_file

from engine.model.checkpoint import Checkpoint
from engine.model.huggingface import SINGLE


def unfused_folder(path: Path, checkpoint: Checkpoint) -> Path:
    """Our weights as the library would save them."""
    config, weights = checkpoint.config, checkpoint.weights
    names = {
        "input_layernorm.weight": "attn_norm",
        "self_attn.o_proj.weight": "out",
        "post_attention_layernorm.weight": "mlp_norm",
        "mlp.down_proj.weight": "down",
    }
    state = {"model.embed_tokens.weight": weights["embed"], "model.norm.weight": weights["norm"]}
    kv_size = config.num_kv_heads * config.head_dim
    for index in range(config.num_layers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        state |= {theirs + a: weights[ours + b] for a, b in names.items()}
        q, k, v = weights[ours + "qkv"].split([config.hidden_size, kv_size, kv_size])
        gate, up = weights[ours + "gate_up"].chunk(2)
        parts = {"self_attn.q": q, "self_attn.k": k, "self_attn.v": v, "mlp.gate": gate}
        state |= {f"{theirs}{a}_proj.weight": b for a, b in (parts | {"mlp.up": up}).items()}
    path.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path / SINGLE)
    library_config = transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
        tie_word_embeddings=True,
    )
    library_config.save_pretrained(path)
    return path
