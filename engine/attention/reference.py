"""ReferenceBackend: the shortest honest partial attention, float32 torch, a leaf at a time."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.attention.base import Partial
from engine.attention.local import LocalBackend, NodeRows
from engine.attention.merge import merge_pair, run_program
from engine.attention.tree import MergeProgram, Node, Piece


class ReferenceBackend(LocalBackend):
    """Plain formulas; never optimized. Placement does not change its bits: it works by leaf."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        pass

    fingerprint = f"reference/torch {torch.__version__}"

    def __init__(self, config: Config, **runtime: Any) -> None:
        super().__init__(**runtime)

    def leaf_partial(
        self, q_KGTD: Tensor, first_position: int, leaf: int, address: int, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Partial [K, G, T, D] and [K, G, T] of the queries over one leaf."""
        k_KCD, v_KCD = self.keys_and_values(address, layer)
        num_rows, tokens = q_KGTD.shape[2], self.layout.tokens
        query_T1 = torch.arange(first_position, first_position + num_rows)[:, None]
        hidden_TC = torch.arange(leaf * tokens, (leaf + 1) * tokens)[None, :] > query_T1
        # A key that nobody sees may be garbage, and 0 * NaN is NaN.
        unused_C = hidden_TC.all(dim=0)
        k_KCD[:, unused_C] = 0.0
        v_KCD[:, unused_C] = 0.0
        # One query row at a time: the bits of a row must not depend on the rows beside it.
        parts = []
        for row in range(num_rows):
            s_KGC = (q_KGTD[:, :, row, None, :] * k_KCD[:, None]).sum(-1) * self.scale
            s_KGC = s_KGC.masked_fill(hidden_TC[row], -torch.inf)
            lse_KG = torch.logsumexp(s_KGC, dim=-1)
            shift_KG = lse_KG.masked_fill(lse_KG == -torch.inf, 0.0)
            p_KGC = torch.exp(s_KGC - shift_KG[..., None])
            parts.append(((p_KGC[..., None] * v_KCD[:, None]).sum(2), lse_KG))
        return torch.stack([out for out, _ in parts], 2), torch.stack([lse for _, lse in parts], 2)

    def attend(self, piece: Piece, q_THD: Tensor, layer: int, rows: NodeRows) -> None:
        heads, kv_heads, dim = q_THD.shape[1], self.layout.kv_heads, self.layout.head_dim
        for at, nodes in zip(piece.segments_S6.tolist(), piece.nodes, strict=True):
            row_start, num_rows, first_position, leaf_start, num_leaves, node_start = at
            q_TKGD = q_THD[row_start : row_start + num_rows].float()
            q_KGTD = q_TKGD.view(num_rows, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
            stack: list[tuple[Node, Tensor, Tensor]] = []
            for number in range(leaf_start, leaf_start + num_leaves):
                leaf = int(piece.leaf_index[number])
                node = Node(0, leaf)
                address = int(piece.address[number])
                out, lse = self.leaf_partial(q_KGTD, first_position, leaf, address, layer)
                while node.index & 1 and stack and stack[-1][0] == node.sibling:
                    _, left_out, left_lse = stack.pop()
                    out, lse = merge_pair(left_out, left_lse, out, lse)
                    node = node.parent
                stack.append((node, out, lse))
            assert [node for node, _, _ in stack] == list(nodes), "tree and piece disagree"
            for number, (_, out, lse) in enumerate(stack):
                to = slice(node_start + number * num_rows, node_start + (number + 1) * num_rows)
                rows.out_RHD[to] = out.permute(2, 0, 1, 3).reshape(num_rows, heads, dim)
                rows.lse_RH[to] = lse.permute(2, 0, 1).reshape(num_rows, heads)

    def merge(self, program: MergeProgram, rows: NodeRows, num_queries: int) -> Partial:
        return run_program(program, rows, num_queries)
