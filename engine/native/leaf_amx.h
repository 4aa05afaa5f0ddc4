// The partials of few rows of a head over a leaf by AMX. Of many: leaf_abreast.h.

#pragma once

#include "amx.h"
#include "weigh.h"

#if defined(LK_HAS_AMX)

namespace lk {
inline namespace LK_ISA {

// A right-hand matrix of bfloat16 pairs; strides in items, from 16 pairs along the depth, from 16
// columns and, within a tile, from one pair to the next.
struct RightTiles {
    const uint32_t* at;
    int64_t step_stride, column_stride, pair_stride;
};

// NV sums of 16 columns each from ``column``, see amx_product.
template <int NV, class A>
LK_INLINE void amx_columns(int steps, const Bf16* a, int64_t stride_a, const RightTiles& b,
                           int column, float* c, int64_t stride_c, A ahead, int64_t to_ask) {
    amx_each<NV>([](auto v) __attribute__((always_inline)) { amx_zero<v>(); });
    for (int step = 0; step < steps; step++) {
        const uint32_t* right = b.at + step * b.step_stride + column / LANES * b.column_stride;
        amx_load<4>(a + step * AMX_DEPTH, stride_a * int64_t(sizeof(Bf16)));
        amx_each<NV>([&](auto v) __attribute__((always_inline)) {
            constexpr int RIGHT = 6 + v % 2;
            amx_load<RIGHT>(right + v * b.column_stride, b.pair_stride * int64_t(sizeof(uint32_t)));
            ahead.ask_bytes((step * NV + v) * to_ask, to_ask);
            amx_dot<v, 4, RIGHT>();
        });
    }
    amx_each<NV>([&](auto v) __attribute__((always_inline)) {
        amx_store<v>(c + column + v * LANES, stride_c * int64_t(sizeof(float)));
    });
}

// c = a b for 16 rows, or those that the tiles are for; the depth is ``steps`` * AMX_DEPTH and
// ``columns`` a multiple of 16. Meanwhile ``to_ask`` bytes are asked for.
template <class A>
LK_INLINE void amx_product(int steps, int columns, const Bf16* a, int64_t stride_a,
                           const RightTiles& b, float* c, int64_t stride_c, A ahead,
                           int64_t to_ask) {
    int64_t share = steps && columns ? round_up(to_ask * LANES / (steps * columns), 64) : 0;
    int column = 0;
    auto tiles = [&](auto count) __attribute__((always_inline)) {
        constexpr int NV = decltype(count)::value;
        for (; column + NV * LANES <= columns; column += NV * LANES)
            amx_columns<NV>(steps, a, stride_a, b, column, c, stride_c,
                            ahead.behind(column / LANES * steps * share), share);
    };
    tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
}

// Up to 16 rows of a head. ``keys`` as DepthPairs has them, ``values`` in pairs of rows, zeros behind
// what is seen.
template <class A>
void attend_rows_amx(const HeadTask& task, const uint32_t* keys, const uint32_t* values, A ahead) {
    int dim = task.all.dim, rows = task.all.rows;
    int columns = int(round_up(task.seen_by(rows - 1), LANES));
    int64_t width = task.width(), stride = task.all.stride, ask = task.phase_bytes;
    int seen[AMX_ROWS];
    float shares[AMX_ROWS];
    for (int r = 0; r < rows; r++) seen[r] = task.seen_by(r);
    amx_product(dim / AMX_DEPTH, columns, static_cast<const Bf16*>(task.q), dim,
                RightTiles{keys, LANES * LANES, dim / 2 * LANES, LANES}, task.scores, width, ahead,
                ask);
    for (int r = 0; r < rows;) {
        auto some = [&](auto num) __attribute__((always_inline)) {
            constexpr int NR = decltype(num)::value;
            weigh<NR, uint32_t>(task.scores + r * width, width, columns, seen + r,
                                task.all.scale * LOG2_E, task.tops + r, task.sums + r, shares + r,
                                ahead.behind(ask + r * ask / rows), ask * NR / rows);
            r += NR;
        };
        if (rows - r >= 4) some(std::integral_constant<int, 4>{});
        else if (rows - r == 3) some(std::integral_constant<int, 3>{});
        else if (rows - r == 2) some(std::integral_constant<int, 2>{});
        else some(std::integral_constant<int, 1>{});
    }
    // As bfloat16 they take half of the scores' room.
    auto* weights = reinterpret_cast<Bf16*>(task.scores);
    for (int r = 0; r < rows && columns % AMX_DEPTH; r++)
        std::memset(weights + 2 * r * width + columns, 0, LANES * sizeof(Bf16));
    amx_product((columns + AMX_DEPTH - 1) / AMX_DEPTH, dim, weights, 2 * width,
                RightTiles{values, LANES * int64_t(dim), LANES, dim}, task.out, stride,
                ahead.behind(2 * ask), ask);
    for (int r = 0; r < rows; r++) {
        Vec share = set1(shares[r]);
        float* out = task.out + r * stride;
        for (int d = 0; d < dim; d += LANES)
            store(out + d, load(out + d) * share + 0.0f);  // a zero is never negative
    }
}

}  // namespace LK_ISA
}  // namespace lk

#endif
