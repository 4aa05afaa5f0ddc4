"""The Triton kernels, in the interpreter where there is no GPU: exact, and the same bits."""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from contexts import DTYPES, KV_DTYPES, Context, bits
from hypothesis import given
from hypothesis import strategies as st
from test_backends import FEW, SAME_BITS, Work
from tolerance import TOLERANCE, out_tolerance

from engine.attention.base import Kernel
from engine.attention.tree import MergeProgram, Node, Piece, cover
from engine.attention.triton import backend as triton_backend
from engine.attention.triton.backend import TritonBackend, why_not
from engine.core import BlockLayout
from engine.errors import ConfigError

WHY_NOT = why_not()
needs_triton = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


class Kernels(Kernel):
    """The launched kernels as a Kernel, over a context's memory."""

    fingerprint = "triton"

    def __init__(self, context: Context, **tiles: int) -> None:
        from engine.attention.triton.launch import Launch
        from engine.attention.triton.tiles import Tiles

        self.device = torch.device("cpu" if triton_backend.is_interpreted() else "cuda")
        if self.device.type == "cuda":
            context.memory = context.memory.pin_memory()
        memory = context.memory.view(-1)
        suited = replace(Tiles.suited(), **tiles)
        self.launch = Launch(context.layout, context.heads, memory, self.device, suited)
        self.dtype = DTYPES[context.layout.query_dtype]

    def attend(
        self,
        piece: Piece,
        q_THD: Any,
        layout: BlockLayout,
        layer: int,
        scale: float,
        out_RHD: Any,
        lse_RH: Any,
    ) -> None:
        out, lse = torch.tensor(out_RHD, device=self.device), torch.tensor(lse_RH).to(self.device)
        q = torch.tensor(q_THD).view(self.dtype).to(self.device)
        self.launch.attend(piece, q, layer, scale, out, lse)
        out_RHD[:], lse_RH[:] = out.cpu(), lse.cpu()

    def merge(self, program: MergeProgram, *rows: Any) -> None:
        there = [torch.tensor(x, device=self.device) for x in rows]
        self.launch.merge(program, *there)
        for x, y in zip(rows, there, strict=True):
            x[:] = y.cpu()


@st.composite
def contexts(draw: st.DrawFn, max_leaves: int = 9) -> Context:
    layout = BlockLayout(
        layers=draw(st.integers(1, 2), label="layers"),
        kv_heads=draw(st.integers(1, 2), label="kv_heads"),
        head_dim=draw(st.sampled_from([16, 64, 5, 80]), label="head_dim"),
        tokens=draw(st.sampled_from([4, 16, 33, 5]), label="tokens"),
        **draw(KV_DTYPES, label="dtypes"),
    )
    num_keys = draw(st.integers(1, max_leaves * layout.tokens), label="num_keys")
    return Context(
        layout,
        num_keys=num_keys,
        rows=draw(st.integers(1, min(num_keys, 9)), label="rows"),
        group=draw(st.sampled_from([1, 3, 4, 17]), label="group"),
        seed=draw(st.integers(0, 999), label="seed"),
        size=draw(st.sampled_from([1.0, 1e-3, 30.0]), label="size"),
        layer=draw(st.integers(0, layout.layers - 1), label="layer"),
    )


@needs_triton
@FEW
@given(context=contexts(), programs=st.sampled_from([1, 5, 1000]), data=st.data())
def test_each_node_is_exact_over_its_own_keys(
    context: Context, programs: int, data: st.DataObject
) -> None:
    """However the leaves are cut into programs; any set of them, none too."""
    kernel = Kernels(context, programs=programs)
    leaves = sorted(data.draw(st.sets(st.integers(0, context.num_leaves - 1)), label="leaves"))
    rows = context.attend(kernel, [context.segment(leaves)])
    own = torch.arange(len(context.q_THD))[:, None] + context.first_position
    causal = torch.arange(context.num_keys)[None, :] <= own
    key_leaf = torch.arange(context.num_keys) // context.layout.tokens
    q, k, v = context.q_THD, context.k_SKD, context.v_SKD
    largest = math.prod(x.double().norm(dim=-1).max().item() for x in (q, k)) * context.scale
    dtype = context.layout.dtype
    for node in cover(leaves):
        seen_TS = causal & ((key_leaf >> node.level) == node.index)
        want_out, want_lse = oracle.attention(q, k, v, context.scale, seen_TS)
        out, lse = (torch.tensor(x).double() for x in rows.node(0, node))
        assert torch.equal(lse == -math.inf, want_lse == -math.inf)
        seen = want_lse > -math.inf
        assert not seen.any() or (
            (lse - want_lse)[seen].abs().max() <= TOLERANCE[dtype] * (1 + largest)
        )
        bound = out_tolerance(dtype, kernel.fingerprint, largest)
        assert (out - want_out).abs().max() <= bound * v.double().abs().max()


@needs_triton
@FEW
@given(context=contexts(max_leaves=12), num_pieces=st.integers(1, 4), data=st.data())
def test_any_split_into_pieces_or_programs_gives_the_same_bits(
    context: Context, num_pieces: int, data: st.DataObject
) -> None:
    count = context.num_leaves
    owner = data.draw(
        st.lists(st.integers(0, num_pieces - 1), min_size=count, max_size=count), label="owner"
    )
    one = context.whole(Kernels(context), [context.segment(range(count))])
    pieces = [
        context.segment([leaf for leaf in range(count) if owner[leaf] == piece])
        for piece in range(num_pieces)
    ]
    tiles = data.draw(
        st.fixed_dictionaries(
            {
                "programs": st.sampled_from([1, 7, 1000]),
                "pairs": st.sampled_from([8, 64]),
                "merges": st.sampled_from([1, 2]),
                "scratch_bytes": st.sampled_from([0, 10_000, 1 << 20]),
            }
        ),
        label="tiles",
    )
    split = context.whole(Kernels(context, **tiles), pieces)
    assert [bits(x) for x in split] == [bits(x) for x in one]


@needs_triton
def test_eight_leaves_have_the_same_bits_in_one_program_and_in_eight() -> None:
    layout = BlockLayout(layers=1, kv_heads=1, head_dim=16, tokens=4, dtype="float32")
    context = Context(layout, num_keys=32, rows=2, group=2, seed=1)
    one, eight = (
        context.attend(Kernels(context, programs=programs), [context.segment(range(8))])
        for programs in (1, 1000)
    )
    assert bits(one.out) == bits(eight.out)
    assert bits(one.lse) == bits(eight.lse)


@needs_triton
@FEW
@given(context=contexts(max_leaves=4))
def test_garbage_behind_the_last_key_never_leaks(context: Context) -> None:
    segment = context.segment(range(context.num_leaves))
    kernel = Kernels(context)
    with_nan = context.attend(kernel, [segment])
    context.fill_behind_the_last_key(-1.0)
    with_numbers = context.attend(kernel, [segment])
    assert not np.isnan(with_nan.out).any()
    assert not np.isnan(with_nan.lse).any()
    assert bits(with_nan.out) == bits(with_numbers.out)
    assert bits(with_nan.lse) == bits(with_numbers.lse)


@needs_triton
@FEW
@given(
    num=st.integers(1, 9),
    gap=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_merge_is_exact_over_any_gap_and_any_empties(
    num: int, gap: float, seed: int, data: st.DataObject
) -> None:
    """And where no more than one is not empty, it is that one, bit by bit."""
    layout = BlockLayout(layers=1, kv_heads=1, head_dim=20, tokens=4, dtype="float32")
    context = Context(layout, num_keys=4, rows=3, group=2, seed=0)
    rng = np.random.default_rng(seed)
    out_NTHD = rng.standard_normal((num, 3, 2, 20), np.float32)
    lse_NTH = (gap * rng.standard_normal((num, 3, 2))).astype(np.float32)
    out_NTHD[:, 0], lse_NTH[:, 1] = -0.0, -0.0
    empty = data.draw(st.sets(st.integers(0, num - 1)), label="empty")
    for n in empty:
        out_NTHD[n], lse_NTH[n] = 0.0, -math.inf
    at = data.draw(st.permutations(range(num)), label="rows")
    program = MergeProgram.of([(0, 3)], [{Node(0, n): at[n] * 3 for n in range(num)}])
    rows_out, rows_lse = np.empty_like(out_NTHD), np.empty_like(lse_NTH)
    rows_out[at], rows_lse[at] = out_NTHD, lse_NTH
    out, lse = np.empty((3, 2, 20), np.float32), np.empty((3, 2), np.float32)
    Kernels(context).merge(program, rows_out.reshape(-1, 2, 20), rows_lse.reshape(-1, 2), out, lse)
    want_out, want_lse = (
        x.numpy() for x in oracle.merge(torch.tensor(out_NTHD), torch.tensor(lse_NTH))
    )
    bound = TOLERANCE["float32"] * num
    finite = np.isfinite(want_lse)
    assert np.abs(out - want_out).max() <= bound * (1 + np.abs(out_NTHD).max())
    assert (lse[~finite] == -math.inf).all()
    error = np.abs(lse[finite] - want_lse[finite])
    assert (error <= bound * (1 + np.abs(lse[finite]))).all()
    if num - len(empty) == 1:
        (only,) = set(range(num)) - empty
        assert bits(out) == bits(out_NTHD[only])
        assert bits(lse) == bits(lse_NTH[only])


def test_without_triton_or_a_gpu_it_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = BlockLayout(layers=1, kv_heads=1, head_dim=8, tokens=4, dtype="float32")
    work = Work(layout, 1, {}, 0)
    with monkeypatch.context() as patch:
        patch.setattr(triton_backend, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"package triton: pip install 'lendkv\[triton\]'"):
            work.backend("triton")
    with monkeypatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(triton_backend, "find_spec", lambda name: object())
        with pytest.raises(ConfigError, match="needs a CUDA GPU.*TRITON_INTERPRET=1"):
            work.backend("triton")


def test_a_gpu_that_knows_no_fp8_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton would say so in a traceback, at the first step."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    for capability, dtype, refused in (
        ((8, 0), "fp8", True),
        ((8, 0), "int8", False),
        ((8, 9), "fp8", False),
        ((9, 0), "fp8", False),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        with pytest.raises(ConfigError) if refused else nullcontext() as caught:
            triton_backend._require_fp8(dtype, "cuda")
        assert not caught or "8.9 or later, and NVIDIA A100 has 8.0" in str(caught.value)


@needs_triton
def test_tiles_of_other_sizes_are_other_kernels() -> None:
    layout = BlockLayout(layers=1, kv_heads=1, head_dim=8, tokens=4, dtype="float32")
    work = Work(layout, 1, {0: [5]}, 0)
    usual = work.backend("triton")
    pool = usual.pool
    parts = {"shape": work.shape, "layout": layout, "pool": pool}
    other = TritonBackend(TritonBackend.Config(tile_rows=64), **parts)
    assert other.fingerprint != usual.fingerprint
    with pytest.raises(ConfigError, match="tile_rows is 48; it must be one of 16, 32, 64, 128"):
        TritonBackend(TritonBackend.Config(tile_rows=48), **parts)
    assert "triton" in SAME_BITS
