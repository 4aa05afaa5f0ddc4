"""The attention kernel: some query rows of one KV head over the leaves of one node of the tree."""

import triton
import triton.language as tl

from engine.attention.triton.merge import merge_two

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def dot(a, b, INTERPRETED: tl.constexpr):
    """``a @ b`` summed in float32; 16-bit items on tensor cores, float32 never in TF32."""
    if INTERPRETED:
        # Its products take bfloat16 for integers, and a row's bits would depend on its place.
        return tl.sum(a.to(tl.float32)[:, :, None] * b.to(tl.float32)[None, :, :], 1)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def leaf_partial(
    q_MD,
    keys,  # of one leaf and head: C rows of D, and C rows of values behind them
    scales,  # of 8-bit keys and values: C and C
    visible_M,  # so many of the leaf's keys each row sees; may be negative
    most_visible,  # the largest of them
    scale_2,  # times log2 e: powers of two inside, natural logarithms outside
    TOKENS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SCALED: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Out [M, D] and natural lse [M]: zeros and -inf where a row sees no key."""
    d = tl.arange(0, BLOCK_D)
    top = tl.full([q_MD.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([q_MD.shape[0]], tl.float32)
    rounded = total
    out = tl.zeros([q_MD.shape[0], BLOCK_D], tl.float32)
    for start in range(0, TOKENS, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        # What no row sees may be NaN, and 0 * NaN is NaN.
        there = (c < TOKENS) & (c < most_visible)
        mask = there[:, None] & (d < DIM)[None, :]
        k_CD = tl.load(keys + c[:, None] * DIM + d[None, :], mask=mask, other=0.0)
        if SCALED:  # all dtypes of queries hold 8-bit items exactly
            k_CD = k_CD.to(tl.float32).to(q_MD.dtype)
        s_MC = dot(q_MD, tl.trans(k_CD), INTERPRETED) * scale_2
        if SCALED:
            s_MC *= tl.load(scales + c, mask=there, other=0.0)[None, :]
        s_MC = tl.where(there[None, :] & (c[None, :] < visible_M[:, None]), s_MC, float("-inf"))
        new_top = tl.maximum(top, tl.max(s_MC, 1))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        p_MC = tl.exp2(s_MC - shift[:, None])
        v_CD = tl.load(keys + (TOKENS + c[:, None]) * DIM + d[None, :], mask=mask, other=0.0)
        fade = tl.exp2(top - shift)
        total = tl.fma(total, fade, tl.sum(p_MC, 1))
        if SCALED:
            p_MC *= tl.load(scales + TOKENS + c, mask=there, other=0.0)[None, :]
            if q_MD.dtype != tl.float32:  # not float16, for which scales may be too small
                p_MC = p_MC.to(tl.bfloat16)
            v_CD = v_CD.to(tl.float32).to(p_MC.dtype)
            rounded = total
        else:
            # Values are weighted with weights rounded as they are, so these make their mean.
            p_MC = p_MC.to(v_CD.dtype)
            rounded = tl.fma(rounded, fade, tl.sum(p_MC.to(tl.float32), 1))
        out = tl.fma(out, tl.broadcast_to(fade[:, None], out.shape), dot(p_MC, v_CD, INTERPRETED))
        top = new_top
    seen = total > 0.0
    total = tl.where(seen, total, 1.0)
    lse = tl.where(seen, top, 0.0) * LN_2 + tl.log(total)
    out = out / tl.where(seen, rounded, 1.0)[:, None]
    return out, tl.where(seen, lse, float("-inf"))


@triton.jit
def attend_kernel(
    q,  # [T, H, D], in the keys' dtype or, where these have 8 bits, any
    pool,  # where offsets count from: items
    scales,  # float32 at the same address; unused where items are not 8-bit
    segments,  # int32 [S, 6] of a Piece
    units,  # int32 [U, 5]: segment, first token, first leaf, number of leaves (2^n), first row
    leaves,  # int32 [N]: leaf indexes
    offsets,  # int64 [N]: items from ``pool`` to each leaf's rBlock
    out,  # float32 [R, H, D]
    lse,  # float32 [R, H]
    layer_bytes,  # from layer 0 to this one
    scale_2,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads of one KV head
    TOKENS: tl.constexpr,
    DIM: tl.constexpr,
    TILE_TOKENS: tl.constexpr,  # query tokens of a unit
    BLOCK_M: tl.constexpr,  # at least TILE_TOKENS * GROUP
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HEAD_BYTES: tl.constexpr,  # from a head's keys to the next one's
    SCALES_BYTES: tl.constexpr,  # from them to the head's scales; 0 where there are none
    ITEM_BYTES: tl.constexpr,
    ALIGN: tl.constexpr,  # all offsets are multiples of so many items
    INTERPRETED: tl.constexpr,
):
    """Program (u, k): unit u with KV head k. The keys are read once for the head's whole group."""
    unit = units + 5 * tl.program_id(0)
    head = tl.program_id(1)
    segment = segments + 6 * tl.load(unit)
    token = tl.load(unit + 1)
    first_leaf = tl.load(unit + 2)
    num_leaves = tl.load(unit + 3)
    first_row = tl.load(unit + 4)
    num_tokens = tl.minimum(tl.load(segment + 1) - token, TILE_TOKENS)
    position = tl.load(segment + 2) + token
    first_query = tl.load(segment) + token

    m = tl.arange(0, BLOCK_M)
    t = m // GROUP  # row m is query head m % GROUP of the group, token m // GROUP of the unit
    mine = t < num_tokens
    d = tl.arange(0, BLOCK_D)
    mask = mine[:, None] & (d < DIM)[None, :]
    row = (first_query + t).to(tl.int64) * HEADS + head * GROUP + m % GROUP
    q_MD = tl.load(q + row[:, None] * DIM + d[None, :], mask=mask, other=0.0)
    head_bytes = layer_bytes + head.to(tl.int64) * HEAD_BYTES
    head_offset = tl.multiple_of(head_bytes // ITEM_BYTES, ALIGN)

    out_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    lse_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    out_0, lse_0 = out_MD, lse_M  # left siblings that wait for their right ones, by level
    out_1, lse_1 = out_MD, lse_M
    out_2, lse_2 = out_MD, lse_M
    for n in range(0, num_leaves):
        offset = tl.multiple_of(tl.load(offsets + first_leaf + n), ALIGN)
        begin = tl.load(leaves + first_leaf + n) * TOKENS
        out_MD, lse_M = leaf_partial(
            q_MD,
            pool + offset + head_offset,
            scales + (offset * ITEM_BYTES + head_bytes + SCALES_BYTES) // 4,
            position + 1 - begin + t,
            position + num_tokens - begin,
            scale_2,
            TOKENS,
            DIM,
            BLOCK_C,
            BLOCK_D,
            SCALES_BYTES > 0,
            INTERPRETED,
        )
        if n % 2 == 1:
            out_MD, lse_M = merge_two(out_0, lse_0, out_MD, lse_M)
        if n % 4 == 3:
            out_MD, lse_M = merge_two(out_1, lse_1, out_MD, lse_M)
        if n % 8 == 7:
            out_MD, lse_M = merge_two(out_2, lse_2, out_MD, lse_M)
        out_0, lse_0 = tl.where(n % 2 == 0, out_MD, out_0), tl.where(n % 2 == 0, lse_M, lse_0)
        out_1, lse_1 = tl.where(n % 4 == 1, out_MD, out_1), tl.where(n % 4 == 1, lse_M, lse_1)
        out_2, lse_2 = tl.where(n % 8 == 3, out_MD, out_2), tl.where(n % 8 == 3, lse_M, lse_2)

    row = (first_row + t).to(tl.int64) * HEADS + head * GROUP + m % GROUP
    tl.store(out + row[:, None] * DIM + d[None, :], out_MD, mask=mask)
    tl.store(lse + row, lse_M, mask=mine)
