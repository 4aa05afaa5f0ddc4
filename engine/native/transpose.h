// Keys as the first product wants them: one after the other along a vector.

#pragma once

#include "ahead.h"
#include "wide.h"

namespace lk {
inline namespace LK_ISA {

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

// to[j, i] = from[i, j] for 16 x 16 words; strides in words.
LK_INLINE void transpose(const uint32_t* from, int64_t from_stride, uint32_t* to,
                         int64_t to_stride) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    for (int quarter = 0; quarter < 4; quarter++) {
        int row = quarter / 2 * WIDE, column = quarter % 2 * WIDE;
        WideU r[WIDE], t[WIDE];
#pragma GCC unroll 8
        for (int i = 0; i < WIDE; i++)
            r[i] = load_as<WideU>(from + (row + i) * from_stride + column);
#pragma GCC unroll 4
        for (int i = 0; i < WIDE; i += 2) {
            t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
            t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            WideU x = t[i / 2 * 4 + i % 2], y = t[i / 2 * 4 + i % 2 + 2];
            r[i / 2 * 4 + i % 2 * 2] = __builtin_shufflevector(x, y, 0, 1, 8, 9, 4, 5, 12, 13);
            r[i / 2 * 4 + i % 2 * 2 + 1] =
                __builtin_shufflevector(x, y, 2, 3, 10, 11, 6, 7, 14, 15);
        }
        // Now r[4 i + j] holds columns j and 4 + j, of rows 4 i to 4 i + 3.
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            WideU low = __builtin_shufflevector(r[j], r[4 + j], 0, 1, 2, 3, 8, 9, 10, 11);
            WideU high = __builtin_shufflevector(r[j], r[4 + j], 4, 5, 6, 7, 12, 13, 14, 15);
            std::memcpy(to + (column + j) * to_stride + row, &low, sizeof low);
            std::memcpy(to + (column + 4 + j) * to_stride + row, &high, sizeof high);
        }
    }
#else
    VecU block[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) block[i] = load_as<VecU>(from + i * from_stride);
    transpose(block);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) std::memcpy(to + i * to_stride, &block[i], sizeof block[i]);
#endif
}

// Rows [tokens, dim] of a leaf in float32: WIDE items from ``d`` on, or one.
template <class T>
struct Plain {
    const T* at;
    int dim;
    LK_INLINE Wide load(int row, int d) const { return load_wide(at + int64_t(row) * dim + d); }
    LK_INLINE float item(int row, int d) const { return widen(at[int64_t(row) * dim + d]); }
};
template <class T>
struct Scaled {
    const T* at;
    int dim;
    const float* scales;  // one for each row
    LK_INLINE Wide load(int row, int d) const {
        return load_wide(at + int64_t(row) * dim + d) * set_wide(scales[row]);
    }
    LK_INLINE float item(int row, int d) const {
        return widen(at[int64_t(row) * dim + d]) * scales[row];
    }
};

// to[d, key] = rows[key, d]; ``stride`` is the number of keys rounded up to 16.
template <class R>
void transpose_keys(const R& rows, int keys, int dim, float* to, int64_t stride) {
    int key = 0;
    if (dim % LANES == 0)
        for (; key + LANES <= keys; key += LANES)
            for (int d = 0; d < dim; d += LANES) {
                float block[LANES * LANES];
                for (int i = 0; i < LANES * LANES; i += WIDE)
                    store(block + i, rows.load(key + i / LANES, d + i % LANES));
                transpose(reinterpret_cast<const uint32_t*>(block), LANES,
                          reinterpret_cast<uint32_t*>(to + d * stride + key), stride);
            }
    for (int d = 0; d < dim; d++) {
        for (int k = key; k < keys; k++) to[d * stride + k] = rows.item(k, d);
        for (int k = key < keys ? keys : key; k < stride; k++) to[d * stride + k] = 0.0f;
    }
}

// The same as bfloat16 pairs, [keys / 16][dim / 2][16]: see DepthPairs. Keys are a multiple of 16
// and dim of 32; a DIM known to the compiler saves it sixteen pointers.
template <int DIM, class A>
LK_INLINE void transpose_pairs(const Bf16* rows, int keys, int dim, uint32_t* to, A ahead) {
    int blocks = dim / 2 / LANES;
    if (DIM) dim = DIM;
    for (int key = 0; key < keys; key += LANES, rows += LANES * dim)
        for (int pair = 0; pair < dim / 2; pair += LANES, to += LANES * LANES) {
            ahead.template ask<LANES * LANES * 2>(key / LANES * blocks + pair / LANES);
            transpose(reinterpret_cast<const uint32_t*>(rows) + pair, dim / 2, to, LANES);
        }
}

template <class A>
void transpose_key_pairs(const Bf16* rows, int keys, int dim, uint32_t* to, A ahead) {
    if (dim == 64) transpose_pairs<64>(rows, keys, dim, to, ahead);
    else if (dim == 128) transpose_pairs<128>(rows, keys, dim, to, ahead);
    else transpose_pairs<0>(rows, keys, dim, to, ahead);
}

}  // namespace LK_ISA
}  // namespace lk
