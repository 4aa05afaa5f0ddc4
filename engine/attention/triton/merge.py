"""The merge kernel: node rows become finished rows along a MergeProgram, and the merge of two."""

import triton
import triton.language as tl


@triton.jit
def merge_two(out_a, lse_a, out_b, lse_b):
    """Partial over the union of two disjoint sets of keys; [N, D] and natural lse [N].

    An empty side leaves the other's bits as they are. The multiply-adds are written out, so that
    no compiler fuses them in one kernel and not in another: equal inputs give equal bits.
    """
    top = tl.maximum(lse_a, lse_b)
    shift = tl.where(top == float("-inf"), 0.0, top)  # -inf - -inf would be NaN
    weight_a = tl.exp(lse_a - shift)
    weight_b = tl.exp(lse_b - shift)
    empty_a = lse_a == float("-inf")
    empty_b = lse_b == float("-inf")
    total = tl.where(empty_a & empty_b, 1.0, weight_a + weight_b)
    part_b = (weight_b / total)[:, None] * out_b
    both = tl.fma(tl.broadcast_to((weight_a / total)[:, None], out_a.shape), out_a, part_b)
    out = tl.where(empty_a[:, None], out_b, tl.where(empty_b[:, None], out_a, both))
    return out, tl.where(empty_a | empty_b, top, shift + tl.log(total))


@triton.jit
def merge_kernel(
    rows_out,  # float32 [R, H, D], overwritten
    rows_lse,  # float32 [R, H]
    merges,  # int32 [M, 2]: left and right node row
    rounds,  # int32: merges [rounds[i], rounds[i + 1]) need nothing of each other
    roots,  # int32 [S, 5]: node row or -1, finished row, number of rows, rounds from and to
    out,  # float32 [T, H, D]
    lse,  # float32 [T, H]
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAIRS: tl.constexpr,  # (row, head) pairs of one program
    AT_ONCE: tl.constexpr,  # merges of a round that are done together
):
    """Program (s, i): the i-th PAIRS (row, head) pairs of root s, all its merges."""
    root = roots + 5 * tl.program_id(0)
    at = tl.load(root)
    to = tl.load(root + 1)
    num_pairs = tl.load(root + 2) * HEADS
    first_round = tl.load(root + 3)
    last_round = tl.load(root + 4)
    start = tl.program_id(1) * PAIRS
    if start < num_pairs:
        n = tl.arange(0, AT_ONCE * PAIRS)
        pair = start + n % PAIRS
        d = tl.arange(0, BLOCK_D)
        for i in range(first_round, last_round):
            end = tl.load(rounds + i + 1)
            for first in range(tl.load(rounds + i), end, AT_ONCE):
                number = first + n // PAIRS
                mine = (number < end) & (pair < num_pairs)
                left = tl.load(merges + 2 * number, mask=mine, other=0).to(tl.int64)
                right = tl.load(merges + 2 * number + 1, mask=mine, other=0).to(tl.int64)
                a = left * HEADS + pair
                b = right * HEADS + pair
                mask = mine[:, None] & (d < DIM)[None, :]
                out_a = tl.load(rows_out + a[:, None] * DIM + d[None, :], mask=mask, other=0.0)
                out_b = tl.load(rows_out + b[:, None] * DIM + d[None, :], mask=mask, other=0.0)
                lse_a = tl.load(rows_lse + a, mask=mine, other=0.0)
                lse_b = tl.load(rows_lse + b, mask=mine, other=0.0)
                merged, merged_lse = merge_two(out_a, lse_a, out_b, lse_b)
                tl.store(rows_out + a[:, None] * DIM + d[None, :], merged, mask=mask)
                tl.store(rows_lse + a, merged_lse, mask=mine)
            tl.debug_barrier()  # the next round reads what other threads of this program wrote
        p = start + tl.arange(0, PAIRS)
        here = p < num_pairs
        seen = here & (at >= 0)
        row = at.to(tl.int64) * HEADS + p
        mask = seen[:, None] & (d < DIM)[None, :]
        done = tl.load(rows_out + row[:, None] * DIM + d[None, :], mask=mask, other=0.0)
        done_lse = tl.load(rows_lse + row, mask=seen, other=float("-inf"))
        row = to.to(tl.int64) * HEADS + p
        mask = here[:, None] & (d < DIM)[None, :]
        tl.store(out + row[:, None] * DIM + d[None, :], done, mask=mask)
        tl.store(lse + row, done_lse, mask=here)
