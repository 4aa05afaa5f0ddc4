"""The flash backend: exact within the rounding of its partials, whatever does the kernels' work.

On a CUDA GPU that is flash-attn or PyTorch; everywhere a stand-in that follows what they document,
so the cutting of nodes into what they take is tested without one.
"""

import math
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_backends import Work, works
from tolerance import TOLERANCE
from torch import Tensor

from engine.attention import flash
from engine.attention.flash import FlashBackend, Library
from engine.core import BlockLayout
from engine.errors import ConfigError

ROUNDED = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""of the largest value: a node's output in the model's dtype"""


def by_oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    most_rows: int,
    most_keys: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """As both libraries document it: causal masks end at the last row and the last key."""
    assert query_ends.dtype == key_ends.dtype == torch.int32
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], len(q))
    rows, keys = query_ends.tolist(), key_ends.tolist()
    assert (rows[-1], keys[-1]) == (len(q), len(k))
    for number in range(len(rows) - 1):
        at = slice(rows[number], rows[number + 1])
        of = slice(keys[number], keys[number + 1])
        num_rows, num_keys = at.stop - at.start, of.stop - of.start
        assert 0 < num_rows <= most_rows
        assert 0 < num_keys <= most_keys
        seen = torch.ones(num_rows, num_keys, dtype=torch.bool)
        seen = seen.tril(num_keys - num_rows) if causal else seen
        assert seen.any(dim=1).all(), "libraries differ in what such rows get"
        got_out, got_lse = oracle.attention(q[at], k[of], v[of], scale, seen)
        out[at], lse[:, at] = got_out.to(q.dtype), got_lse.T.float()
    return out, lse


STAND_IN = Library("stand-in", by_oracle, torch.device("cpu"))
CUDA = torch.device("cuda")
LIBRARIES = [
    pytest.param(STAND_IN, id="stand-in"),
    pytest.param(
        Library("PyTorch", flash.by_pytorch, CUDA),
        id="PyTorch",
        marks=pytest.mark.skipif(bool(flash.why_not()), reason=flash.why_not()),
    ),
    pytest.param(
        Library("flash-attn", flash.by_package, CUDA),
        id="flash-attn",
        marks=pytest.mark.skipif(
            bool(flash.why_not()) or find_spec("flash_attn") is None,
            reason="needs a CUDA GPU and the package flash-attn",
        ),
    ),
]


@pytest.mark.parametrize("library", LIBRARIES)
@given(work=works(), dtype=st.sampled_from(list(ROUNDED)))
def test_each_row_is_attention_over_its_own_earlier_keys(
    library: Library, work: Work, dtype: str
) -> None:
    dim = work.layout.head_dim if library is STAND_IN else 8 * work.layout.head_dim
    work = replace(work, layout=replace(work.layout, dtype=dtype, queries="", head_dim=dim))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash, "why_not", lambda: "")
        patch.setattr(flash, "pick", lambda: library)
        rows = work.run("flash")
    for sequence, chunks in work.chunks.items():
        causal = torch.ones(sum(chunks), sum(chunks), dtype=torch.bool).tril()
        for layer, (got_out, got_lse) in enumerate(rows[sequence]):
            q, k, v = work.tensors(sequence, layer)
            scale = dim**-0.5
            out, lse = oracle.attention(q, k, v, scale, causal)
            largest = math.prod(x.double().norm(dim=-1).max().item() for x in (q, k)) * scale
            bound = TOLERANCE[dtype] * (1 + largest)
            most = v.double().abs().max().item()
            # A GPU's kernels also round weights.
            rounded = ROUNDED[dtype] * (1 if library is STAND_IN else 3)
            assert (got_lse - lse).abs().max().item() <= bound
            assert (got_out - out).abs().max().item() <= (bound + rounded) * most


@pytest.mark.parametrize("dim", [5, 8, 80])
def test_pytorch_gets_heads_of_multiples_of_8(monkeypatch: pytest.MonkeyPatch, dim: int) -> None:
    """It takes no others; what is filled up changes nothing."""

    def operator(q: Tensor, k: Tensor, v: Tensor, *rest: Any, scale: float) -> tuple[Tensor, ...]:
        assert {x.shape[-1] % 8 for x in (q, k, v)} == {0}
        *ends_and_sizes, dropout, causal, debugs = rest
        assert (dropout, debugs) == (0.0, False)
        return *by_oracle(q, k, v, *ends_and_sizes, causal, scale), torch.empty(0)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", operator)
    q, k, v = torch.randn(3, 7, 2, dim, generator=torch.Generator().manual_seed(1)).bfloat16()
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    out, lse = flash.by_pytorch(q, k, v, ends, ends, 4, 4, True, 0.3)
    want_out, want_lse = by_oracle(q, k, v, ends, ends, 4, 4, True, 0.3)
    assert torch.equal(out, want_out)
    assert torch.equal(lse, want_lse)


def test_the_package_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, name in ((None, "PyTorch"), (object(), "flash-attn")):
        monkeypatch.setattr(flash, "find_spec", lambda _, there=there: there)
        assert flash.pick().name == name


def test_what_it_cannot_do_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = BlockLayout(layers=1, kv_heads=1, head_dim=8, tokens=4, dtype="bfloat16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="flash needs a CUDA GPU.*use native or sdpa"):
        Work(layout, 1, {}, 0).backend("flash")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for wrong in ({"dtype": "float32"}, {"dtype": "int8"}, {"head_dim": 257}):
        other = replace(layout, **wrong)
        with pytest.raises(ConfigError, match=f"not {other.dtype} of {other.head_dim}"):
            Work(other, 1, {}, 0).backend("flash")


def test_it_has_no_fingerprint_and_reads_own_memory_only() -> None:
    assert FlashBackend.fingerprint == ""
    assert not FlashBackend.maps
