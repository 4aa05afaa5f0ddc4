"""SdpaBackend: PyTorch's own CPU flash attention, one call for each node of the cover."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.attention.base import Partial
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.merge import run_program
from engine.attention.tree import MergeProgram, Piece


class SdpaBackend(LocalBackend):
    """The library's kernel, exact but not placement-invariant: it sums over a node at once.

    The public ``scaled_dot_product_attention`` gives no lse, so this calls the operator below it.
    """

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config, **runtime: Any) -> None:
        super().__init__(**runtime)

    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        heads, kv_heads, dim = q_THD.shape[1], self.layout.kv_heads, self.layout.head_dim
        tokens, group = self.layout.tokens, heads // kv_heads
        for at, nodes in zip(piece.segments_S6.tolist(), piece.nodes, strict=True):
            row_start, num_rows, first_position, number, _, node_start = at
            q_TKGD = q_THD[row_start : row_start + num_rows].float()
            q_TKGD = q_TKGD.view(num_rows, kv_heads, group, dim)
            q_1KRD = q_TKGD.permute(1, 2, 0, 3).reshape(1, kv_heads, group * num_rows, dim)
            for index, node in enumerate(nodes):
                num_leaves = 1 << node.level
                pairs = [
                    self.keys_and_values(int(address), layer)
                    for address in piece.address[number : number + num_leaves]
                ]
                number += num_leaves
                start = (node.index << node.level) * tokens
                # Keys behind the last query may be garbage: they are cut off, not masked.
                visible = min(num_leaves * tokens, max(0, first_position + num_rows - start))
                k_1KSD = torch.cat([k for k, _ in pairs], 1)[None, :, :visible]
                v_1KSD = torch.cat([v for _, v in pairs], 1)[None, :, :visible]
                query_T1 = torch.arange(first_position, first_position + num_rows)[:, None]
                seen_TS = torch.arange(start, start + visible)[None, :] <= query_T1
                to = slice(node_start + index * num_rows, node_start + (index + 1) * num_rows)
                blind_T = ~seen_TS.any(dim=1)
                if bool(blind_T.all()):
                    rows.out_RHD[to] = 0.0
                    rows.lse_RH[to] = -torch.inf
                    continue
                mask_TS = torch.zeros(seen_TS.shape).masked_fill(~seen_TS, -torch.inf)
                mask_TS[blind_T] = 0.0  # a row of -inf only would be NaN; emptied below
                out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                    q_1KRD,
                    k_1KSD,
                    v_1KSD,
                    attn_mask=mask_TS.repeat(group, 1)[None, None],
                    scale=self.scale,
                )
                out_TKGD = out.view(kv_heads, group, num_rows, dim).permute(2, 0, 1, 3)
                lse_TKG = lse.view(kv_heads, group, num_rows).permute(2, 0, 1)
                rows.out_RHD[to] = out_TKGD.reshape(num_rows, heads, dim)
                rows.lse_RH[to] = lse_TKG.reshape(num_rows, heads)
                rows.out_RHD[to][blind_T] = 0.0
                rows.lse_RH[to][blind_T] = -torch.inf

    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        return run_program(program, rows, num_queries)
