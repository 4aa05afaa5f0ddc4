// The two matrix products of attention over one rBlock, and the transposition the first needs.
//
// Every element is one chain of fused multiply-adds in ascending order of the summed index, however
// rows and columns are tiled: so a query row has the same bits alone and among hundreds.

#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"

namespace lk {

// Asks for the next rBlock's memory while this one is computed: the hardware prefetcher does not
// follow a block table (LAB.md: 9-13 GB/s without, 22-26 with).
struct Prefetch {
    const char* at = nullptr;
    const char* end = nullptr;
    LK_INLINE void two_lines() {
        if (at < end) {
            __builtin_prefetch(at);
            __builtin_prefetch(at + 64);
            at += 128;
        }
    }
};

LK_INLINE Vec half_of_pairs(VecU pairs, bool high) {
    return (Vec)(high ? pairs & 0xffff0000u : pairs << 16);
}

// Right-hand matrices [depth, columns]; ``get`` gives vector v of the columns from ``column`` on.
template <class T>
struct Rows {
    static constexpr bool INTERLEAVED = false;
    const T* at;
    int64_t stride;
    template <int ODD>
    LK_INLINE Vec get(int k, int column, int v) const {
        return load(at + k * stride + column + v * LANES);
    }
};

// Depths 2k and 2k + 1 are the low and the high half of row k.
struct DepthPairs {
    static constexpr bool INTERLEAVED = false;
    const uint32_t* at;
    int64_t stride;
    template <int ODD>
    LK_INLINE Vec get(int k, int column, int v) const {
        return half_of_pairs(load_as<VecU>(at + (k >> 1) * stride + column + v * LANES), ODD);
    }
};

// Plain rows read 32 at a time: vector 2i holds the even columns, 2i + 1 the odd ones. Cheaper than
// widening in order; the product puts the sums back in order.
struct ColumnPairs {
    static constexpr bool INTERLEAVED = true;
    const Bf16* at;
    int64_t stride;
    template <int ODD>
    LK_INLINE Vec get(int k, int column, int v) const {
        const Bf16* from = at + k * stride + column + (v & ~1) * LANES;
        return half_of_pairs(load_as<VecU>(from), v & 1);
    }
};

LK_INLINE void put_in_order(Vec* even_odd) {
    Vec even = even_odd[0], odd = even_odd[1];
    even_odd[0] = __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6,
                                          22, 7, 23);
    even_odd[1] = __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29,
                                          14, 30, 15, 31);
}

// c[r, column + i] = factor[r] * sum over k of a[r, k] b[k, column + i], for NR rows and NV vectors.
template <int NR, int NV, class B>
LK_INLINE void product_tile(int depth, const float* a, int64_t stride_a, const B& b, int column,
                            const float* factor, float* c, int64_t stride_c, Prefetch& prefetch) {
    Vec sum[NR][NV] = {};
    Prefetch ahead = prefetch;
    auto add = [&](int k, auto odd) __attribute__((always_inline)) {
        Vec right[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++)
            right[v] = b.template get<decltype(odd)::value>(k, column, v);
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++) {
            Vec left = set1(a[r * stride_a + k]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) sum[r][v] = fma(left, right[v], sum[r][v]);
        }
        ahead.two_lines();
    };
    int k = 0;
    for (; k + 1 < depth; k += 2) {
        add(k, std::integral_constant<int, 0>{});
        add(k + 1, std::integral_constant<int, 1>{});
    }
    if (k < depth) add(k, std::integral_constant<int, 0>{});
    prefetch = ahead;
    if constexpr (B::INTERLEAVED && NV % 2 == 0)
        for (int r = 0; r < NR; r++)
            for (int v = 0; v < NV; v += 2) put_in_order(&sum[r][v]);
#pragma GCC unroll 8
    for (int r = 0; r < NR; r++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++)  // + 0: a zero is never negative, whatever zeros were added
            store(c + r * stride_c + column + v * LANES, sum[r][v] * factor[r] + 0.0f);
}

template <int NR, class B>
void product_rows(int depth, int columns, const float* a, int64_t stride_a, const B& b,
                  const float* factor, float* c, int64_t stride_c, Prefetch& prefetch) {
    int column = 0;
    for (; column + 4 * LANES <= columns; column += 4 * LANES)
        product_tile<NR, 4>(depth, a, stride_a, b, column, factor, c, stride_c, prefetch);
    for (; column + 2 * LANES <= columns; column += 2 * LANES)
        product_tile<NR, 2>(depth, a, stride_a, b, column, factor, c, stride_c, prefetch);
    if constexpr (!B::INTERLEAVED)  // those have a multiple of 32 columns
        for (; column < columns; column += LANES)
            product_tile<NR, 1>(depth, a, stride_a, b, column, factor, c, stride_c, prefetch);
}

constexpr int TILE_ROWS = 6;  // 6 x 4 sums, 4 right and 1 left: 29 of the 32 registers

// ``columns`` is a multiple of 16; 1 to TILE_ROWS rows.
template <class B>
void product(int rows, int depth, int columns, const float* a, int64_t stride_a, const B& b,
             const float* factor, float* c, int64_t stride_c, Prefetch& prefetch) {
    switch (rows) {
#define LK_ROWS(n) \
    case n: return product_rows<n>(depth, columns, a, stride_a, b, factor, c, stride_c, prefetch);
        LK_ROWS(1) LK_ROWS(2) LK_ROWS(3) LK_ROWS(4) LK_ROWS(5) LK_ROWS(6)
#undef LK_ROWS
    }
}

// Transposes 16 x 16 words in registers.
template <class V>
LK_INLINE void transpose(V* r) {
    V t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12,
                                       28, 13, 29);
        t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11,
                                           27, 14, 30, 15, 31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            V x = t[i + j], y = t[i + j + 2];
            r[i + 2 * j] = __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25,
                                                   12, 13, 28, 29);
            r[i + 2 * j + 1] = __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26,
                                                       27, 14, 15, 30, 31);
        }
    // Now r[4 i + j] holds column j of each of its four quarters, for rows 4 i to 4 i + 3.
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        V a = r[j], b = r[4 + j], c = r[8 + j], d = r[12 + j];
        V ab_even = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25,
                                            26, 27);
        V ab_odd = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29,
                                           30, 31);
        V cd_even = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25,
                                            26, 27);
        V cd_odd = __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29,
                                           30, 31);
        t[j] = __builtin_shufflevector(ab_even, cd_even, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19,
                                       24, 25, 26, 27);
        t[8 + j] = __builtin_shufflevector(ab_even, cd_even, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22,
                                           23, 28, 29, 30, 31);
        t[4 + j] = __builtin_shufflevector(ab_odd, cd_odd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19,
                                           24, 25, 26, 27);
        t[12 + j] = __builtin_shufflevector(ab_odd, cd_odd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22,
                                            23, 28, 29, 30, 31);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

// to[d, key] = rows[key, d] in float32; ``stride`` is the number of keys rounded up to 16.
template <class T>
void transpose_keys(const T* rows, int keys, int dim, float* to, int64_t stride) {
    int key = 0;
    if (dim % LANES == 0)
        for (; key + LANES <= keys; key += LANES)
            for (int d = 0; d < dim; d += LANES) {
                Vec block[LANES];
                for (int i = 0; i < LANES; i++) block[i] = load(rows + (key + i) * dim + d);
                transpose(block);
                for (int i = 0; i < LANES; i++) store(to + (d + i) * stride + key, block[i]);
            }
    for (int d = 0; d < dim; d++) {
        for (int k = key; k < keys; k++) to[d * stride + k] = widen(rows[int64_t(k) * dim + d]);
        for (int k = std::max(key, keys); k < stride; k++) to[d * stride + k] = 0.0f;
    }
}

// The same as bfloat16 pairs, see DepthPairs; keys a multiple of 16 and dim of 32.
inline void transpose_key_pairs(const Bf16* rows, int keys, int dim, uint32_t* to) {
    for (int key = 0; key < keys; key += LANES)
        for (int pair = 0; pair < dim / 2; pair += LANES) {
            VecU block[LANES];
            for (int i = 0; i < LANES; i++)
                block[i] = load_as<VecU>(rows + (key + i) * dim + 2 * pair);
            transpose(block);
            for (int i = 0; i < LANES; i++)
                std::memcpy(to + (pair + i) * keys + key, &block[i], sizeof block[i]);
        }
}

}  // namespace lk
