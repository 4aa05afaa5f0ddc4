"""Both kernels: exact against float64, and the same bits wherever and with whomever computed.

The bits are what lets a holder answer for the owner: a (query row, leaf) must not feel the number
of rows, pieces or threads, nor the garbage behind the last key.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from contexts import KV_DTYPES, Context, bits
from hypothesis import given
from hypothesis import strategies as st
from tolerance import TOLERANCE, out_tolerance

from engine.attention.base import Kernel
from engine.attention.kernel_native import NativeKernel, available_isas
from engine.attention.kernel_numpy import NumpyKernel
from engine.attention.tree import MergeProgram, Node, Piece, Segment, cover
from engine.core import BlockLayout

KERNELS: dict[str, Kernel] = {
    "numpy": NumpyKernel(),
    **{f"native-{isa}": NativeKernel(isa=isa) for isa in available_isas()},
}
pytestmark = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


@st.composite
def contexts(draw: st.DrawFn, max_leaves: int = 9) -> Context:
    layout = BlockLayout(
        layers=draw(st.integers(1, 2), label="layers"),
        kv_heads=draw(st.integers(1, 3), label="kv_heads"),
        head_dim=draw(st.sampled_from([8, 64, 16, 80, 128, 3, 32]), label="head_dim"),
        tokens=draw(st.sampled_from([4, 16, 64, 8, 32, 5]), label="tokens"),
        **draw(KV_DTYPES, label="dtypes"),
    )
    num_keys = draw(st.integers(1, max_leaves * layout.tokens), label="num_keys")
    return Context(
        layout,
        num_keys=num_keys,
        rows=draw(st.integers(1, min(num_keys, 40)), label="rows"),
        group=draw(st.sampled_from([1, 3, 2, 4, 7, 8]), label="group"),
        seed=draw(st.integers(0, 999), label="seed"),
        size=draw(st.sampled_from([1.0, 1e-3, 30.0]), label="size"),
        layer=draw(st.integers(0, layout.layers - 1), label="layer"),
    )


def some_context(**changes: Any) -> Context:
    layout = BlockLayout(layers=1, kv_heads=2, head_dim=64, tokens=16, dtype="bfloat16")
    settings = {"num_keys": 150, "rows": 5, "group": 3, "seed": 0} | changes
    return Context(settings.pop("layout", layout), **settings)


def assert_close(
    kernel: Kernel, context: Context, seen_TS: torch.Tensor, out_THD: Any, lse_TH: Any
) -> None:
    """Against the oracle over ``seen_TS``, by the table of tolerances."""
    q, k, v = context.q_THD, context.k_SKD, context.v_SKD
    out, lse = oracle.attention(q, k, v, context.scale, seen_TS)
    # An upper bound of |q| |k| is what rounding of a sum of products is relative to.
    largest = (q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max() * context.scale).item()
    dtype = context.layout.dtype
    bound = TOLERANCE[dtype] * (1 + largest)
    out_bound = out_tolerance(dtype, kernel.fingerprint, largest)
    got_out, got_lse = torch.tensor(out_THD).double(), torch.tensor(lse_TH).double()
    assert torch.equal(got_lse == -math.inf, lse == -math.inf)
    seen = lse > -math.inf
    assert (got_lse - lse)[seen].abs().max().item() <= bound if seen.any() else True
    assert (got_out - out).abs().max().item() <= out_bound * v.double().abs().max().item()


def causal(context: Context) -> torch.Tensor:
    own = torch.arange(len(context.q_THD))[:, None] + context.first_position
    return torch.arange(context.num_keys)[None, :] <= own


@given(context=contexts())
def test_attention_over_all_keys_is_exact(kernel: Kernel, context: Context) -> None:
    whole = context.whole(kernel, [context.segment(range(context.num_leaves))])
    assert_close(kernel, context, causal(context), *whole)


@given(context=contexts(), data=st.data())
def test_each_node_is_exact_over_its_own_keys(
    kernel: Kernel, context: Context, data: st.DataObject
) -> None:
    leaves = sorted(data.draw(st.sets(st.integers(0, context.num_leaves - 1)), label="leaves"))
    rows = context.attend(kernel, [context.segment(leaves)])
    key_leaf = torch.arange(context.num_keys) // context.layout.tokens
    for node in cover(leaves):
        seen = causal(context) & ((key_leaf >> node.level) == node.index)
        assert_close(kernel, context, seen, *rows.node(0, node))


@given(context=contexts(max_leaves=20), num_pieces=st.integers(1, 4), data=st.data())
def test_any_split_of_the_leaves_gives_the_same_bits(
    kernel: Kernel, context: Context, num_pieces: int, data: st.DataObject
) -> None:
    count = context.num_leaves
    owner = data.draw(
        st.lists(st.integers(0, num_pieces - 1), min_size=count, max_size=count), label="owner"
    )
    split = context.whole(
        kernel,
        [
            context.segment([leaf for leaf in range(count) if owner[leaf] == piece])
            for piece in range(num_pieces)
        ],
    )
    one = context.whole(kernel, [context.segment(range(count))])
    assert bits(split[0]) == bits(one[0])
    assert bits(split[1]) == bits(one[1])


@given(context=contexts(), data=st.data())
def test_a_row_has_the_same_bits_alone_and_among_others(
    kernel: Kernel, context: Context, data: st.DataObject
) -> None:
    num_rows = len(context.q_THD)
    leaves = range(context.num_leaves)
    together = context.attend(kernel, [context.segment(leaves)])
    cuts = sorted(data.draw(st.sets(st.integers(1, num_rows)), label="cuts") | {num_rows})
    starts = [0, *cuts[:-1]]
    parts = [
        context.segment(leaves, start, stop - start)
        for start, stop in zip(starts, cuts, strict=True)
    ]
    apart = context.attend(kernel, parts)
    for node in cover(leaves):
        for of_all, of_parts in zip(
            together.node(0, node),
            zip(*(apart.node(s, node) for s in range(len(parts))), strict=True),
            strict=True,
        ):
            assert bits(of_all) == bits(np.concatenate(of_parts))


@given(context=contexts())
def test_garbage_behind_the_last_key_never_leaks(kernel: Kernel, context: Context) -> None:
    segment = context.segment(range(context.num_leaves))
    with_nan = context.attend(kernel, [segment])
    context.fill_behind_the_last_key(-1.0)
    with_numbers = context.attend(kernel, [segment])
    assert not np.isnan(with_nan.out).any()
    assert not np.isnan(with_nan.lse).any()
    assert bits(with_nan.out) == bits(with_numbers.out)
    assert bits(with_nan.lse) == bits(with_numbers.lse)


@given(context=contexts())
def test_outputs_lie_between_the_smallest_and_largest_value(
    kernel: Kernel, context: Context
) -> None:
    out, _ = context.whole(kernel, [context.segment(range(context.num_leaves))])
    v_SHD = context.v_SKD.double().repeat_interleave(
        context.heads // context.layout.kv_heads, dim=1
    )
    slack = 64 * TOLERANCE[context.layout.dtype] * v_SHD.abs().max().item()
    got = torch.tensor(out).double()
    assert (got >= v_SHD.min(dim=0).values - slack).all()
    assert (got <= v_SHD.max(dim=0).values + slack).all()


def test_equal_keys_average_their_values(kernel: Kernel) -> None:
    context = some_context(rows=1, size=0.0)
    context.memory.zero_()
    out, lse = context.whole(kernel, [context.segment(range(context.num_leaves))])
    assert not out.any()
    assert np.allclose(lse, math.log(context.num_keys), rtol=TOLERANCE["float32"])


def test_equal_values_come_back_whatever_their_weights(kernel: Kernel) -> None:
    """A kernel that rounds weights divides by the sum of what it multiplied with."""
    context = some_context()
    blocks = context.memory.view(torch.bfloat16).view(-1, *context.layout.shape)
    blocks[:, :, :, 1] = 0.7
    out, _ = context.whole(kernel, [context.segment(range(context.num_leaves))])
    want = torch.tensor(0.7, dtype=torch.bfloat16).item()
    assert np.abs(out - want).max() <= 8 * TOLERANCE["float32"] * want


def test_a_single_leaf_is_its_own_result(kernel: Kernel) -> None:
    context = some_context(num_keys=16, rows=1)
    node = context.attend(kernel, [context.segment([0])]).node(0, Node(0, 0))
    whole = context.whole(kernel, [context.segment([0])])
    assert [bits(part) for part in node] == [bits(part) for part in whole]


def test_rows_before_a_leaf_are_empty_in_it(kernel: Kernel) -> None:
    context = some_context(num_keys=40, rows=40)
    out, lse = context.attend(kernel, [context.segment([1])]).node(0, Node(0, 1))
    assert not out[:16].any()
    assert (lse[:16] == -math.inf).all()
    assert np.isfinite(lse[16:]).all()


def test_nothing_to_do_is_done(kernel: Kernel) -> None:
    context = some_context()
    for segments in ([], [context.segment([])], [context.segment([0], 0, 0)]):
        assert len(context.attend(kernel, segments).lse) == 0
    out, lse = context.whole(kernel, [context.segment([])])
    assert not out.any()
    assert (lse == -math.inf).all()


def test_decode_among_hundreds_of_rows_has_the_same_bits(kernel: Kernel) -> None:
    """More rows than one native unit holds, and the pair and float paths of bfloat16 keys."""
    layout = BlockLayout(layers=1, kv_heads=1, head_dim=64, tokens=64, dtype="bfloat16")
    context = some_context(layout=layout, num_keys=330, rows=300)
    many, _ = context.whole(kernel, [context.segment(range(context.num_leaves))])
    for row in (0, 63, 64, 171, 299):
        own_leaves = (context.first_position + row) // layout.tokens + 1
        one, _ = context.whole(kernel, [context.segment(range(own_leaves), row, 1)])
        assert bits(one[row : row + 1]) == bits(many[row : row + 1])


def test_wrong_arguments_are_refused_with_numbers(kernel: Kernel) -> None:
    context = some_context()
    piece = Piece.of([context.segment([0])])
    rows = context.attend(kernel, [context.segment([0])])
    good = [piece, context.q, context.layout, 0, 1.0, rows.out, rows.lse]
    outside = Piece.of([Segment(4, 2, 0, (0,), (context.addresses[0],))])
    for at, wrong, text in (
        (0, outside, "query row 6 of 5"),
        (1, context.q.astype(np.float64), "float64"),
        (1, context.q[:, :5], "6 heads|5|contiguous"),
        (2, dataclasses.replace(context.layout, head_dim=32), "heads of 64"),
        (2, dataclasses.replace(context.layout, tokens=512), "tokens=512"),
        (2, dataclasses.replace(context.layout, dtype="int4"), "int4"),
        (3, 1, "layer 1 of 1"),
        (5, rows.out[:-1], "node rows"),
        (6, rows.lse.astype(np.float64), "float64"),
    ):
        with pytest.raises(ValueError, match=text):
            kernel.attend(*[wrong if i == at else good[i] for i in range(len(good))])
    finished = np.empty((5, 6, 64), np.float32), np.empty((5, 6), np.float32)
    for program in (
        MergeProgram.of([(0, 6)], [{}]),
        MergeProgram.of([(0, 5)], [{Node(0, 0): 1}]),
        MergeProgram.of([(0, 5)], [{Node(0, 0): 0, Node(0, 1): 5}]),
    ):
        with pytest.raises(ValueError, match="of 5"):
            kernel.merge(program, rows.out, rows.lse, *finished)
