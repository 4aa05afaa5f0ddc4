// Merging the partials (out, lse) of many rows, two at a time.

#pragma once

#include "simd.h"

namespace lk {
inline namespace LK_ISA {

// Rows of a become the merge of a (left) and b (right).
//     lse = top + ln(1 + w),  w = exp(low - top);  the higher side weighs 1 / (1 + w)
// An empty side leaves the other's bits as they are.
inline void merge_rows(int count, int dim, float* lse_a, float* out_a, int64_t stride_a,
                       const float* lse_b, const float* out_b, int64_t stride_b) {
    for (int start = 0; start < count; start += LANES) {
        int rows = least(LANES, count - start);
        Vec a = set1(EMPTY), b = a;
        std::memcpy(&a, lse_a + start, rows * sizeof(float));
        std::memcpy(&b, lse_b + start, rows * sizeof(float));
        VecI left_higher = a >= b;
        Vec top = select(left_higher, a, b), low = select(left_higher, b, a);
        Vec weight = exp2_of_negative((low - top) * LOG2_E);  // NaN if both are empty: then 0
        Vec total = 1.0f + weight;
        Vec merged = select(low == EMPTY, top, top + ln(total));
        Vec high_share = 1.0f / total, low_share = weight / total;
        Vec share_a = select(left_higher, high_share, low_share);
        Vec share_b = select(left_higher, low_share, high_share);
        std::memcpy(lse_a + start, &merged, rows * sizeof(float));
        for (int row = 0; row < rows; row++) {
            float* to = out_a + (start + row) * stride_a;
            const float* from = out_b + (start + row) * stride_b;
            if (b[row] == EMPTY) continue;
            if (a[row] == EMPTY) {
                std::memcpy(to, from, dim * sizeof(float));
                continue;
            }
            Vec wa = set1(share_a[row]), wb = set1(share_b[row]);
            int d = 0;
            for (; d + LANES <= dim; d += LANES)
                store(to + d, fma(wa, load(to + d), wb * load(from + d)));
            for (; d < dim; d++)
                to[d] = __builtin_fmaf(share_a[row], to[d], share_b[row] * from[d]);
        }
    }
}

}  // namespace LK_ISA
}  // namespace lk
