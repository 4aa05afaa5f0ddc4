// A head's partials over a leaf by AMX: 16 query rows at a time, bfloat16 pairs on both sides.

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
    auto each = [&](auto act) __attribute__((always_inline)) {
        act(std::integral_constant<int, 0>{});
        if constexpr (NV > 1) act(std::integral_constant<int, 1>{});
        if constexpr (NV > 2) act(std::integral_constant<int, 2>{});
        if constexpr (NV > 3) act(std::integral_constant<int, 3>{});
    };
    each([](auto v) __attribute__((always_inline)) { amx_zero<v>(); });
    for (int step = 0; step < steps; step++) {
        const uint32_t* right = b.at + step * b.step_stride + column / LANES * b.column_stride;
        amx_load<4>(a + step * AMX_DEPTH, stride_a * int64_t(sizeof(Bf16)));
        each([&](auto v) __attribute__((always_inline)) {
            constexpr int RIGHT = 6 + v % 2;
            amx_load<RIGHT>(right + v * b.column_stride, b.pair_stride * int64_t(sizeof(uint32_t)));
            ahead.ask_bytes((step * NV + v) * to_ask, to_ask);
            amx_dot<v, 4, RIGHT>();
        });
    }
    each([&](auto v) __attribute__((always_inline)) {
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

// The rows of a head, some at a time. ``keys`` as DepthPairs has them, ``values`` in pairs of rows,
// zeros behind what is seen.
//
// While the vectors weigh the scores of some rows, the tiles multiply for those before and behind
// them: neither waits for what the other has only just written.
template <class A>
class AmxHead {
public:
    AmxHead(const HeadTask& task, const uint32_t* keys, const uint32_t* values, A ahead)
        : task_(task), keys_(keys), values_(values), ahead_(ahead), dim_(task.all.dim),
          num_(least(task.all.rows, AMX_ROWS)), width_(task.width()), ask_(task.phase_bytes) {}

    void run() {
        int rows = task_.all.rows, count = (rows + num_ - 1) / num_;
        const char* next = task_.next;
        bool ask = std::is_same_v<A, NothingAhead>;
        int64_t share = ask ? round_up(PHASES * ask_ / count, 64) : 0;
        for (int n = -1; n <= count; n++) {
            for (const char* end = next + share; next < end; next += 64) fetch(next);
            // Some of the last rows are there twice, with the same bits.
            if (n + 1 < count) score(n + 1, least((n + 1) * num_, rows - num_));
            if (n > 0) attend(some_[(n - 1) % 3]);
            if (n >= 0 && n < count) weigh(some_[n % 3]);
            if (n > 0) share_out(some_[(n - 1) % 3]);
        }
    }

private:
    struct Some {
        int row, columns;
        int seen[AMX_ROWS];
        float shares[AMX_ROWS];
        float* scores;
    };

    void score(int n, int row) {
        Some& to = some_[n % 3];
        to.row = row;
        to.columns = int(round_up(task_.seen_by(row + num_ - 1), LANES));
        to.scores = task_.scores + n % 3 * AMX_ROWS * width_;
        for (int r = 0; r < num_; r++) to.seen[r] = task_.seen_by(row + r);
        const auto* q = static_cast<const Bf16*>(task_.q) + int64_t(row) * dim_;
        RightTiles k{keys_, LANES * LANES, dim_ / 2 * LANES, LANES};
        amx_product(dim_ / AMX_DEPTH, to.columns, q, dim_, k, to.scores, width_, ahead_, ask_);
    }

    void weigh(Some& rows) {
        for (int r = 0; r < num_;) {
            if (num_ - r >= 4) r += weigh_some<4>(rows, r);
            else if (num_ - r == 3) r += weigh_some<3>(rows, r);
            else if (num_ - r == 2) r += weigh_some<2>(rows, r);
            else r += weigh_some<1>(rows, r);
        }
        // As bfloat16 they take half of the scores' room.
        if (rows.columns % AMX_DEPTH)
            for (int r = 0; r < num_; r++)
                std::memset(weights_of(rows) + 2 * r * width_ + rows.columns, 0,
                            LANES * sizeof(Bf16));
    }
    template <int NR>
    int weigh_some(Some& rows, int r) {
        A ahead = ahead_.behind(ask_ + r * ask_ / num_);
        LK_ISA::weigh<NR, uint32_t>(rows.scores + r * width_, width_, rows.columns, rows.seen + r,
                                    task_.all.scale * LOG2_E, task_.tops + rows.row + r,
                                    task_.sums + rows.row + r, rows.shares + r, ahead,
                                    ask_ * NR / num_);
        return NR;
    }

    void attend(const Some& rows) {
        int64_t stride = task_.all.stride;
        RightTiles v{values_, LANES * int64_t(dim_), LANES, dim_};
        amx_product((rows.columns + AMX_DEPTH - 1) / AMX_DEPTH, dim_, weights_of(rows), 2 * width_,
                    v, task_.out + rows.row * stride, stride, ahead_.behind(2 * ask_), ask_);
    }

    void share_out(const Some& rows) {
        float* out = task_.out + rows.row * task_.all.stride;
        for (int r = 0; r < num_; r++, out += task_.all.stride) {
            Vec share = set1(rows.shares[r]);
            for (int d = 0; d < dim_; d += LANES)
                store(out + d, load(out + d) * share + 0.0f);  // a zero is never negative
        }
    }

    static Bf16* weights_of(const Some& rows) { return reinterpret_cast<Bf16*>(rows.scores); }

    const HeadTask& task_;
    const uint32_t *keys_, *values_;
    const A ahead_;
    const int dim_, num_;
    const int64_t width_, ask_;
    Some some_[3];
};

}  // namespace LK_ISA
}  // namespace lk

#endif
