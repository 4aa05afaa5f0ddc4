"""Checks at the edge of a Kernel: wrong types, shapes and ranges are refused before any memory is.

What the addresses point to cannot be checked here; the pool's books vouch for that.
"""

from typing import Any

from numpy.typing import NDArray

from engine.attention.tree import MergeProgram, Piece
from engine.core import KV_BYTES, BlockLayout

MAX_DIM = 512
MAX_TOKENS = 256
QUERY_DTYPES = {"f": "float32", "e": "float16", "H": "uint16"}


def check_attend(
    piece: Piece,
    q_THD: NDArray[Any],
    layout: BlockLayout,
    layer: int,
    out_RHD: NDArray[Any],
    lse_RH: NDArray[Any],
) -> None:
    """Raises ValueError, once a layer; ``check_piece`` once a piece does the rest.

    The piece's own arrays are taken to be made by ``Piece.of``.
    """
    if layout.dtype not in KV_BYTES:
        raise ValueError(f"layout dtype {layout.dtype!r}; known: {', '.join(KV_BYTES)}")
    if not (0 < layout.head_dim <= MAX_DIM and 0 < layout.tokens <= MAX_TOKENS):
        raise ValueError(
            f"head_dim={layout.head_dim} (1 to {MAX_DIM}), tokens={layout.tokens} "
            f"(1 to {MAX_TOKENS})"
        )
    if not 0 <= layer < layout.layers:
        raise ValueError(f"layer {layer} of {layout.layers}")
    if q_THD.dtype.char not in QUERY_DTYPES or q_THD.ndim != 3 or not q_THD.flags.c_contiguous:
        raise ValueError(
            f"q must be contiguous [T, H, D] in {', '.join(QUERY_DTYPES.values())} (bfloat16), "
            f"not {q_THD.dtype}{list(q_THD.shape)}"
        )
    num_queries, heads, dim = q_THD.shape
    if dim != layout.head_dim or layout.kv_heads < 1 or heads % layout.kv_heads or not heads:
        raise ValueError(
            f"q has {heads} heads of {dim}, the layout {layout.kv_heads} of {layout.head_dim}"
        )
    _check_rows("node rows", out_RHD, lse_RH, heads, dim)
    if len(out_RHD) < piece.num_node_rows:
        raise ValueError(f"{piece.num_node_rows} node rows do not fit {len(out_RHD)}")


def check_piece(piece: Piece, num_queries: int) -> None:
    """Raises ValueError where a segment would leave the query rows."""
    table = piece.segments_S6
    ends = table[:, 0] + table[:, 1]
    if len(table) and (ends.max() > num_queries or table[:, :3].min() < 0):
        raise ValueError(f"a segment ends at query row {int(ends.max())} of {num_queries}")


def check_merge(
    out_RHD: NDArray[Any],
    lse_RH: NDArray[Any],
    out_THD: NDArray[Any],
    lse_TH: NDArray[Any],
) -> None:
    """Raises ValueError, once a layer; ``check_program`` once a program does the rest."""
    if out_RHD.ndim != 3:
        raise ValueError(f"node rows must be [R, H, D], not {list(out_RHD.shape)}")
    _check_rows("node rows", out_RHD, lse_RH, *out_RHD.shape[1:])
    _check_rows("finished rows", out_THD, lse_TH, *out_RHD.shape[1:])


def check_program(program: MergeProgram, num_node_rows: int, num_queries: int) -> None:
    """Raises ValueError where the program would leave buffers of so many rows."""
    for name, table, columns, limit in (
        ("merge", program.merges_M3, (0, 1), num_node_rows),
        ("root", program.roots_S3, (0,), num_node_rows),
        ("root", program.roots_S3, (1,), num_queries),
    ):
        for column in columns if len(table) else ():
            ends = table[:, column] + table[:, 2] * (table[:, column] >= 0)
            lowest = -1 if (name, column) == ("root", 0) else 0
            if ends.max() > limit or table[:, column].min() < lowest or table[:, 2].min() < 0:
                raise ValueError(f"a {name} of the program ends at row {ends.max()} of {limit}")


def _check_rows(name: str, out: NDArray[Any], lse: NDArray[Any], heads: int, dim: int) -> None:
    if out.shape != (len(out), heads, dim) or lse.shape != (len(out), heads):
        raise ValueError(
            f"{name} must be [n, {heads}, {dim}] and [n, {heads}], "
            f"not {list(out.shape)} and {list(lse.shape)}"
        )
    for array in (out, lse):
        if array.dtype.char != "f" or not array.flags.carray:
            raise ValueError(f"{name} must be contiguous, writable float32, not {array.dtype}")
