"""Rotating while writing is rotating and then writing, whichever backend does it."""

import pytest
import torch
from contexts import DTYPES, KV_DTYPES
from hypothesis import given
from hypothesis import strategies as st
from test_backends import FEW, QUICK, Work
from torch import Tensor

from engine.attention.stored import keys_and_values
from engine.core import BlockLayout, Plan, Span


@st.composite
def works(draw: st.DrawFn) -> Work:
    """One chunk of one sequence, perhaps without a row."""
    layout = BlockLayout(
        layers=draw(st.integers(1, 2), label="layers"),
        kv_heads=draw(st.integers(1, 3), label="kv_heads"),
        head_dim=draw(st.sampled_from([16, 64, 6]), label="head_dim"),
        tokens=draw(st.sampled_from([4, 16, 5]), label="tokens"),
        **draw(KV_DTYPES, label="dtypes"),
    )
    group, rows = draw(st.integers(1, 3), label="group"), draw(st.integers(1, 9), label="rows")
    return Work(layout, group, {0: [rows]}, draw(st.integers(0, 99), label="seed"))


def factors(rows: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    angle = torch.rand(rows, dim // 2, generator=torch.Generator().manual_seed(seed)) * 7
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None]


def rotated(x_THD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """In float64: pairs (x_d, x_{d + D/2}) turned by an angle."""
    half = x_THD.shape[-1] // 2
    cos, sin = (factor.double()[..., half:] for factor in rotary)
    a, b = x_THD.double()[..., :half], x_THD.double()[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def check(name: str, work: Work, *, wide: bool) -> None:
    """``wide``: queries and keys come in float32, as from a norm, and not in their own dtype."""
    (table,), (rows,), layout = work.tables().values(), work.chunks[0], work.layout
    dtype, last = DTYPES[layout.query_dtype], layout.layers - 1
    q, k, v = work.tensors(0, last)
    qk, rotary = torch.cat((q, k), 1), factors(rows, layout.head_dim, work.seed)
    qk = qk.float() * 1.001 if wide else qk
    want = rotated(qk, rotary)
    backends = [work.backend(name), work.backend(name)]
    for backend in backends:
        backend.begin(Plan(1, (0,) * rows, (Span(0, 0, rows, 0, table, 0),)))
    heads = work.shape.num_heads
    turned = want.to(dtype)
    backends[0].write(turned[:, heads:].contiguous(), v, last)
    got = backends[1].write_rotated(qk, v, rotary, last)
    assert got.dtype == dtype
    rounding = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert (got.double() - want[:, :heads]).abs().max() <= rounding * want.abs().max()
    for ref in table:
        (own_k, own_v), (k_KCD, v_KCD) = (
            keys_and_values(b.pool.block_address(ref.block), layout, last) for b in backends
        )
        # One bit of rounding before 8-bit items are chosen may choose the next one.
        near = {"int8": 1 / 127, "fp8": 1 / 8}.get(layout.dtype, rounding)
        assert torch.equal(v_KCD.nan_to_num(9), own_v.nan_to_num(9))
        wrong = (k_KCD - own_k).nan_to_num(0).abs()
        assert wrong.max() <= near * want.abs().max()
        assert torch.equal(k_KCD.isnan(), own_k.isnan())


@pytest.mark.parametrize("name", QUICK)
@given(work=works(), wide=st.booleans())
def test_rotated_writes(name: str, work: Work, wide: bool) -> None:
    check(name, work, wide=wide)


@FEW
@given(work=works(), wide=st.booleans())
def test_rotated_writes_of_triton(work: Work, wide: bool) -> None:
    check("triton", work, wide=wide)
