"""Independent float64 attention and merge; knows nothing of leaves, blocks or the engine."""

import math

import torch
from torch import Tensor


def attention(
    q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, scale: float, seen_TS: Tensor
) -> tuple[Tensor, Tensor]:
    """Out [T, H, D] and natural lse [T, H] of each row over the keys it sees; none: 0 and -inf."""
    group = q_THD.shape[1] // k_SKD.shape[1]
    k_SHD = k_SKD.double().repeat_interleave(group, dim=1)
    v_SHD = v_SKD.double().repeat_interleave(group, dim=1)
    s_THS = torch.einsum("thd,shd->ths", q_THD.double(), k_SHD) * scale
    s_THS = s_THS.masked_fill(~seen_TS[:, None, :], -math.inf)
    lse_TH = torch.logsumexp(s_THS, dim=-1)
    p_THS = torch.exp(s_THS - lse_TH.masked_fill(lse_TH == -math.inf, 0.0)[..., None])
    return torch.einsum("ths,shd->thd", p_THS, v_SHD), lse_TH


def merge(out_NTHD: Tensor, lse_NTH: Tensor) -> tuple[Tensor, Tensor]:
    """The partial over the union of N disjoint sets of keys."""
    lse_TH = torch.logsumexp(lse_NTH.double(), dim=0)
    weight_NTH = torch.exp(lse_NTH.double() - lse_TH.masked_fill(lse_TH == -math.inf, 0.0))
    return (weight_NTH[..., None] * out_NTHD.double()).sum(0), lse_TH
