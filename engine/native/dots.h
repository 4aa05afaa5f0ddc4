// Products of few rows with a bfloat16 matrix as it lies in memory: y[t, o] = sum over k of x[t, k] w[o, k].
//
// A sum's order depends on its row and output only: not on the other rows, outputs or threads.

#pragma once

#include <algorithm>

#include "simd.h"

#if defined(__AVX512BF16__)

namespace lk {

constexpr int STEP = 32;           // bfloat16 values in a register
constexpr int ROWS_AT_ONCE = 64;   // rows whose x stays in the L2 while the matrix passes by

LK_INLINE __m512bh load_values(const Bf16* from, int count) {
    if (count >= STEP) return load_as<__m512bh>(from);
    __mmask32 mask = (1u << count) - 1;
    return (__m512bh)_mm512_maskz_loadu_epi16(mask, from);
}

// Lane i of the result is the sum of the lanes of a[i], all in the same order.
LK_INLINE __m512 sums_of(__m512* a) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512 x = a[2 * i], y = a[2 * i + 1];
        a[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
        a[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    // Lane 4 j + i of a[n] belongs to sum 4 n + i; j runs over the four quarters.
    __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(a[0], a[1], 0x88),
                               _mm512_shuffle_f32x4(a[0], a[1], 0xdd));
    __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(a[2], a[3], 0x88),
                                _mm512_shuffle_f32x4(a[2], a[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88),
                         _mm512_shuffle_f32x4(low, high, 0xdd));
}

// Which of the next NO rows of the matrix a tile fetches into the cache meanwhile.
struct Ahead {
    int from, to;
};

// NO outputs of NT rows.
template <int NO, int NT>
LK_INLINE void dot_tile(const Bf16* w, const Bf16* x, int depth, int64_t stride_x, float* y,
                        int64_t stride_y, Ahead ahead) {
    __m512 sum[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) sum[i] = _mm512_setzero_ps();
    auto add = [&](int k, int count) __attribute__((always_inline)) {
        __m512bh row[NT];
#pragma GCC unroll 4
        for (int t = 0; t < NT; t++) row[t] = load_values(x + t * stride_x + k, count);
#pragma GCC unroll 16
        for (int o = 0; o < NO; o++) {
            __m512bh weight = load_values(w + int64_t(o) * depth + k, count);
            // Beyond the matrix nothing is read: a prefetch does not fault.
            if (o >= ahead.from && o < ahead.to)
                _mm_prefetch(w + int64_t(NO + o) * depth + k, _MM_HINT_T0);
#pragma GCC unroll 4
            for (int t = 0; t < NT; t++)
                sum[o * NT + t] = _mm512_dpbf16_ps(sum[o * NT + t], weight, row[t]);
        }
    };
    int k = 0;
    for (; k + STEP <= depth; k += STEP) add(k, STEP);
    if (k < depth) add(k, depth - k);
    alignas(64) float found[16];
    _mm512_store_ps(found, sums_of(sum));
    for (int o = 0; o < NO; o++)
        for (int t = 0; t < NT; t++) y[t * stride_y + o] = found[o * NT + t];
}

template <int NO, int NT>
LK_INLINE int dot_outputs(const Bf16* w, int from, int to, const Bf16* x, int depth,
                          int64_t stride_x, float* y, int64_t stride_y, Ahead ahead) {
    int o = from;
    for (; o + NO <= to; o += NO)
        dot_tile<NO, NT>(w + int64_t(o) * depth, x, depth, stride_x, y + o, stride_y, ahead);
    return o;
}

// Outputs [from, to) of NT rows.
template <int NO, int NT>
LK_INLINE void dot_rows(const Bf16* w, int from, int to, const Bf16* x, int depth,
                        int64_t stride_x, float* y, int64_t stride_y, Ahead ahead = {0, NO}) {
    int o = dot_outputs<NO, NT>(w, from, to, x, depth, stride_x, y, stride_y, ahead);
    dot_outputs<1, NT>(w, o, to, x, depth, stride_x, y, stride_y, {0, 0});
}

// ``y`` holds output o of row t at y[t * stride_y + o].
inline void dots(const Bf16* w, int from, int to, const Bf16* x, int rows, int depth,
                 int64_t stride_x, float* y, int64_t stride_y) {
    switch (rows) {
        case 0: return;
        case 1: return dot_rows<16, 1>(w, from, to, x, depth, stride_x, y, stride_y);
        case 2: return dot_rows<8, 2>(w, from, to, x, depth, stride_x, y, stride_y);
        case 3: return dot_rows<5, 3>(w, from, to, x, depth, stride_x, y, stride_y);
    }
    for (int start = 0; start < rows; start += ROWS_AT_ONCE) {
        int end = std::min(rows, start + ROWS_AT_ONCE), tiles = (end - start + 3) / 4;
        // Four outputs for all rows, then the next: the matrix is read once.
        for (int o = from; o < to; o += 4)
            for (int tile = 0; tile < tiles; tile++) {
                // Four rows at any rate: some of the last ones twice, to the same bits.
                int t = std::min(start + 4 * tile, rows - 4);
                dot_rows<4, 4>(w, o, std::min(o + 4, to), x + t * stride_x, depth, stride_x,
                               y + t * stride_y, stride_y,
                               {4 * tile / tiles, 4 * (tile + 1) / tiles});
            }
    }
}

}  // namespace lk

#endif
