// The two matrix products of attention over one rBlock.
//
// Every element is one chain of fused multiply-adds (or dot products of pairs) in ascending order
// of the summed index, however rows and columns are tiled: so a query row has the same bits alone
// and among hundreds.

#pragma once

#include <type_traits>

#include "ahead.h"
#include "wide.h"

namespace lk {
inline namespace LK_ISA {

// Sums held in registers: 6 x 4 vectors leave room for 4 right and 1 left of 32 registers, 6 x 2
// for 2 and 1 of 16. The portable code is to be right and quick to compile.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 4;
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 2;
#else
constexpr int TILE_ROWS = 2, TILE_VECTORS = 1;
#endif

LK_INLINE Wide half_of_pairs(WideU pairs, bool high) {
    return (Wide)(high ? pairs & 0xffff0000u : pairs << 16);
}

// Right-hand matrices [depth, columns]. ``add`` adds the products of step ``step`` (DEPTH rows of
// the matrix with LEFTS items of the left one) for NR rows and NV vectors of the columns from
// ``column``. ITEM_BYTES is what an element takes in the rBlock.
template <class T>
struct Rows {
    using Left = float;
    static constexpr int DEPTH = 1, LEFTS = 1, ITEM_BYTES = sizeof(T);
    static constexpr bool INTERLEAVED = false;
    const T* at;
    int64_t stride;
    template <int NR, int NV>
    LK_INLINE void add(Wide (&sum)[NR][NV], const float* a, int64_t stride_a, int step,
                       int column) const {
        Wide right[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) right[v] = load_wide(at + step * stride + column + v * WIDE);
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++) {
            Wide left = set_wide(a[r * stride_a + step]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) sum[r][v] = fma(left, right[v], sum[r][v]);
        }
    }
};

// bfloat16 [columns / 16][depth / 2][16]: depths 2k and 2k + 1 are the low and the high half. With
// float32 queries.
struct DepthPairs {
    using Left = float;
    static constexpr int DEPTH = 2, LEFTS = 2, ITEM_BYTES = 2;
    static constexpr bool INTERLEAVED = false;
    const uint32_t* at;
    int64_t stride;  // items from 16 columns to the next
    template <int NR, int NV>
    LK_INLINE void add(Wide (&sum)[NR][NV], const float* a, int64_t stride_a, int step,
                       int column) const {
#pragma GCC unroll 2
        for (int high = 0; high < 2; high++) {
            Wide right[NV];
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) {
                int c = column + v * WIDE;
                const uint32_t* from = at + c / LANES * stride + step * LANES + c % LANES;
                right[v] = half_of_pairs(load_as<WideU>(from), high);
            }
#pragma GCC unroll 8
            for (int r = 0; r < NR; r++) {
                Wide left = set_wide(a[r * stride_a + 2 * step + high]);
#pragma GCC unroll 4
                for (int v = 0; v < NV; v++) sum[r][v] = fma(left, right[v], sum[r][v]);
            }
        }
    }
};

#if defined(__AVX512BF16__)
template <int NR, int NV>
LK_INLINE void add_pairs(Vec (&sum)[NR][NV], const VecU (&right)[NV], const uint32_t* a,
                         int64_t stride_a, int step) {
#pragma GCC unroll 8
    for (int r = 0; r < NR; r++) {
        VecU left = a[r * stride_a + step] - VecU{};
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[r][v] = dot_pairs(sum[r][v], right[v], left);
    }
}

// Pairs of depths with bfloat16 on both sides.
struct DotPairs {
    using Left = uint32_t;
    static constexpr int DEPTH = 2, LEFTS = 1, ITEM_BYTES = 2;
    static constexpr bool INTERLEAVED = false;
    const uint32_t* at;
    int64_t step_stride, column_stride;  // items from a pair of depths, from 16 columns to the next
    template <int NR, int NV>
    LK_INLINE void add(Vec (&sum)[NR][NV], const uint32_t* a, int64_t stride_a, int step,
                       int column) const {
        VecU right[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
            right[v] = load_as<VecU>(at + (column / LANES + v) * column_stride + step * step_stride);
            asm("" : "+v"(right[v]));  // or GCC loads it again for each row
        }
        add_pairs(sum, right, a, stride_a, step);
    }
};

// Plain rows of bfloat16 paired while they are read; vectors in the order of ColumnPairs. Of an odd
// number of rows the last is its own partner: the weight beside it is zero.
struct RowPairs {
    using Left = uint32_t;
    static constexpr int DEPTH = 2, LEFTS = 1, ITEM_BYTES = 2;
    static constexpr bool INTERLEAVED = true;
    const Bf16* at;
    int64_t stride;
    int rows;
    template <int NR, int NV>
    LK_INLINE void add(Vec (&sum)[NR][NV], const uint32_t* a, int64_t stride_a, int step,
                       int column) const {
        const Bf16* first = at + 2 * step * stride + column;
        const Bf16* second = 2 * step + 1 < rows ? first + stride : first;
        VecU right[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; v += 2) {
            VecU low = load_as<VecU>(first + v * LANES), high = load_as<VecU>(second + v * LANES);
            right[v] = (low & 0xffffu) | (high << 16);
            right[v + 1] = (low >> 16) | (high & 0xffff0000u);
        }
        add_pairs(sum, right, a, stride_a, step);
    }
};
#endif

#if defined(__AVX512F__)
// Plain rows of bfloat16 read 32 at a time: vector 2i holds the even columns, 2i + 1 the odd ones.
// Cheaper than widening in order; the product puts the sums back in order.
struct ColumnPairs {
    using Left = float;
    static constexpr int DEPTH = 1, LEFTS = 1, ITEM_BYTES = 2;
    static constexpr bool INTERLEAVED = true;
    const Bf16* at;
    int64_t stride;
    template <int NR, int NV>
    LK_INLINE void add(Vec (&sum)[NR][NV], const float* a, int64_t stride_a, int step,
                       int column) const {
        Vec right[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; v += 2) {
            VecU pairs = load_as<VecU>(at + step * stride + column + v * LANES);
            right[v] = half_of_pairs(pairs, false);
            right[v + 1] = half_of_pairs(pairs, true);
        }
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++) {
            Vec left = set1(a[r * stride_a + step]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) sum[r][v] = fma(left, right[v], sum[r][v]);
        }
    }
};

using NarrowRows = ColumnPairs;
#else
using NarrowRows = Rows<Bf16>;  // the same bits
#endif

LK_INLINE void put_in_order(Vec* even_odd) {
    Vec even = even_odd[0], odd = even_odd[1];
    even_odd[0] = __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6,
                                          22, 7, 23);
    even_odd[1] = __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29,
                                          14, 30, 15, 31);
}

// c[r, column + i] = finish(r, sum over k of a[r, k] b[k, column + i]) for NR rows, NV vectors.
template <int NR, int NV, class B, class A, class Finish>
LK_INLINE void product_tile(int steps, const typename B::Left* a, int64_t stride_a, const B& b,
                            int column, float* c, int64_t stride_c, A ahead, Finish finish) {
    constexpr int BYTES = NV * WIDE * B::DEPTH * B::ITEM_BYTES;
    Wide sum[NR][NV] = {};
    for (int step = 0; step < steps; step++) {
        b.template add<NR, NV>(sum, a, stride_a, step, column);
        ahead.template ask<BYTES / 2>(step);
    }
    if constexpr (B::INTERLEAVED)
        for (int r = 0; r < NR; r++)
            for (int v = 0; v < NV; v += 2) put_in_order(&sum[r][v]);
#pragma GCC unroll 8
    for (int r = 0; r < NR; r++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++)
            store(c + r * stride_c + column + v * WIDE, finish(r, sum[r][v]));
}

// ``columns`` is a multiple of 16, of 32 where INTERLEAVED; the depth is ``steps`` * DEPTH.
template <int NR, class B, class A, class Finish>
LK_INLINE void product(int steps, int columns, const typename B::Left* a, int64_t stride_a,
                       const B& b, float* c, int64_t stride_c, A ahead, Finish finish) {
    int column = 0;
    auto tiles = [&](auto vectors) __attribute__((always_inline)) {
        constexpr int NV = decltype(vectors)::value;
        for (; column + NV * WIDE <= columns; column += NV * WIDE)
            product_tile<NR, NV>(
                steps, a, stride_a, b, column, c, stride_c,
                ahead.behind(int64_t(column) * steps * B::DEPTH * B::ITEM_BYTES / 2), finish);
    };
    if constexpr (TILE_VECTORS >= 4) tiles(std::integral_constant<int, 4>{});
    if constexpr (TILE_VECTORS >= 2) tiles(std::integral_constant<int, 2>{});
    if constexpr (!B::INTERLEAVED && WIDE == LANES) tiles(std::integral_constant<int, 1>{});
}

}  // namespace LK_ISA
}  // namespace lk
