// The partials of many query rows over a leaf by AMX, 16 rows abreast: a lane for each.
//
// Keys are left tiles as they lie, values once turned serve all rows, and neither a row's highest
// score nor its sums cross lanes. Scores are [keys, 16], outputs [dim, 16] for each 16 rows. The bits
// are those of leaf_amx.h: the same products and sums, in the same order.

#pragma once

#include "abreast.h"
#include "amx.h"
#include "transpose.h"
#include "weigh.h"

#if defined(LK_HAS_AMX)

namespace lk {
inline namespace LK_ISA {

// A left-hand matrix; strides in items: of 16 rows, of 32 along the depth, of a row.
struct LeftTiles {
    const Bf16* at;
    int64_t tile_stride, step_stride, row_stride;
};

// Rows [16 * tile, 16 * (tile + NT)) of c = a b, with 16 columns; ``b`` in pairs along the depth.
template <int NT>
LK_INLINE void amx_down(int steps, const LeftTiles& a, int tile, const uint32_t* b, float* c) {
    amx_each<NT>([](auto t) __attribute__((always_inline)) { amx_zero<t>(); });
    for (int step = 0; step < steps; step++) {
        const Bf16* left = a.at + tile * a.tile_stride + step * a.step_stride;
        amx_load<6>(b + step * LANES * LANES, AMX_BYTES);
        amx_each<NT>([&](auto t) __attribute__((always_inline)) {
            constexpr int LEFT = 4 + t % 2;
            amx_load<LEFT>(left + t * a.tile_stride, a.row_stride * int64_t(sizeof(Bf16)));
            amx_dot<t, LEFT, 6>();
        });
    }
    amx_each<NT>([&](auto t) __attribute__((always_inline)) {
        amx_store<t>(c + (tile + t) * AMX_ROWS * LANES, AMX_BYTES);
    });
}
LK_INLINE void amx_down(int steps, int tiles, const LeftTiles& a, const uint32_t* b, float* c) {
    int tile = 0;
    for (; tile + 4 <= tiles; tile += 4) amx_down<4>(steps, a, tile, b, c);
    for (; tile + 2 <= tiles; tile += 2) amx_down<2>(steps, a, tile, b, c);
    if (tile < tiles) amx_down<1>(steps, a, tile, b, c);
}

// Values [keys, dim] as left tiles [keys / 32][dim / 16] of 16 of ``dim`` and 32 keys; zeros behind
// those that are seen.
inline void turn_values(const Bf16* values, int seen, int dim, uint32_t* to) {
    for (int key = 0; key < seen; key += AMX_DEPTH)
        for (int d = 0; d < dim; d += 2 * LANES, to += 2 * LANES * LANES) {
            VecU even[LANES], odd[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                const Bf16* at = values + int64_t(key + 2 * i) * dim + d;
                VecU low = {}, high = {};
                if (key + 2 * i < seen) low = load_as<VecU>(at);
                if (key + 2 * i + 1 < seen) high = load_as<VecU>(at + dim);
                even[i] = (low & 0xffffu) | (high << 16);
                odd[i] = (low >> 16) | (high & 0xffff0000u);
            }
            transpose(even);
            transpose(odd);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                std::memcpy(to + 2 * i * LANES, &even[i], sizeof even[i]);
                std::memcpy(to + (2 * i + 1) * LANES, &odd[i], sizeof odd[i]);
            }
        }
}

class LeafAbreast {
public:
    LeafAbreast(const LeafTask& task, const Bf16* keys)
        : task_(task), dim_(task.dim), keys_(keys),
          turned_(reinterpret_cast<uint32_t*>(task.scratch)) {
        int64_t width = round_up(task.tokens, AMX_DEPTH);
        float* at = task.scratch + width * dim_ / 2;
        for (int i = 0; i < 2; i++, at += width * LANES) scores_[i] = at;
        for (int i = 0; i < 2; i++, at += width * LANES / 2)
            weights_[i] = reinterpret_cast<uint32_t*>(at);
        sums_ = at;
    }

    void run() {
        int count = (task_.rows + LANES - 1) / LANES;
        turn_values(keys_ + int64_t(task_.tokens) * dim_, seen_by(task_.rows - 1), dim_, turned_);
        // While vectors weigh the scores of 16 rows, tiles multiply for those behind and before them:
        // neither waits for what the other has only just written.
        for (int n = -1; n <= count; n++) {
            if (n + 1 < count) score(n + 1);
            if (n > 0) attend(n - 1);
            if (n >= 0 && n < count) weigh(n);
            if (n > 0) share_out(n - 1);
        }
        for (int row = 0; row < task_.rows; row += LANES)
            store(task_.lse + row, fma(load(task_.lse + row), set1(LN_2), ln(load(sums_ + row))));
    }

private:
    int seen_by(int row) const { return task_.seen_by(least(row, task_.rows - 1)); }
    // What the last of the n-th 16 rows sees, in whole vectors.
    int keys_of(int n) const { return int(round_up(seen_by(n * LANES + LANES - 1), LANES)); }

    void score(int n) {
        LeftTiles k{keys_, int64_t(LANES) * dim_, AMX_DEPTH, dim_};
        const auto* q = static_cast<const uint32_t*>(task_.q) + int64_t(n) * dim_ / 2 * LANES;
        amx_down(dim_ / AMX_DEPTH, keys_of(n) / AMX_ROWS, k, q, scores_[n % 2]);
    }

    void attend(int n) {
        LeftTiles v{reinterpret_cast<const Bf16*>(turned_), AMX_ROWS * AMX_DEPTH,
                    int64_t(dim_) * AMX_DEPTH, AMX_DEPTH};
        amx_down((keys_of(n) + AMX_DEPTH - 1) / AMX_DEPTH, dim_ / AMX_ROWS, v, weights_[n % 2],
                 out(n));
    }

    void share_out(int n) {
        float* to = out(n);
        for (int d = 0; d < dim_; d++, to += LANES)
            store(to, fma(load(to), shares_[n % 2], Vec{}));  // a zero is never negative
    }

    // Scores become their weights exp2(s * scale - top), see weigh.h.
    void weigh(int n) {
        float* scores = scores_[n % 2];
        int keys = keys_of(n), row = n * LANES, seen_by_all = seen_by(row);
        Vec highest[4] = {set1(EMPTY), set1(EMPTY), set1(EMPTY), set1(EMPTY)};
        VecI sees = VecI{} - (keys > 0);  // anything at all
        int key = 0;
        for (; key + 4 <= seen_by_all; key += 4)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                highest[i] = max(highest[i], load(scores + (key + i) * LANES));
        if (key < keys) {  // what lies behind the own keys may be NaN
            VecI seen;
            for (int i = 0; i < LANES; i++) seen[i] = seen_by(row + i);
            for (; key < keys; key++) {
                Vec score = select(key < seen, load(scores + key * LANES), set1(EMPTY));
                store(scores + key * LANES, score);
                highest[0] = max(highest[0], score);
            }
            sees = seen > 0;
        }
        Vec top = max(max(highest[0], highest[1]), max(highest[2], highest[3]));
        Vec scale = set1(task_.scale * LOG2_E);
        top = select(sees, top * scale, set1(EMPTY));
        store(task_.lse + row, top);
        Sums sums = weights_of(scores, weights_[n % 2], keys, scale, -top, share_of_next(n));
        if (keys % AMX_DEPTH)
            std::memset(weights_[n % 2] + keys / 2 * LANES, 0, LANES / 2 * sizeof(Vec));
        store(sums_ + row, select(sees, sums.total, set1(1.0f)));
        shares_[n % 2] = 1.0f / select(sees, sums.stored, set1(1.0f));
    }

    // What to ask memory for meanwhile: of the next leaf, a part for each 16 rows.
    struct Next {
        const char *at, *end;
        LK_INLINE void ask() {
            if (at < end) fetch(at), at += 64;
        }
    };
    Next share_of_next(int n) const {
        int64_t lines = task_.next ? task_.head_bytes / 64 : 0;
        int64_t count = (task_.rows + LANES - 1) / LANES;
        const char* next = static_cast<const char*>(task_.next);
        return {next + lines * n / count * 64, next + lines * (n + 1) / count * 64};
    }

    // Of weights as computed, and as they are stored.
    struct Sums {
        Vec total, stored;
        LK_INLINE Sums operator+(const Sums& other) const {
            return {total + other.total, stored + other.stored};
        }
    };
    struct TwoSums {
        Sums first, second;
        LK_INLINE TwoSums operator+(const TwoSums& other) const {
            return {first + other.first, second + other.second};
        }
    };

    // The sums in the order in which sum_lanes has them.
    static Sums weights_of(const float* scores, uint32_t* to, int keys, Vec scale, Vec minus_top,
                           Next next) {
        auto of = [&](int key) __attribute__((always_inline)) {
            return two_of_16(scores, to, key, keys, scale, minus_top, next);
        };
        TwoSums quarters[4];
        for (int i = 0; i < 4; i++) quarters[i] = of(2 * i) + of(2 * i + 8);
        TwoSums all = (quarters[0] + quarters[2]) + (quarters[1] + quarters[3]);
        return all.first + all.second;
    }

    // Of each 16 keys the two from ``key`` on.
    LK_INLINE static TwoSums two_of_16(const float* scores, uint32_t* to, int key, int keys,
                                       Vec scale, Vec minus_top, Next& next) {
        // Item 2 i is of the first key's row i, item 2 i + 1 of the second's.
        const VecU lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        const VecU abreast = lane | (lane + LANES) << 16;
        TwoSums sums = {};
        for (; key < keys; key += LANES) {
            Vec first = fma(load(scores + key * LANES), scale, minus_top);
            Vec second = fma(load(scores + (key + 1) * LANES), scale, minus_top);
            first = exp2_of_score(first), second = exp2_of_score(second);
            __m512i pairs = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
            pairs = _mm512_permutexvar_epi16((__m512i)abreast, pairs);
            std::memcpy(to + key / 2 * LANES, &pairs, sizeof pairs);
            next.ask(), next.ask();
            sums.first = sums.first + Sums{first, (Vec)((VecU)pairs << 16)};
            sums.second = sums.second + Sums{second, (Vec)((VecU)pairs & 0xffff0000u)};
        }
        return sums;
    }

    float* out(int n) const { return task_.out + int64_t(n) * LANES * task_.stride; }

    const LeafTask& task_;
    const int dim_;
    const Bf16* keys_;
    uint32_t* turned_;
    float *sums_, *scores_[2];
    uint32_t* weights_[2];
    Vec shares_[2];
};

inline void attend_leaf_abreast(const LeafTask& task, const void* block) {
    AmxTiles tiles(AMX_ROWS);
    LeafAbreast(task, static_cast<const Bf16*>(block)).run();
}

}  // namespace LK_ISA
}  // namespace lk

#endif
