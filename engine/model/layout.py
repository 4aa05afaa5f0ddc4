"""Which tensors of a checkpoint make up each fused weight, and their shapes. No torch, no files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from engine.model.config import LlamaConfig


class Part(NamedTuple):
    """One tensor of a checkpoint; ``num_rows`` repeats a vector as rows of the fused matrix."""

    huggingface: str
    gguf: str
    shape: tuple[int, ...]
    num_heads: int = 0
    """query or key rows of this many heads: permuted in a GGUF file of architecture llama"""
    num_rows: int = 0


class Fused(NamedTuple):
    """One weight of ``Llama``: its parts one below the other."""

    name: str
    parts: tuple[Part, ...]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str | None:
        """float32 for norms, else whatever the model runs in."""
        return "float32" if self.name.endswith("norm") else None

    @property
    def multiplies(self) -> bool:
        """Whether rows are multiplied by it."""
        return self.name.rpartition(".")[2] in ("qkv", "out", "gate_up", "down", "head")


def fused_weights(config: LlamaConfig, *, own_head: bool = False) -> Iterator[Fused]:
    """All weights in the order in which the forward pass reads them.

    ``own_head``: a head even where it is the same matrix as the embedding.
    """
    hidden, vocab = config.hidden_size, config.vocab_size
    embed = Part("model.embed_tokens.weight", "token_embd.weight", (vocab, hidden))
    yield _fused("embed", embed)
    for layer in range(config.num_layers):
        yield from _layer(config, layer)
    yield _fused("norm", Part("model.norm.weight", "output_norm.weight", (hidden,)))
    if not config.tied:
        yield _fused("head", Part("lm_head.weight", "output.weight", (vocab, hidden)))
    elif own_head:
        yield _fused("head", embed)


def _layer(config: LlamaConfig, layer: int) -> Iterator[Fused]:
    hidden, mlp, dim = config.hidden_size, config.mlp_size, config.head_dim
    q_heads, k_heads = config.num_heads, config.num_kv_heads

    def part(
        huggingface: str, gguf: str, *shape: int, num_heads: int = 0, num_rows: int = 0
    ) -> Part:
        names = f"model.layers.{layer}.{huggingface}", f"blk.{layer}.{gguf}"
        return Part(*names, shape, num_heads, num_rows)

    def fused(name: str, *parts: Part) -> Fused:
        return _fused(f"layers.{layer}.{name}", *parts)

    yield fused("attn_norm", part("input_layernorm.weight", "attn_norm.weight", hidden))
    yield fused(
        "qkv",
        part("self_attn.q_proj.weight", "attn_q.weight", q_heads * dim, hidden, num_heads=q_heads),
        part("self_attn.k_proj.weight", "attn_k.weight", k_heads * dim, hidden, num_heads=k_heads),
        part("self_attn.v_proj.weight", "attn_v.weight", k_heads * dim, hidden),
    )
    if config.qkv_bias:
        yield fused(
            "qkv_bias",
            part("self_attn.q_proj.bias", "attn_q.bias", q_heads * dim),
            part("self_attn.k_proj.bias", "attn_k.bias", k_heads * dim),
            part("self_attn.v_proj.bias", "attn_v.bias", k_heads * dim),
        )
    if config.qk_norm:
        yield fused(
            "qk_norm",
            part("self_attn.q_norm.weight", "attn_q_norm.weight", dim, num_rows=q_heads),
            part("self_attn.k_norm.weight", "attn_k_norm.weight", dim, num_rows=k_heads),
        )
    yield fused("out", part("self_attn.o_proj.weight", "attn_output.weight", hidden, q_heads * dim))
    yield fused("mlp_norm", part("post_attention_layernorm.weight", "ffn_norm.weight", hidden))
    yield fused(
        "gate_up",
        part("mlp.gate_proj.weight", "ffn_gate.weight", mlp, hidden),
        part("mlp.up_proj.weight", "ffn_up.weight", mlp, hidden),
    )
    yield fused("down", part("mlp.down_proj.weight", "ffn_down.weight", hidden, mlp))


def _fused(name: str, *parts: Part) -> Fused:
    shapes = [(part.num_rows, *part.shape) if part.num_rows else part.shape for part in parts]
    return Fused(name, parts, (sum(shape[0] for shape in shapes), *shapes[0][1:]))
