"""The write kernel: new keys and values into their slots of rBlocks; rotated on the way, or not."""

import triton
import triton.language as tl

SMALLEST_TOP = tl.constexpr(2.0**-100)
ROUNDS = tl.constexpr(1.5 * 2**23)
"""adding it rounds to an integer, ties to even ones"""


@triton.jit
def rows_of(x, row_N, token_N, cos, sin, here_N, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
            ROTATES: tl.constexpr, DTYPE: tl.constexpr):  # fmt: skip
    """Rows [N, D] of x in ``DTYPE``: as they are, or ``x * cos + roll(x, D / 2) * sin``."""
    d = tl.arange(0, BLOCK_D)
    mask = here_N[:, None] & (d < DIM)[None, :]
    row = row_N.to(tl.int64)[:, None] * DIM
    x_ND = tl.load(x + row + d[None, :], mask=mask, other=0.0)
    if ROTATES:
        other = (d + DIM // 2) % DIM
        y_ND = tl.load(x + row + other[None, :], mask=mask, other=0.0).to(tl.float32)
        factor = token_N.to(tl.int64)[:, None] * DIM + d[None, :]
        cos_ND = tl.load(cos + factor, mask=mask, other=0.0)
        sin_ND = tl.load(sin + factor, mask=mask, other=0.0)
        x_ND = x_ND.to(tl.float32) * cos_ND + y_ND * sin_ND
    return x_ND.to(DTYPE)


@triton.jit
def to_fp8(x):
    """Bits of the nearest e4m3 float, ties to even mantissas; |x| is at most 448, but for rounding.

    Triton's interpreter rounds its own conversion otherwise.
    """
    bits = x.to(tl.uint32, bitcast=True)
    size = tl.abs(x)
    small = ((size * 512.0 + ROUNDS) - ROUNDS).to(tl.uint32)  # below 2^-6 all steps are 2^-9
    rest = bits & 0x7FFFFFFF
    large = ((rest + 0x7FFFF + ((rest >> 20) & 1)) >> 20) - 120 * 8
    code = tl.where(size < 0.015625, small, tl.minimum(large, 0x7E))
    return ((bits >> 24) & 0x80) | code


@triton.jit
def put(x_ND, to_N, scale_N, pool, scales, here_N, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
        LARGEST: tl.constexpr):  # fmt: skip
    """Store rows, narrowed to 8 bits where ``LARGEST`` is their largest item: attention/stored.py.

    ``to_N`` counts items from the pool, ``scale_N`` floats from ``scales``.
    """
    d = tl.arange(0, BLOCK_D)
    if LARGEST:
        x_ND = x_ND.to(tl.float32)
        top_N = tl.max(tl.abs(x_ND), 1)
        largest_N = tl.full(top_N.shape, LARGEST, tl.float32)
        tiny_N = top_N < SMALLEST_TOP
        broken_N = tl.sum(x_ND * 0.0, 1)  # NaN where an item is not finite
        scale = tl.where(tiny_N, 0.0, tl.div_rn(top_N, largest_N)) + broken_N
        tl.store(scales + scale_N, scale, mask=here_N)
        top_N = tl.where(tiny_N, 1.0, top_N)
        factor_N = tl.where(tiny_N, 0.0, tl.div_rn(largest_N, top_N))
        x_ND = tl.where((broken_N == 0.0)[:, None], x_ND * factor_N[:, None], 0.0)
        x_ND = to_fp8(x_ND) if LARGEST > 127 else (x_ND + ROUNDS) - ROUNDS
    mask = here_N[:, None] & (d < DIM)[None, :]
    tl.store(pool + to_N[:, None] + d[None, :], x_ND.to(pool.dtype.element_ty), mask=mask)


@triton.jit
def write_kernel(
    keys,  # [T, K, D]; to be rotated: [T, H + K, D], the queries first, in any dtype of theirs
    v,  # [T, K, D], in the queries' dtype
    cos,  # float32 [T, D]; unused where nothing is rotated
    sin,  # with the sign of the half that is turned
    turned,  # [T, H, D], where rotated queries go
    pool,  # items; of 8 bits: int8
    scales,  # float32, from the same address; unused where items are not 8-bit
    slots,  # int64 [T]: items from ``pool`` to the key row of head 0 in layer 0; -1: nowhere
    scale_slots,  # int64 [T]: floats from ``scales`` to that row's scale
    layer_bytes,  # from layer 0 to this one
    num_tokens,
    HEADS: tl.constexpr,  # H where something is rotated, else 0
    KV_HEADS: tl.constexpr,
    HEAD_BYTES: tl.constexpr,  # from a head's keys to the next one's
    ITEM_BYTES: tl.constexpr,
    TOKENS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAIRS: tl.constexpr,
    LARGEST: tl.constexpr,  # item of 8 bits; 0 where rows stay as they are
):
    """Program (i, 0) stores the i-th PAIRS (token, KV head) pairs; (i, 1) rotates queries'."""
    dtype: tl.constexpr = v.dtype.element_ty
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    if tl.program_id(1) == 0:
        here = pair < num_tokens * KV_HEADS
        token = pair // KV_HEADS
        offset = layer_bytes + (pair % KV_HEADS).to(tl.int64) * HEAD_BYTES
        slot = tl.load(slots + token, mask=here, other=-1)
        here = here & (slot >= 0)
        to = slot + offset // ITEM_BYTES
        scale_to = tl.load(scale_slots + token, mask=here, other=0) + offset // 4
        row = token * (HEADS + KV_HEADS) + HEADS + pair % KV_HEADS
        x = rows_of(keys, row, token, cos, sin, here, DIM, BLOCK_D, HEADS > 0, dtype)
        put(x, to, scale_to, pool, scales, here, DIM, BLOCK_D, LARGEST)
        x = rows_of(v, pair, token, cos, sin, here, DIM, BLOCK_D, False, dtype)
        put(x, to + TOKENS * DIM, scale_to + TOKENS, pool, scales, here, DIM, BLOCK_D, LARGEST)
    elif HEADS:
        here = pair < num_tokens * HEADS
        row = pair // HEADS * (HEADS + KV_HEADS) + pair % HEADS
        x = rows_of(keys, row, pair // HEADS, cos, sin, here, DIM, BLOCK_D, True, dtype)
        d = tl.arange(0, BLOCK_D)
        mask = here[:, None] & (d < DIM)[None, :]
        tl.store(turned + pair.to(tl.int64)[:, None] * DIM + d[None, :], x, mask=mask)
