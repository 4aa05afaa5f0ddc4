"""LlamaConfig: what the Llama family's forward pass must know, and which models are refused.

Reads parsed config.json (keys of transformers 4 and 5) or GGUF metadata. No torch, no files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.core import ModelShape
from engine.errors import CheckpointError

MOST = 1e300
"""no number of a model is so large; a product of two is no float any more"""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """Rotary embedding; ``rope.py`` turns it into frequencies. Names as in config.json."""

    kind: str = "default"
    """default, linear, llama3, yarn, or factors (GGUF: a divisor for each frequency)"""
    theta: float = 10000.0
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaConfig:
    """A decoder of the Llama family with full attention."""

    family: str
    """llama, mistral, qwen2 or qwen3"""
    num_layers: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    tied: bool
    """the head is the embedding matrix"""
    rope: RopeConfig

    def __post_init__(self) -> None:
        sizes = (self.num_layers, self.hidden_size, self.mlp_size, self.num_kv_heads)
        if min(*sizes, self.head_dim, self.vocab_size, self.max_positions) < 1:
            raise CheckpointError(f"the model's config has a size below 1: {self}")
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise CheckpointError(
                f"{self.num_heads} query heads of {self.head_dim} over {self.num_kv_heads} KV "
                "heads: query heads must be a multiple of KV heads, and head_dim even"
            )

    @property
    def shape(self) -> ModelShape:
        return ModelShape(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            max_positions=self.max_positions,
        )

    @property
    def qkv_bias(self) -> bool:
        return self.family == "qwen2"

    @property
    def qk_norm(self) -> bool:
        return self.family == "qwen3"


def from_huggingface(raw: Mapping[str, Any]) -> LlamaConfig:
    """The config of a parsed config.json; CheckpointError says why a model is refused."""
    family = raw.get("model_type")
    _refuse(_unsupported(raw))
    if family not in FAMILIES:
        _refuse(f"model_type {family!r} is not one of {', '.join(FAMILIES)}")
    keys = _Keys(raw, "config.json")
    heads, hidden = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    max_positions = keys.integer("max_position_embeddings")
    rope = _rope_from_huggingface(raw, max_positions)
    if rope.kind == "yarn":  # Qwen2 keeps the unextended length in max_position_embeddings
        max_positions = max(max_positions, int(rope.original_max_positions * rope.factor))
    return LlamaConfig(
        family=str(family),
        num_layers=keys.integer("num_hidden_layers"),
        hidden_size=hidden,
        mlp_size=keys.integer("intermediate_size"),
        num_heads=heads,
        num_kv_heads=keys.integer("num_key_value_heads", heads),
        head_dim=keys.integer("head_dim", hidden // max(heads, 1)),
        vocab_size=keys.integer("vocab_size"),
        max_positions=max_positions,
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        tied=bool(raw.get("tie_word_embeddings", False)),
        rope=rope,
    )


def from_gguf(
    metadata: Mapping[str, Any],
    tensor_names: Collection[str],
    rope_factors: tuple[float, ...] = (),
) -> LlamaConfig:
    """The config of GGUF metadata; ``rope_factors`` is the file's rope_freqs tensor, if any."""
    family = metadata.get("general.architecture")
    if family not in ("llama", "qwen2", "qwen3"):
        _refuse(f"GGUF architecture {family!r} is not one of llama, qwen2, qwen3")
    prefix = f"{family}."
    raw = {key.removeprefix(prefix): v for key, v in metadata.items() if key.startswith(prefix)}
    keys = _Keys(raw, "the GGUF metadata", prefix)
    if keys.integer("expert_count", 0):
        _refuse("mixture of experts (MoE) layers are not supported")
    if keys.integer("attention.sliding_window", 0):
        window = raw["attention.sliding_window"]
        _refuse(f"sliding window attention ({window} positions) is in use")
    heads, hidden = keys.integer("attention.head_count"), keys.integer("embedding_length")
    head_dim = keys.integer("attention.key_length", hidden // max(heads, 1))
    for other in ("attention.value_length", "rope.dimension_count"):
        if keys.integer(other, head_dim) != head_dim:
            _refuse(f"{prefix}{other} is {raw[other]}, but head_dim is {head_dim}")
    max_positions = keys.integer("context_length")
    kind = raw.get("rope.scaling.type", "none")
    if kind not in ("none", "linear", "yarn"):
        _refuse(f"rope scaling {kind!r} is not supported (none, linear and yarn are)")
    if rope_factors and (kind != "none" or len(rope_factors) != head_dim // 2):
        _refuse(f"rope_freqs has {len(rope_factors)} factors with rope scaling {kind!r}")
    return LlamaConfig(
        family=str(family),
        num_layers=keys.integer("block_count"),
        hidden_size=hidden,
        mlp_size=keys.integer("feed_forward_length"),
        num_heads=heads,
        num_kv_heads=keys.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=keys.integer("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ()))),
        max_positions=max_positions,
        norm_eps=keys.number("attention.layer_norm_rms_epsilon", 1e-6),
        tied="output.weight" not in tensor_names,
        rope=RopeConfig(
            kind="factors" if rope_factors else "default" if kind == "none" else str(kind),
            theta=keys.number("rope.freq_base", 10000.0),
            factor=keys.number("rope.scaling.factor", 1.0),
            original_max_positions=keys.integer(
                "rope.scaling.original_context_length", max_positions
            ),
            beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
            factors=rope_factors,
        ),
    )


def _unsupported(raw: Mapping[str, Any]) -> str | None:
    """Why the model of this config.json cannot run, if a key tells."""
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        return f"quantization_config ({method}) is not supported: use float weights or a GGUF file"
    if raw.get("kv_lora_rank"):
        return "multi-head latent attention (MLA, kv_lora_rank) is not supported"
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if raw.get(key):
            return f"mixture of experts (MoE, {key} = {raw[key]}) is not supported"
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if raw.get(key):
            return f"soft-capping ({key} = {raw[key]}) is not supported"
    window = raw.get("sliding_window")
    used = window and (raw.get("model_type") == "mistral" or raw.get("use_sliding_window"))
    if used or "sliding_attention" in str(raw.get("layer_types")):
        return f"sliding window attention ({window} positions) is in use, only full attention runs"
    for key, wanted in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if raw.get(key, wanted) != wanted:
            return f"{key} = {raw[key]!r} is not supported, only {wanted!r}"
    return None


def _rope_from_huggingface(raw: Mapping[str, Any], max_positions: int) -> RopeConfig:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        _refuse(f"rope_parameters is {rope!r}, not a table")
    keys = _Keys({"rope_theta": raw.get("rope_theta")} | rope, "config.json's rope parameters")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "dynamic":  # scales only beyond max_position_embeddings, where we never go
        kind = "default"
    if kind not in ("default", "linear", "llama3", "yarn"):
        _refuse(
            f"rope scaling {kind!r} is not supported (default, linear, dynamic, llama3, yarn are)"
        )
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor") or 1.0) != 1.0:
        _refuse("partial rotary embedding (partial_rotary_factor below 1) is not supported")
    original = keys.integer("original_max_position_embeddings", max_positions)
    attention_factor = rope.get("attention_factor")
    return RopeConfig(
        kind=kind,
        theta=keys.number("rope_theta", 10000.0),
        factor=keys.number("factor", max_positions / max(original, 1) if kind == "yarn" else 1.0),
        original_max_positions=original,
        low_freq_factor=keys.number("low_freq_factor", 1.0),
        high_freq_factor=keys.number("high_freq_factor", 4.0),
        beta_fast=keys.number("beta_fast", 32.0),
        beta_slow=keys.number("beta_slow", 1.0),
        truncate=bool(rope.get("truncate", True)),
        attention_factor=keys.number("attention_factor") if attention_factor is not None else None,
        mscale=keys.number("mscale", 0.0),
        mscale_all_dim=keys.number("mscale_all_dim", 0.0),
    )


class _Keys:
    """Numbers by key; null counts as absent."""

    def __init__(self, raw: Mapping[str, Any], source: str, prefix: str = "") -> None:
        self.raw, self.source, self.prefix = raw, source, prefix

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{self.source} has no {self.prefix}{key}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self.source}: {self.prefix}{key} = {value!r} is not a number")
        if not abs(value) < MOST:  # nor is nan
            raise CheckpointError(f"{self.source}: {self.prefix}{key} = {value} is no such number")
        return float(value)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if not value.is_integer():
            raise CheckpointError(f"{self.source}: {self.prefix}{key} = {value} is not an integer")
        return int(value)


def _refuse(reason: str | None) -> None:
    if reason:
        raise CheckpointError(f"this model is not supported: {reason}")
