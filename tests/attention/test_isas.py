"""The native kernel's instruction sets: which there are, and which of them share their bits."""

import numpy as np
import oracle
import pytest
import torch
from contexts import DTYPES, Context, bits
from hypothesis import given
from hypothesis import strategies as st
from tolerance import TOLERANCE, out_tolerance

from engine.attention.kernel_native import ISAS, NativeKernel, available_isas
from engine.core import BlockLayout

QUERIES = {"int8": "bfloat16", "fp8": "bfloat16"}
PAIRS = ("avx512_bf16", "amx")
KERNELS = {isa: NativeKernel(isa=isa) for isa in available_isas()}


def some_context(
    dtype: str, group: int = 3, rows: int = 17, size: float = 1.0, num_keys: int = 150
) -> Context:
    layout = BlockLayout(
        layers=1, kv_heads=2, head_dim=64, tokens=16, dtype=dtype, queries=QUERIES.get(dtype, "")
    )
    return Context(layout, num_keys=num_keys, rows=rows, group=group, seed=3, size=size)


def test_portable_code_runs_anywhere_and_the_fastest_is_the_default() -> None:
    isas = available_isas()
    assert isas[0] == "portable"
    assert [isa for isa in ISAS if isa in isas] == list(isas)
    assert NativeKernel().isa == isas[-1]


def test_a_fingerprint_names_the_instruction_set() -> None:
    fingerprints = [kernel.fingerprint for kernel in KERNELS.values()]
    assert [fingerprint.rpartition("/")[2] for fingerprint in fingerprints] == list(KERNELS)


def test_an_instruction_set_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="avx1024.*portable"):
        NativeKernel(isa="avx1024")


@given(
    dtype=st.sampled_from([*DTYPES, *QUERIES]),
    group=st.sampled_from([1, 3, 7]),
    rows=st.sampled_from([1, 2, 17]),
    size=st.sampled_from([1.0, 1e-3, 30.0]),
)
def test_only_products_of_pairs_have_bits_of_their_own(
    dtype: str, group: int, rows: int, size: float
) -> None:
    """Else each operation rounds each lane once, whatever the width of the registers."""
    context = some_context(dtype, group, rows, size)
    segment = context.segment(range(context.num_leaves))
    results = {
        isa: [bits(part) for part in context.whole(kernel, [segment])]
        for isa, kernel in KERNELS.items()
        if dtype != "bfloat16" or isa not in PAIRS
    }
    for result in results.values():
        assert result == results["portable"]


@pytest.mark.parametrize("isa", KERNELS)
@given(
    dtype=st.sampled_from(list(DTYPES)),
    num_keys=st.integers(1, 1500),
    group=st.sampled_from([1, 3, 7]),
    rows=st.sampled_from([1, 2, 17]),
    threads=st.integers(2, 3),
)
def test_threads_change_no_bit(
    isa: str, dtype: str, num_keys: int, group: int, rows: int, threads: int
) -> None:
    """Long ones are cut into runs of leaves; heads of few rows share a unit, of many do not."""
    context = some_context(dtype, group, min(rows, num_keys), num_keys=num_keys)
    segments = [context.segment(range(context.num_leaves)), context.segment([0])]
    one = context.attend(KERNELS[isa], segments)
    many = context.attend(NativeKernel(threads, isa), segments)
    assert bits(one.out) == bits(many.out)
    assert bits(one.lse) == bits(many.lse)


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [-0.125, 0.0, 3.0])
def test_any_scale_is_exact(isa: str, dtype: str, scale: float) -> None:
    context = some_context(dtype)
    context.scale = scale
    out, lse = context.whole(KERNELS[isa], [context.segment(range(context.num_leaves))])
    own = torch.arange(17)[:, None] + context.first_position
    seen = torch.arange(150)[None, :] <= own
    want_out, want_lse = oracle.attention(context.q_THD, context.k_SKD, context.v_SKD, scale, seen)
    largest = 64 * abs(scale)
    bound = out_tolerance(dtype, KERNELS[isa].fingerprint, largest)
    assert np.abs(lse - want_lse.numpy()).max() <= TOLERANCE[dtype] * (1 + largest)
    assert np.abs(out - want_out.numpy()).max() <= bound * context.v_SKD.abs().max().item()


@pytest.mark.parametrize("isa", KERNELS)
def test_numbers_too_small_for_products_count_as_zero(isa: str) -> None:
    """Products of bfloat16 pairs know no denormal numbers; a softmax cannot tell."""
    context = some_context("bfloat16", size=1e-30)
    _, lse = context.whole(KERNELS[isa], [context.segment(range(context.num_leaves))])
    num_seen = np.arange(134, 151)[:, None]
    assert np.abs(lse - np.log(num_seen)).max() <= 4 * TOLERANCE["float32"]
