// Merging the partials (out, lse) of many rows, two at a time.

#pragma once

#include "wide.h"

namespace lk {
inline namespace LK_ISA {

// What a (left) and b (right) weigh in the merge of some rows, a lane for each.
//     lse = top + ln(1 + w),  w = exp(low - top);  the higher side weighs 1 / (1 + w)
// An empty side leaves the other's bits as they are.
struct Shares {
    Wide merged, a, b;
    WideI only_a, only_b;
};
LK_INLINE Shares shares_of(Wide a, Wide b) {
    WideI left_higher = a >= b;
    Wide top = select(left_higher, a, b), low = select(left_higher, b, a);
    Wide weight = exp2_of_negative((low - top) * LOG2_E);  // NaN if both are empty: then 0
    Wide total = 1.0f + weight;
    Wide high_share = 1.0f / total, low_share = weight / total;
    return {select(low == EMPTY, top, top + ln(total)), select(left_higher, high_share, low_share),
            select(left_higher, low_share, high_share), b == EMPTY, a == EMPTY};
}

// Rows of a become the merge of a and b.
inline void merge_rows(int count, int dim, float* lse_a, float* out_a, int64_t stride_a,
                       const float* lse_b, const float* out_b, int64_t stride_b) {
    for (int start = 0; start < count; start += WIDE) {
        int rows = least(WIDE, count - start);
        Wide a = set_wide(EMPTY), b = a;
        std::memcpy(&a, lse_a + start, rows * sizeof(float));
        std::memcpy(&b, lse_b + start, rows * sizeof(float));
        Shares shares = shares_of(a, b);
        std::memcpy(lse_a + start, &shares.merged, rows * sizeof(float));
        for (int row = 0; row < rows; row++) {
            float* to = out_a + (start + row) * stride_a;
            const float* from = out_b + (start + row) * stride_b;
            if (shares.only_a[row]) continue;
            if (shares.only_b[row]) {
                std::memcpy(to, from, dim * sizeof(float));
                continue;
            }
            float wa = shares.a[row], wb = shares.b[row];
            int d = 0;
            for (; d + WIDE <= dim; d += WIDE) {
                Wide b = set_wide(wb) * load_wide(from + d);
                store(to + d, fma(set_wide(wa), load_wide(to + d), b));
            }
            for (; d < dim; d++)
                to[d] = __builtin_fmaf(wa, to[d], wb * from[d]);
        }
    }
}

}  // namespace LK_ISA
}  // namespace lk
