"""NumpyKernel: partial attention in numpy, float32. Needs no compiler; slow.

Sums run key by key and dimension by dimension over whole arrays, never through BLAS: elementwise
operations round alike wherever an element lies, so a (query row, leaf) always has the same bits.
"""

import ctypes
import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.attention.base import Kernel
from engine.attention.shapes import check_attend, check_merge, check_piece, check_program
from engine.attention.tree import MergeProgram, Node, Piece
from engine.core import BlockLayout

Floats = NDArray[np.float32]

_SCORES_AT_ONCE = 1 << 18
"""leaves are taken together up to this many scores; bounds the memory"""


class NumpyKernel(Kernel):
    def __init__(self) -> None:
        self.fingerprint = f"numpy/{np.__version__}/{platform.machine()}/{_instruction_sets()}"

    def attend(
        self,
        piece: Piece,
        q_THD: NDArray[Any],
        layout: BlockLayout,
        layer: int,
        scale: float,
        out_RHD: Floats,
        lse_RH: Floats,
    ) -> None:
        check_attend(piece, q_THD, layout, layer, out_RHD, lse_RH)
        check_piece(piece, len(q_THD))
        (_, heads, dim), tokens = q_THD.shape, layout.tokens
        for at, nodes in zip(piece.segments_S6.tolist(), piece.nodes, strict=True):
            row_start, num_rows, first_position, leaf_start, num_leaves, node_start = at
            q = _widen(q_THD[row_start : row_start + num_rows]) * np.float32(scale)
            q_TKGD = q.reshape(num_rows, layout.kv_heads, heads // layout.kv_heads, dim)
            stack: list[tuple[Node, Floats, Floats]] = []
            at_once = max(1, _SCORES_AT_ONCE // max(1, num_rows * heads * tokens))
            for start in range(leaf_start, leaf_start + num_leaves, at_once):
                numbers = range(start, min(start + at_once, leaf_start + num_leaves))
                kv_NK2CD = np.stack([_block(int(piece.address[n]), layout, layer) for n in numbers])
                leaves = piece.leaf_index[numbers.start : numbers.stop].astype(np.int64)
                own_TN = np.arange(first_position, first_position + num_rows)[:, None]
                visible_NT = np.clip(own_TN + 1 - leaves * tokens, 0, tokens).T
                out_NTHD, lse_NTH = _leaf_partials(q_TKGD, kv_NK2CD, visible_NT)
                for leaf, out, lse in zip(leaves.tolist(), out_NTHD, lse_NTH, strict=True):
                    _push(stack, Node(0, leaf), out, lse)
            assert [node for node, _, _ in stack] == list(nodes), "tree and piece disagree"
            for number, (_, out, lse) in enumerate(stack):
                to = slice(node_start + number * num_rows, node_start + (number + 1) * num_rows)
                out_RHD[to], lse_RH[to] = out, lse

    def merge(
        self,
        program: MergeProgram,
        out_RHD: Floats,
        lse_RH: Floats,
        out_THD: Floats,
        lse_TH: Floats,
    ) -> None:
        check_merge(out_RHD, lse_RH, out_THD, lse_TH)
        check_program(program, len(out_RHD), len(out_THD))
        for left, right, count in program.merges_M3.tolist():
            a, b = slice(left, left + count), slice(right, right + count)
            out_RHD[a], lse_RH[a] = _merge(out_RHD[a], lse_RH[a], out_RHD[b], lse_RH[b])
        for node_row, row_start, count in program.roots_S3.tolist():
            to = slice(row_start, row_start + count)
            if node_row < 0:
                out_THD[to], lse_TH[to] = 0.0, -np.inf
            else:
                out_THD[to] = out_RHD[node_row : node_row + count]
                lse_TH[to] = lse_RH[node_row : node_row + count]


def _leaf_partials(
    q_TKGD: Floats, kv_NK2CD: Floats, visible_NT: NDArray[Any]
) -> tuple[Floats, Floats]:
    """Partials [N, T, H, D] and [N, T, H] of N leaves; each row sees a leaf's first keys."""
    num_leaves, _, _, tokens, dim = kv_NK2CD.shape
    num_rows, kv_heads, group, _ = q_TKGD.shape
    # What no row sees may be NaN, and 0 * NaN is NaN.
    unseen_NC = np.arange(tokens) >= visible_NT.max(axis=1, initial=0)[:, None]
    kv_NK2CD = np.where(unseen_NC[:, None, None, :, None], np.float32(0), kv_NK2CD)
    k_NK1DC = np.ascontiguousarray(kv_NK2CD[:, :, 0].swapaxes(2, 3))[:, :, None]
    v_NK1CD = kv_NK2CD[:, :, 1][:, :, None]

    s_NTKGC = np.zeros((num_leaves, num_rows, kv_heads, group, tokens), np.float32)
    for d in range(dim):
        s_NTKGC += q_TKGD[None, ..., d, None] * k_NK1DC[:, None, :, :, d]
    hidden_NTC = np.arange(tokens) >= visible_NT[..., None]
    s_NTKGC[np.broadcast_to(hidden_NTC[:, :, None, None], s_NTKGC.shape)] = -np.inf

    top_NTKG = s_NTKGC.max(axis=-1)
    empty_NTKG = top_NTKG == -np.inf
    shift_NTKG = np.where(empty_NTKG, np.float32(0), top_NTKG)  # -inf - -inf would be NaN
    p_NTKGC = np.exp(s_NTKGC - shift_NTKG[..., None])
    sum_NTKG = np.zeros_like(top_NTKG)
    out_NTKGD = np.zeros((*top_NTKG.shape, dim), np.float32)
    for c in range(tokens):
        sum_NTKG += p_NTKGC[..., c]
        out_NTKGD += p_NTKGC[..., c, None] * v_NK1CD[:, None, :, :, c]
    sum_NTKG[empty_NTKG] = 1.0
    out_NTKGD /= sum_NTKG[..., None]
    out_NTKGD += 0.0  # a zero is never negative, whatever zeros were added
    lse_NTKG = top_NTKG + np.log(sum_NTKG)
    rows = (num_leaves, num_rows, kv_heads * group)
    return out_NTKGD.reshape(*rows, dim), lse_NTKG.reshape(rows)


def _push(stack: list[tuple[Node, Floats, Floats]], node: Node, out: Floats, lse: Floats) -> None:
    """As in ``tree.cover``: a right child is merged into its left sibling at once."""
    while node.index & 1 and stack and stack[-1][0] == node.sibling:
        _, left_out, left_lse = stack.pop()
        out, lse = _merge(left_out, left_lse, out, lse)
        node = node.parent
    stack.append((node, out, lse))


def _merge(out_a: Floats, lse_a: Floats, out_b: Floats, lse_b: Floats) -> tuple[Floats, Floats]:
    """See ``attention/base.py``; an empty side leaves the other's bits as they are."""
    empty_a, empty_b = lse_a == -np.inf, lse_b == -np.inf
    top = np.maximum(lse_a, lse_b)
    shift = np.where(empty_a & empty_b, np.float32(0), top)
    weight_a, weight_b = np.exp(lse_a - shift), np.exp(lse_b - shift)
    total = np.where(empty_a & empty_b, np.float32(1), weight_a + weight_b)
    both = (weight_a / total)[..., None] * out_a + (weight_b / total)[..., None] * out_b
    out: Floats = np.where(empty_a[..., None], out_b, np.where(empty_b[..., None], out_a, both))
    lse: Floats = np.where(empty_a | empty_b, top, top + np.log(total))
    return out, lse


def _block(address: int, layout: BlockLayout, layer: int) -> Floats:
    """Keys and values [K, 2, C, D] of one rBlock's layer, in float32."""
    num_bytes = layout.kv_heads * layout.head_bytes
    memory = (ctypes.c_uint8 * num_bytes).from_address(address + layer * layout.layer_bytes)
    heads = np.ctypeslib.as_array(memory).reshape(layout.kv_heads, -1)
    _, kv_heads, _, tokens, dim = layout.shape
    items = heads[:, : 2 * layout.values_offset].copy().view(_NUMPY_DTYPES[layout.dtype])
    kv_K2CD = items.reshape(kv_heads, 2, tokens, dim)
    if not layout.is_scaled:
        return _widen(kv_K2CD)
    scales = heads[:, layout.scales_offset :].copy().view(np.float32).reshape(kv_heads, 2, tokens)
    floats = _FP8[kv_K2CD] if layout.dtype == "fp8" else kv_K2CD.astype(np.float32)
    return floats * scales[..., None]


def _fp8_values() -> Floats:
    """Float32 of each 8-bit float: a sign, 4 bits of exponent, 3 of mantissa (e4m3fn)."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    size = np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    )
    size[(exponent == 15) & (mantissa == 7)] = np.nan
    return np.where(codes >> 7, -size, size).astype(np.float32)


_FP8 = _fp8_values()
_NUMPY_DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int8": np.int8,
    "fp8": np.uint8,
}


def _widen(x: NDArray[Any]) -> Floats:
    """Float32; uint16 is bfloat16, the upper half of a float32."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


def _instruction_sets() -> str:
    """What numpy's own exp and log were picked for on this processor."""
    picked = np.lib.introspect.opt_func_info(func_name="^(exp|log)$", signature="float32")
    return "+".join(loop["current"] for name in sorted(picked) for loop in picked[name].values())
