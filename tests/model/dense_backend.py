"""Attention of one sequence in plain torch: keys in lists, float32 softmax; no plans, no blocks."""

from types import SimpleNamespace

import torch
from torch import Tensor

from engine.attention.base import AttentionBackend


class DenseBackend:
    """What the model calls of a backend; rows continue the one sequence it holds."""

    def __init__(self, num_layers: int) -> None:
        self.k_SKD: list[list[Tensor]] = [[] for _ in range(num_layers)]
        self.v_SKD: list[list[Tensor]] = [[] for _ in range(num_layers)]

    def write(self, k_TKD: Tensor, v_TKD: Tensor, layer: int) -> None:
        assert k_TKD.is_contiguous()
        assert v_TKD.is_contiguous()
        self.k_SKD[layer].append(k_TKD)
        self.v_SKD[layer].append(v_TKD)

    write_rotated = AttentionBackend.write_rotated

    def start(self, q_THD: Tensor, layer: int) -> Tensor:
        assert q_THD.is_contiguous()
        k, v = (torch.cat(rows[layer]).float() for rows in (self.k_SKD, self.v_SKD))
        num_rows, heads, dim = q_THD.shape
        group = heads // k.shape[1]
        q = q_THD.float().view(num_rows, -1, group, dim)
        scores = torch.einsum("tkgd,skd->kgts", q, k) * dim**-0.5
        hidden = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(len(k) - num_rows + 1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return torch.einsum("kgts,skd->tkgd", weights, v).reshape(num_rows, heads, dim)

    def native_step(self, q_THD: Tensor) -> None:
        del q_THD

    def finish(self, pending: Tensor) -> SimpleNamespace:
        return SimpleNamespace(out_THD=pending)
