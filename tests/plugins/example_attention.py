"""An attention backend of two matrix products and a softmax for each node of the cover."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from engine.attention.base import Partial
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.merge import run_program
from engine.attention.tree import MergeProgram, Piece


class MatmulBackend(LocalBackend):
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        precision: Literal["float32", "float64"] = "float32"

    def __init__(self, config: Config, **runtime: Any) -> None:
        super().__init__(**runtime)
        self._dtype = torch.float64 if config.precision == "float64" else torch.float32

    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        group = self.shape.num_heads // self.layout.kv_heads
        for at, nodes in zip(piece.segments_S6.tolist(), piece.nodes, strict=True):
            row_start, num_rows, first_position, number, _, to = at
            q_HTD = q_THD[row_start : row_start + num_rows].to(self._dtype).transpose(0, 1)
            query_T1 = torch.arange(first_position, first_position + num_rows)[:, None]
            for node in nodes:
                first_leaf, num_leaves = node.index << node.level, 1 << node.level
                addresses = piece.address[number : number + num_leaves].tolist()
                leaves = [self.keys_and_values(address, layer) for address in addresses]
                start = first_leaf * self.layout.tokens
                # Behind the last query may be garbage: it is cut off, 0 * NaN would be NaN.
                num_keys = max(0, first_position + num_rows - start)
                k_HSD, v_HSD = (
                    torch.cat(part, 1)[:, :num_keys].to(self._dtype).repeat_interleave(group, 0)
                    for part in zip(*leaves, strict=True)
                )
                hidden_TS = torch.arange(start, start + k_HSD.shape[1]) > query_T1
                s_HTS = (q_HTD @ k_HSD.mT * self.scale).masked_fill(hidden_TS, -torch.inf)
                lse_HT = s_HTS.logsumexp(-1)
                p_HTS = torch.exp(s_HTS - lse_HT.masked_fill(lse_HT.isneginf(), 0.0)[..., None])
                rows.out_RHD[to : to + num_rows] = (p_HTS @ v_HSD).transpose(0, 1)
                rows.lse_RH[to : to + num_rows] = lse_HT.T
                number, to = number + num_leaves, to + num_rows

    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        return run_program(program, rows, num_queries)
