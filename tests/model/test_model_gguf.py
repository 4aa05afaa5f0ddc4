"""GGUF files written by the library gguf read back equal; damaged ones fail in one sentence."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from safetensors.torch import load_file
from tiny_models import make_tiny

from engine.errors import CheckpointError
from engine.model.checkpoint import describe, load
from engine.model.config import LlamaConfig
from engine.model.layout import fused_weights
from engine.model.tokenizer_gguf import byte_pair_tokenizer

LETTERS = [chr(byte) for byte in range(33, 127)]
TOKENS = ["<s>", "</s>", *LETTERS, "\u0120", "th", "the"]
MERGES = ["t h", "th e"]


def _write(
    folder: Path, target: Path, *, kind: GGMLQuantizationType | None = None, rope: bool = False
) -> LlamaConfig:
    """The checkpoint of a Hugging Face folder as GGUF, with a small BPE tokenizer."""
    config, tensors = describe(str(folder)), load_file(folder / "model.safetensors")
    arch = {"mistral": "llama"}.get(config.family, config.family)
    writer = gguf.GGUFWriter(target, arch)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.mlp_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_eot_token_id(2)
    if rope:
        writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, config.head_dim // 2, dtype="f4"))
    for fused in fused_weights(config):
        for part in fused.parts:
            array = tensors[part.huggingface].numpy()
            if part.num_heads and arch == "llama":
                halves = array.reshape(part.num_heads, 2, config.head_dim // 2, -1)
                array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
            if kind is not None and array.ndim == 2:
                writer.add_tensor(part.gguf, quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(part.gguf, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_gguf_gives_the_weights_of_the_folder(tmp_path: Path, family: str) -> None:
    folder = make_tiny(tmp_path / "model", family)
    config = _write(folder, tmp_path / "model.gguf")
    found = describe(str(tmp_path / "model.gguf"))
    assert found.shape == config.shape
    assert (found.qk_norm, found.qkv_bias, found.tied) == (config.qk_norm, config.qkv_bias, False)
    wanted = load(str(folder), "float32").weights
    weights = load(str(tmp_path / "model.gguf"), "float32").weights
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16", "Q4_1"])
def test_quantized_weights_are_close(tmp_path: Path, kind: str) -> None:
    folder = make_tiny(tmp_path / "model")
    _write(folder, tmp_path / "q.gguf", kind=GGMLQuantizationType[kind])
    wanted = load(str(folder), "float32").weights
    weights = load(str(tmp_path / "q.gguf"), "float32").weights
    for name, weight in weights.items():
        error = (weight - wanted[name]).norm() / wanted[name].norm()
        assert error < (0.1 if kind == "Q4_1" else 0.01)


def test_tokenizer_and_stop_tokens(tmp_path: Path) -> None:
    _write(make_tiny(tmp_path / "model"), tmp_path / "model.gguf")
    checkpoint = load(str(tmp_path / "model.gguf"), "float32")
    assert checkpoint.eos_ids == (1, 2)
    assert checkpoint.tokenizer is not None
    ids = checkpoint.tokenizer.encode("the cat</s>")
    assert [TOKENS[index] for index in ids] == ["<s>", "the", "\u0120", *"cat", "</s>"]
    assert checkpoint.tokenizer.decode(ids) == "the cat"
    with pytest.raises(CheckpointError, match="no chat template"):
        checkpoint.tokenizer.chat([{"role": "user", "content": "hi"}])


def test_rope_factors_are_part_of_the_config(tmp_path: Path) -> None:
    _write(make_tiny(tmp_path / "model"), tmp_path / "model.gguf", rope=True)
    assert describe(str(tmp_path / "model.gguf")).rope.factors == tuple(range(1, 9))


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (0, "damaged or truncated .0 bytes."),
        (20, "damaged or truncated .20 bytes."),
        (700, "damaged or truncated .700 bytes."),
        (-64, r"is truncated: tensor \S+ ends at byte \d+ of \d+"),
    ],
)
def test_truncated_files(tmp_path: Path, keep: int, reason: str) -> None:
    path = tmp_path / "model.gguf"
    _write(make_tiny(tmp_path / "model"), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=reason):
        load(str(path), "float32")


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(CheckpointError, match="not a GGUF file of version 2 or 3"):
        describe(str(path))


def test_missing_and_wrong_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    _write(make_tiny(tmp_path / "model"), path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"blk.1.attn_k.weight", b"blk.1.attn_x.weight"))
    with pytest.raises(CheckpointError, match="has no tensor blk.1.attn_k.weight"):
        load(str(path), "float32")
    path.write_bytes(
        data.replace(b"feed_forward_length\4\0\0\0\x60", b"feed_forward_length\4\0\0\0\x40")
    )
    with pytest.raises(CheckpointError, match=r"ffn_gate.weight is \(96, 64\), \(64, 64\) wanted"):
        load(str(path), "float32")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokenizer.ggml.model": "llama"}, "GGUF tokenizer 'llama' is not supported"),
        ({"tokenizer.ggml.pre": "tekken"}, "pre-tokenizer 'tekken' is not supported"),
        ({"tokenizer.ggml.merges": ["q zz"]}, "tokenizer is not valid"),
    ],
)
def test_tokenizers_are_refused_by_name(change: dict[str, object], reason: str) -> None:
    base = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.merges": MERGES,
    }
    byte_pair_tokenizer(base)
    with pytest.raises(CheckpointError, match=reason):
        byte_pair_tokenizer(base | change)
    with pytest.raises(CheckpointError, match="no tokenizer.ggml.tokens"):
        byte_pair_tokenizer({k: base[k] for k in list(base)[:2]})
