"""Configs of transformers 4 and 5 read alike; unsupported models are refused with the reason."""

from typing import Any

import pytest

from engine.core import ModelShape
from engine.errors import CheckpointError
from engine.model.config import from_gguf, from_huggingface

BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
GGUF: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.vocab_size": 128,
}


def test_shape_holds_what_the_engine_must_know() -> None:
    assert from_huggingface(BASE).shape == ModelShape(
        num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, vocab_size=128, max_positions=512
    )


def test_keys_of_transformers_4_and_5_give_the_same_config() -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 128, "low_freq_factor": 1.0}
    version_4 = BASE | {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}}
    version_5 = BASE | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **scaling}}
    assert from_huggingface(version_4) == from_huggingface(version_5)
    assert from_huggingface(version_4).rope.theta == 5e5
    assert from_huggingface(BASE | {"rope_scaling": None}).rope.kind == "default"


def test_yarn_extends_the_positions() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert from_huggingface(BASE | {"rope_scaling": rope}).max_positions == 2048


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not one of llama"),
        ({"model_type": None}, "None is not one of"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding window attention .4096"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9}, "sliding win"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "MLA"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "MoE, num_local_experts = 8"),
        ({"model_type": "gemma2", "attn_logit_softcapping": 50.0}, "soft-capping"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config \(gptq\)"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope scaling 'longrope'"),
        ({"rope_scaling": "linear"}, "not a table"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": "64"}, "hidden_size = '64' is not a number"),
        ({"hidden_size": 64.5}, "64.5 is not an integer"),
        ({"num_key_value_heads": 3}, "4 query heads of 16 over 3 KV heads"),
        ({"num_hidden_layers": 0}, "a size below 1"),
    ],
)
def test_refusals_name_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        from_huggingface(BASE | change)


def test_unused_sliding_window_is_accepted() -> None:
    raw = BASE | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4096}
    assert from_huggingface(raw).qkv_bias
    assert from_huggingface(BASE | {"model_type": "mistral", "sliding_window": None})


def test_gguf_keys() -> None:
    config = from_gguf(GGUF, ["output.weight"])
    assert (config.num_kv_heads, config.head_dim, config.tied) == (4, 16, False)
    assert from_gguf(GGUF, []).tied
    assert from_gguf(GGUF, [], (1.0,) * 8).rope.kind == "factors"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"general.architecture": "gemma3"}, "'gemma3' is not one of"),
        ({"llama.expert_count": 8}, "MoE"),
        ({"llama.attention.sliding_window": 1024}, "1024 positions"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8, but head_dim is 16"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope'"),
        ({"llama.block_count": None}, "GGUF metadata has no llama.block_count"),
    ],
)
def test_gguf_refusals_name_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        from_gguf(GGUF | change, [])


def test_gguf_rope_factors_must_fit() -> None:
    with pytest.raises(CheckpointError, match="rope_freqs has 3 factors"):
        from_gguf(GGUF, [], (1.0, 2.0, 3.0))
