// Query rows and their partials with 16 rows abreast: into this order, merging, and out of it.

#pragma once

#include "amx.h"
#include "merge.h"
#include "transpose.h"

#if defined(LK_HAS_AMX)

namespace lk {
inline namespace LK_ISA {

// bfloat16 [rows, dim] to pairs [rows / 16][dim / 2][16]; rows are a multiple of 16, dim of 32.
inline void queries_abreast(int rows, int dim, const void* q, void* to) {
    transpose_key_pairs(static_cast<const Bf16*>(q), rows, dim, static_cast<uint32_t*>(to),
                        NothingAhead{});
}

// As merge_rows, the same bits; outputs are [rows / 16][dim, 16].
inline void merge_abreast(int count, int dim, float* lse_a, float* out_a, int64_t stride_a,
                          const float* lse_b, const float* out_b, int64_t stride_b) {
    for (int start = 0; start < count; start += LANES) {
        Shares shares = shares_of(load(lse_a + start), load(lse_b + start));
        store(lse_a + start, shares.merged);
        float* to = out_a + start * stride_a;
        const float* from = out_b + start * stride_b;
        for (int d = 0; d < dim; d++, to += LANES, from += LANES) {
            Vec a = load(to), b = load(from);
            Vec merged = fma(shares.a, a, shares.b * b);
            store(to, select(shares.only_a, a, select(shares.only_b, b, merged)));
        }
    }
}

// Outputs [rows / 16][dim, 16] to [rows, dim], in place; ``dim`` is a multiple of 16.
inline void rows_again(int rows, int dim, float* out, float* scratch) {
    for (int row = 0; row < rows; row += LANES, out += LANES * int64_t(dim)) {
        std::memcpy(scratch, out, LANES * dim * sizeof(float));
        for (int d = 0; d < dim; d += LANES) {
            Vec block[LANES];
            for (int i = 0; i < LANES; i++) block[i] = load(scratch + (d + i) * LANES);
            transpose(block);
            for (int i = 0; i < LANES; i++) store(out + i * dim + d, block[i]);
        }
    }
}

}  // namespace LK_ISA
}  // namespace lk

#endif
