"""A model that asks more of attention than ours has is refused at start, with the reason."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import make_tiny

from engine.core import ModelShape
from engine.errors import CheckpointError
from engine.model.huggingface import read_json
from engine.model.transformers_checkpoint import TransformersCheckpoint, describe
from engine.model.transformers_model import ATTENTION, TransformersModel

FULL = ["full_attention", "full_attention"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products: threads that wait for one another cost four times the work itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mistral-window": ("mistral", {"sliding_window": 64}, "sliding window attention .64 pos"),
    "gemma3-sliding": (
        "gemma3_text",
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64},
        "sliding window attention .64 pos",
    ),
    "gemma2-softcap": (
        "gemma2",
        {"layer_types": FULL, "attn_logit_softcapping": 50.0},
        "soft-capping of attention scores",
    ),
    "gpt_oss-sinks": (
        "gpt_oss",
        {
            "layer_types": FULL,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        "attention sinks .s_aux. is in use",
    ),
    "mla": (
        "deepseek_v3",
        {
            "kv_lora_rank": 16,
            "q_lora_rank": None,
            "num_key_value_heads": 4,
            "first_k_dense_replace": 2,
        },
        "multi-head latent attention .MLA, kv_lora_rank = 16",
    ),
    "state-space": (
        "bamba",
        {
            "attn_layer_indices": [1],
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
        },
        "state-space or linear layers",
    ),
    "linear": (
        "lfm2",
        {"layer_types": ["conv", "full_attention"]},
        "state-space or linear layers|layers of type conv",
    ),
    "alibi": ("falcon", {"alibi": True}, "position bias"),
    "longrope": (
        "phi3",
        {
            "pad_token_id": 0,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 64,
            },
        },
        "longrope",
    ),
    "encoder": ("bert", {"num_key_value_heads": 4, "is_decoder": False}, "not causal"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_beyond_the_attention_contract_are_refused(name: str) -> None:
    family, settings, sentence = REFUSED[name]
    sizes: dict[str, Any] = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
    }
    if family == "falcon":
        del sizes["head_dim"]
    config = transformers.AutoConfig.for_model(family, **(sizes | settings))
    implementation = "eager" if family == "falcon" else ATTENTION
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=implementation
        )
    with pytest.raises(CheckpointError, match=sentence) as caught:
        TransformersModel(model, shape_of(model))
    assert "\n" not in str(caught.value)


def shape_of(model: Any) -> ModelShape:
    config = model.config
    heads = config.num_attention_heads
    return ModelShape(
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=config.vocab_size,
        max_positions=512,
    )


def library_model(implementation: str = ATTENTION) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=implementation
        )


def test_the_probe_sees_what_no_config_key_tells() -> None:
    model = library_model()
    shape = shape_of(model)
    TransformersModel(model, shape)
    with pytest.raises(CheckpointError, match=r"layers \[\] call the library's AttentionInterface"):
        TransformersModel(library_model(implementation="sdpa"), shape)
    wrong = ModelShape(
        num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, vocab_size=64, max_positions=512
    )
    with pytest.raises(CheckpointError, match="config.json says"):
        TransformersModel(model, wrong)
    broken = library_model()
    broken.model.layers[1].mlp.forward = torch.linalg.inv
    with pytest.raises(CheckpointError, match="cannot run packed rows: linalg"):
        TransformersModel(broken, shape)
    mixed = library_model()
    mlp = mixed.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda hidden: plain(hidden + hidden.roll(1, 1))
    with pytest.raises(CheckpointError, match="mix tokens outside attention"):
        TransformersModel(mixed, shape)
    counted = library_model()
    rotary = counted.model.rotary_emb
    turn = rotary.forward
    rotary.forward = lambda x, position_ids: turn(x, torch.arange(x.shape[1])[None])
    with pytest.raises(CheckpointError, match="count positions by row"):
        TransformersModel(counted, shape)


def edited(path: Path, **changes: Any) -> Path:
    raw = read_json(path / "config.json") | changes
    raw = {key: value for key, value in raw.items() if value != "absent"}
    (path / "config.json").write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantization_config \(fp8\)"),
        ({"is_encoder_decoder": True}, "encoder and cross attention"),
        ({"add_cross_attention": True}, "has cross attention"),
        ({"use_bidirectional_attention": True}, "only causal attention"),
        ({"num_kv_shared_layers": 1}, "share the keys and values"),
        ({"vocab_size": "absent"}, "config.json has no vocab_size"),
        ({"num_hidden_layers": "two"}, "'two' is not an integer"),
        ({"num_hidden_layers": 0}, "sizes must be at least 1"),
        ({"sliding_window": 8, "use_sliding_window": True}, "sliding window attention"),
    ],
)
def test_config_json_alone_is_enough_to_refuse(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    path = edited(make_tiny(tmp_path / "model", "llama"), **changes)
    with pytest.raises(CheckpointError, match=sentence):
        describe(str(path))


def test_damaged_or_foreign_folders_are_refused(tmp_path: Path) -> None:
    path = make_tiny(tmp_path / "model", "llama")
    with pytest.raises(CheckpointError, match="dtype 'int8' is not one of"):
        TransformersCheckpoint.load(str(path), "int8")
    with pytest.raises(CheckpointError, match="is not a folder"):
        TransformersCheckpoint.load(str(tmp_path / "gone"), "float32")
    more = edited(make_tiny(tmp_path / "more", "llama"), num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="9 tensors are missing, the first is model.layers.2"):
        TransformersCheckpoint.load(str(more), "float32")
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    own = edited(make_tiny(tmp_path / "own", "llama"), model_type="own", auto_map=code)
    (own / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(CheckpointError, match="code of its own folder"):
        TransformersCheckpoint.load(str(own), "float32")
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        TransformersCheckpoint.load(str(path), "float32")


def test_describe_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    path = make_tiny(tmp_path / "model", "gpt2", num_key_value_heads=None)
    code = (
        "import sys; from engine.model.transformers_checkpoint import describe\n"
        f"shape = describe({str(path)!r}).shape\n"
        "assert (shape.num_layers, shape.num_kv_heads, shape.head_dim) == (2, 4, 16), shape\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_eos_ids_and_text_configs(tmp_path: Path) -> None:
    path = make_tiny(tmp_path / "model", "llama", eos_token_id=[7, 9])
    checkpoint = TransformersCheckpoint.load(str(path), "float32")
    assert checkpoint.eos_ids == (7, 9)
    assert checkpoint.tokenizer is None
    inner = read_json(path / "config.json")
    (tmp_path / "both").mkdir()
    edited_raw = {"model_type": "two_towers", "text_config": inner, "vision_config": {}}
    (tmp_path / "both" / "config.json").write_text(json.dumps(edited_raw))
    assert describe(str(tmp_path / "both")) == checkpoint.config
