"""The write kernel: new keys and values into their slots of rBlocks."""

import triton
import triton.language as tl


@triton.jit
def write_kernel(
    k,  # [T, K, D], in the pool's dtype
    v,
    pool,
    slots,  # int64 [T]: items from ``pool`` to the key row of head 0 in layer 0
    layer_offset,  # items
    num_pairs,  # T * K
    KV_HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Each program stores PAIRS (token, head) pairs."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    d = tl.arange(0, BLOCK_D)
    here = pair < num_pairs
    mask = here[:, None] & (d < DIM)[None, :]
    slot = tl.load(slots + pair // KV_HEADS, mask=here, other=0)
    to = slot + layer_offset + (pair % KV_HEADS) * (2 * TOKENS * DIM)
    at = pair.to(tl.int64)[:, None] * DIM + d[None, :]
    tl.store(pool + to[:, None] + d[None, :], tl.load(k + at, mask=mask), mask=mask)
    to += TOKENS * DIM
    tl.store(pool + to[:, None] + d[None, :], tl.load(v + at, mask=mask), mask=mask)
