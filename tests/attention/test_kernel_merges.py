"""Both kernels merge node rows: exact over any gap, and an empty one changes no bit."""

import math
from typing import Any

import numpy as np
import oracle
import torch
from contexts import bits
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import pytestmark  # noqa: F401
from tolerance import TOLERANCE

from engine.attention.base import Kernel
from engine.attention.tree import MergeProgram, Node


def run_merge(kernel: Kernel, out_NTHD: Any, lse_NTH: Any) -> tuple[Any, Any]:
    """Merges N leaves of T rows by the program."""
    num, rows = lse_NTH.shape[:2]
    held = {Node(0, n): n * rows for n in range(num)}
    program = MergeProgram.of([(0, rows)], [held])
    out, lse = np.empty(out_NTHD.shape[1:], np.float32), np.empty(lse_NTH.shape[1:], np.float32)
    node_out, node_lse = out_NTHD.reshape(-1, *out.shape[1:]), lse_NTH.reshape(-1, lse.shape[1])
    kernel.merge(program, node_out.copy(), node_lse.copy(), out, lse)
    return out, lse


@given(
    num=st.integers(1, 6),
    rows=st.integers(1, 20),
    dim=st.sampled_from([1, 8, 16, 70]),
    gap=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_merge_is_exact_over_any_gap_and_any_empties(
    kernel: Kernel, num: int, rows: int, dim: int, gap: float, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    out_NTHD = rng.standard_normal((num, rows, 2, dim), np.float32)
    lse_NTH = (gap * rng.standard_normal((num, rows, 2))).astype(np.float32)
    for n in data.draw(st.sets(st.integers(0, num - 1)), label="empty"):
        out_NTHD[n], lse_NTH[n] = 0.0, -math.inf
    out, lse = run_merge(kernel, out_NTHD, lse_NTH)
    want_out, want_lse = oracle.merge(torch.tensor(out_NTHD), torch.tensor(lse_NTH))
    bound = TOLERANCE["float32"] * num
    assert not np.isnan(out).any()
    assert np.abs(out - want_out.numpy()).max() <= bound * (1 + np.abs(out_NTHD).max())
    finite = np.isfinite(want_lse.numpy())
    assert (lse[~finite] == -math.inf).all()
    error = np.abs(lse[finite] - want_lse.numpy()[finite])
    assert (error <= bound * (1 + np.abs(lse[finite]))).all()


@given(seed=st.integers(0, 999), left=st.booleans())
def test_merging_with_the_empty_partial_changes_no_bit(
    kernel: Kernel, seed: int, left: bool
) -> None:
    rng = np.random.default_rng(seed)
    out_NTHD = rng.standard_normal((2, 18, 3, 21), np.float32)
    out_NTHD[:, 0] = -0.0
    lse_NTH = 100 * rng.standard_normal((2, 18, 3), np.float32)
    lse_NTH[:, 1] = -0.0
    empty = int(not left)
    out_NTHD[empty], lse_NTH[empty] = 0.0, -math.inf
    out, lse = run_merge(kernel, out_NTHD, lse_NTH)
    assert bits(out) == bits(out_NTHD[1 - empty])
    assert bits(lse) == bits(lse_NTH[1 - empty])
