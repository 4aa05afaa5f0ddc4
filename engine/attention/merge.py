"""Merging partials in torch, by the convention of ``attention/base.py``."""

import torch
from torch import Tensor

from engine.attention.base import Partial
from engine.attention.local import NodeRows
from engine.attention.tree import MergeProgram


def merge_pair(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Partial over the union of two disjoint sets of keys; shapes [..., D] and [...].

        lse = m + ln(w_a + w_b),  w_x = exp(lse_x - m),  m = max(lse_a, lse_b)
        out = (w_a out_a + w_b out_b) / (w_a + w_b)

    Merging with the empty partial (out 0, lse -inf) changes no bit; two empty ones give an empty.
    """
    top = torch.maximum(lse_a, lse_b)
    shift = top.masked_fill(top == -torch.inf, 0.0)  # -inf - -inf would be NaN
    weight_a, weight_b = torch.exp(lse_a - shift), torch.exp(lse_b - shift)
    total = weight_a + weight_b
    out = weight_a[..., None] * out_a + weight_b[..., None] * out_b
    out = out / total.masked_fill(total == 0.0, 1.0)[..., None]
    # Taken as they are: -0.0 + 0.0 is 0.0, another bit.
    empty_a, empty_b = lse_a == -torch.inf, lse_b == -torch.inf
    out = torch.where(empty_a[..., None], out_b, torch.where(empty_b[..., None], out_a, out))
    return out, torch.where(empty_a | empty_b, top, shift + torch.log(total))


def run_program(program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
    """Run a merge program over node rows, which it overwrites."""
    out_RHD, lse_RH = rows.out_RHD, rows.lse_RH
    for left, right, count in program.merges_M3.tolist():
        a, b = slice(left, left + count), slice(right, right + count)
        out_RHD[a], lse_RH[a] = merge_pair(out_RHD[a], lse_RH[a], out_RHD[b], lse_RH[b])
    out_THD = out_RHD.new_zeros(num_queries, *out_RHD.shape[1:])
    lse_TH = lse_RH.new_full((num_queries, lse_RH.shape[1]), -torch.inf)
    for at, row_start, count in program.roots_S3.tolist():
        if at >= 0:
            out_THD[row_start : row_start + count] = out_RHD[at : at + count]
            lse_TH[row_start : row_start + count] = lse_RH[at : at + count]
    return Partial(out_THD, lse_TH)
