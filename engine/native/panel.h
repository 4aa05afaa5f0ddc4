// A panel of a bfloat16 matrix and some rows, as this processor multiplies them.
//
// A panel is 32 outputs, two registers of 16; for each two values along the depth it has those of
// all its outputs (engine/model/panels.py). A result is one lane's sum in the order of the depth.
//
// AVX-512 BF16 multiplies pairs as they are. Elsewhere both sides are widened to float32, which is
// exact, and the products are fused with the sum: the same bits with 16 lanes and with 8.

#pragma once

#include <utility>

#include "simd.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#define LK_HAS_PANELS

namespace lk {

constexpr int BF16_PANEL = 2 * LANES;  // outputs

// What a tile asks memory for at each of its steps: what lies here, and at the next one ``step`` bytes
// on.
struct Ahead {
    const char* at;
    int step;
    LK_INLINE void ask() {
        _mm_prefetch(at, _MM_HINT_T1);
        if (step > 64) _mm_prefetch(at + 64, _MM_HINT_T1);
        at += step;
    }
    LK_INLINE void ask(int steps) {
        for (int line = 0; line < steps * step; line += 64) _mm_prefetch(at + line, _MM_HINT_T1);
        at += steps * step;
    }
};

#if defined(__AVX512BF16__)

using Row = Bf16;                     // what rows are multiplied as
constexpr int MOST_TILE_ROWS = 12;    // with two registers each they fill the register file

// All outputs of a panel for NT rows; ``outputs``: those that are stored, as bits.
template <int NT>
LK_INLINE void panel_tile(const Bf16* w, const Bf16* x, int depth, int64_t stride_x, float* y,
                          int64_t stride_y, uint32_t outputs, Ahead ahead) {
    __mmask16 low = __mmask16(outputs), high = __mmask16(outputs >> LANES);
    __m512 sum[2][NT];
#pragma GCC unroll 24
    for (int i = 0; i < 2 * NT; i++) sum[i / NT][i % NT] = _mm512_setzero_ps();
    auto add = [&](int k, int (*pair)(const Bf16*)) __attribute__((always_inline)) {
        const Bf16* at = w + int64_t(k) * BF16_PANEL;
        __m512bh weights[2] = {load_as<__m512bh>(at), load_as<__m512bh>(at + 2 * LANES)};
        ahead.ask();
#pragma GCC unroll 12
        for (int t = 0; t < NT; t++) {
            __m512bh values = (__m512bh)_mm512_set1_epi32(pair(x + t * stride_x + k));
            sum[0][t] = _mm512_dpbf16_ps(sum[0][t], weights[0], values);
            sum[1][t] = _mm512_dpbf16_ps(sum[1][t], weights[1], values);
        }
    };
    int k = 0;
    for (; k + 2 <= depth; k += 2) add(k, [](const Bf16* at) { return load_as<int>(at); });
    if (k < depth) add(k, [](const Bf16* at) { return int(load_as<uint16_t>(at)); });
#pragma GCC unroll 12
    for (int t = 0; t < NT; t++) {
        _mm512_mask_storeu_ps(y + t * stride_y, low, sum[0][t]);
        _mm512_mask_storeu_ps(y + t * stride_y + LANES, high, sum[1][t]);
    }
}

#elif defined(__AVX512F__)

using Row = float;
constexpr int MOST_TILE_ROWS = 12;

template <int NT>
LK_INLINE void panel_tile(const Bf16* w, const float* x, int depth, int64_t stride_x, float* y,
                          int64_t stride_y, uint32_t outputs, Ahead ahead) {
    __m512 sum[2][NT];
#pragma GCC unroll 24
    for (int i = 0; i < 2 * NT; i++) sum[i / NT][i % NT] = _mm512_setzero_ps();
    auto add = [&](const __m512 (&weights)[2], const float* at) __attribute__((always_inline)) {
#pragma GCC unroll 12
        for (int t = 0; t < NT; t++) {
            __m512 value = _mm512_set1_ps(at[t * stride_x]);
            sum[0][t] = _mm512_fmadd_ps(weights[0], value, sum[0][t]);
            sum[1][t] = _mm512_fmadd_ps(weights[1], value, sum[1][t]);
        }
    };
    for (int k = 0; k < depth; k += 2) {
        const Bf16* at = w + int64_t(k) * BF16_PANEL;
        __m512i pairs[2] = {load_as<__m512i>(at), load_as<__m512i>(at + 2 * LANES)};
        ahead.ask();
        add({(__m512)_mm512_slli_epi32(pairs[0], 16), (__m512)_mm512_slli_epi32(pairs[1], 16)},
            x + k);
        if (k + 1 == depth) break;
        __m512i upper = _mm512_set1_epi32(int(0xffff0000));
        add({(__m512)_mm512_and_si512(pairs[0], upper), (__m512)_mm512_and_si512(pairs[1], upper)},
            x + k + 1);
    }
#pragma GCC unroll 12
    for (int t = 0; t < NT; t++) {
        _mm512_mask_storeu_ps(y + t * stride_y, __mmask16(outputs), sum[0][t]);
        _mm512_mask_storeu_ps(y + t * stride_y + LANES, __mmask16(outputs >> LANES), sum[1][t]);
    }
}

#else

using Row = float;
constexpr int MOST_TILE_ROWS = 6;  // with two registers of 8 each; half a panel at a time

// Sums are named by ``T``, not by a loop's variable, or GCC 12 leaves them in memory.
template <int... T>
LK_INLINE void half_tile(std::integer_sequence<int, T...>, const Bf16* w, const float* x, int depth,
                         int64_t stride_x, float* y, int64_t stride_y, uint32_t outputs,
                         Ahead ahead) {
    __m256 low[] = {(T, _mm256_setzero_ps())...}, high[] = {(T, _mm256_setzero_ps())...};
    auto add = [&](int t, __m256i one, __m256i other, const float* at)
        __attribute__((always_inline)) {
            __m256 value = _mm256_broadcast_ss(at + t * stride_x);
            low[t] = _mm256_fmadd_ps((__m256)one, value, low[t]);
            high[t] = _mm256_fmadd_ps((__m256)other, value, high[t]);
        };
    const __m256i upper = _mm256_set1_epi32(int(0xffff0000));
    for (int k = 0; k < depth; k += 2) {
        const Bf16* at = w + int64_t(k) * BF16_PANEL;
        __m256i one = load_as<__m256i>(at), other = load_as<__m256i>(at + LANES);
        ahead.ask();
        __m256i one_even = _mm256_slli_epi32(one, 16), other_even = _mm256_slli_epi32(other, 16);
        (add(T, one_even, other_even, x + k), ...);
        if (k + 1 == depth) break;
        one = _mm256_and_si256(one, upper), other = _mm256_and_si256(other, upper);
        (add(T, one, other, x + k + 1), ...);
    }
    auto keep = [&](float* to, __m256 one, __m256 other) {
        float all[LANES], *into = outputs == 0xffff ? to : all;
        _mm256_storeu_ps(into, one);
        _mm256_storeu_ps(into + LANES / 2, other);
        for (int o = 0; into == all && o < LANES; o++)
            if (outputs >> o & 1) to[o] = all[o];
    };
    (keep(y + T * stride_y, low[T], high[T]), ...);
}

template <int NT>
LK_INLINE void panel_tile(const Bf16* w, const float* x, int depth, int64_t stride_x, float* y,
                          int64_t stride_y, uint32_t outputs, Ahead ahead) {
    std::make_integer_sequence<int, NT> rows;
    Ahead first{ahead.at, (ahead.step + 1) / 2};
    Ahead second{ahead.at + (depth + 1) / 2 * first.step, first.step};
    half_tile(rows, w, x, depth, stride_x, y, stride_y, outputs & 0xffff, first);
    half_tile(rows, w + 2 * LANES, x, depth, stride_x, y + LANES, stride_y, outputs >> LANES,
              second);
}

#endif

}  // namespace lk

#endif
