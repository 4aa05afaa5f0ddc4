"""8-bit keys and values: how far they are from what was written, and that all write the same."""

import math

import pytest
import torch
from contexts import DTYPES
from hypothesis import given
from hypothesis import strategies as st
from test_backends import FEW, QUICK, Work

from engine.attention.kernel_numpy import _FP8
from engine.attention.stored import LARGEST, blocks_of, narrow, widen
from engine.core import BlockLayout, Plan, Span
from engine.memory.base import header_bytes

SCALED = pytest.mark.parametrize("dtype", ["int8", "fp8"])
ROWS = st.builds(
    lambda seed, dim, size, dtype: (
        torch.randn(5, dim, generator=torch.Generator().manual_seed(seed)) * size
    ).to(DTYPES[dtype]),
    seed=st.integers(0, 9999),
    dim=st.sampled_from([1, 5, 64]),
    size=st.sampled_from([1.0, 1e-4, 1e-20, 1e4]),
    dtype=st.sampled_from(list(DTYPES)),
)


@SCALED
@given(x=ROWS)
def test_an_item_is_as_near_as_8_bits_can_be(dtype: str, x: torch.Tensor) -> None:
    """Integers: half a step of the row's scale. Floats: half of the last of 3 bits of mantissa, or
    half of the smallest float."""
    items, scales = narrow(x, dtype)
    wrong, exact = (widen(items, scales).double() - x.double()).abs(), x.double().abs()
    scale = scales.double()[..., None]
    near = scale / 2 if dtype == "int8" else torch.maximum(exact / 16, scale * 2.0**-10)
    assert (wrong <= near * (1 + 1e-5) + exact * 1e-6).all()
    assert items.float().abs().max() <= LARGEST[dtype]


@SCALED
@given(x=ROWS)
def test_what_was_read_is_stored_as_it_is(dtype: str, x: torch.Tensor) -> None:
    items, scales = narrow(x, dtype)
    again, _ = narrow(widen(items, scales), dtype)
    assert torch.equal(again.view(torch.int8), items.view(torch.int8))


@SCALED
def test_zeros_stay_zeros_and_what_is_not_finite_does_not_look_finite(dtype: str) -> None:
    rows = torch.tensor([[0.0, -0.0], [1e-31, 1e-38], [math.nan, 1.0], [1.0, math.inf]])
    read = widen(*narrow(rows, dtype))
    assert not read[:2].any()
    assert not read[2:].isfinite().any()


def test_numpy_knows_every_8_bit_float() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    want = codes.view(torch.float8_e4m3fn).float()
    assert torch.equal(torch.tensor(_FP8).nan_to_num(1e9), want.nan_to_num(1e9))


def test_a_block_of_8_bits_is_about_half_of_one_of_16() -> None:
    sizes = {
        dtype: BlockLayout(layers=2, kv_heads=8, head_dim=128, tokens=64, dtype=dtype).block_bytes
        for dtype in ("bfloat16", "int8", "fp8")
    }
    assert sizes["int8"] == sizes["fp8"] == 2 * 8 * 2 * 64 * (128 + 4)
    assert sizes["bfloat16"] / sizes["int8"] == pytest.approx(1.94, abs=0.005)


@st.composite
def works(draw: st.DrawFn) -> Work:
    """One chunk of one sequence."""
    layout = BlockLayout(
        layers=draw(st.integers(1, 2)),
        kv_heads=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from([5, 64, 16])),
        tokens=draw(st.sampled_from([5, 16, 3])),
        dtype=draw(st.sampled_from(["int8", "fp8"])),
        queries=draw(st.sampled_from(list(DTYPES))),
    )
    size = draw(st.sampled_from([1.0, 1e-3, 100.0, 0.0]))
    return Work(layout, 1, {0: [draw(st.integers(1, 20))]}, draw(st.integers(0, 99)), size)


@pytest.mark.parametrize("name", [name for name in QUICK if name != "reference"])
@given(work=works())
def test_a_block_does_not_show_who_wrote_it(name: str, work: Work) -> None:
    assert written(name, work) == written("reference", work)


@FEW
@given(work=works())
def test_a_block_does_not_show_that_triton_wrote_it(work: Work) -> None:
    assert written("triton", work) == written("reference", work)


def written(name: str, work: Work) -> bytes:
    """The pool behind one chunk's writes; every byte that none wrote is 0xff."""
    backend, (table,), (rows,) = work.backend(name), work.tables().values(), work.chunks[0]
    backend.begin(Plan(1, (0,) * rows, (Span(0, 0, rows, 0, table, 0),)))
    for layer in range(work.layout.layers):
        _, k_TKD, v_TKD = work.tensors(0, layer)
        backend.write(k_TKD, v_TKD, layer)
    blocks = backend.pool.region[header_bytes(backend.pool.num_blocks) :]
    _, scales = blocks_of(torch.frombuffer(blocks, dtype=torch.uint8), work.layout)
    assert scales is not None
    assert int(scales.isfinite().sum()) == 2 * rows * work.layout.kv_heads * work.layout.layers
    return bytes(blocks)
