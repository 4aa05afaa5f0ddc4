// A head's part of the work on a leaf, and its second third: scores become weights.

#pragma once

#include <type_traits>

#include "ahead.h"
#include "simd.h"

namespace lk {
inline namespace LK_ISA {

constexpr int SCORE_ROWS = 48;  // whose scores or weights are kept at a time, at most
constexpr float LN_2 = 0.6931471805599453f;

// A head's part of a LeafTask, with the parts of its scratch.
struct HeadTask {
    const LeafTask& all;
    const void* q;
    float *tops, *sums, *out;  // a top is the highest score in base 2
    float *k, *v, *scores;
    const char* next;
    int64_t phase_bytes;  // to ask for in each of PHASES

    int seen_by(int row) const { return all.seen_by(row); }
    int64_t width() const { return round_up(all.tokens, LANES); }
};

// Scores become their weights exp2(s * scale - top), 0 beyond a row's own keys. ``columns`` is
// whole vectors, keys[r] how many a row sees. ``sums`` are of the weights as computed, ``shares``
// one over those of the weights as stored: rounded ones, too, share a row out completely.
template <int NR, class Weight, class A>
LK_INLINE void weigh(float* scores, int64_t stride, int columns, const int* keys, float scale,
                     float* tops, float* sums, float* shares, A ahead, int64_t to_ask) {
    constexpr bool ROUNDS = !std::is_same_v<Weight, float>;
    using Stored = std::conditional_t<ROUNDS, Bf16, float>;
    const VecI lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Vec highest[NR], total[NR], stored[NR];
    float minus_top[NR];
#pragma GCC unroll 8
    for (int r = 0; r < NR; r++) {
        highest[r] = set1(EMPTY);
        total[r] = stored[r] = Vec{};
    }
    for (int i = 0; i < columns; i += LANES)
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++) {
            Vec score = load(scores + r * stride + i);
            if (keys[r] < i + LANES) {  // what lies behind the own keys may be NaN
                score = select(lane < keys[r] - i, score, set1(EMPTY));
                store(scores + r * stride + i, score);
            }
            highest[r] = max(highest[r], score);
        }
#pragma GCC unroll 8
    for (int r = 0; r < NR; r++) {
        tops[r] = keys[r] ? max_lane(highest[r]) * scale : EMPTY;
        minus_top[r] = -tops[r];
    }
    int64_t share = columns ? to_ask * LANES / (columns * NR) : 0;
    for (int i = 0; i < columns; i += LANES)
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++) {  // a row that sees nothing: NaN, so 0
            Vec score = fma(load(scores + r * stride + i), set1(scale), set1(minus_top[r]));
            Vec weight = exp2_of_negative(score);
            total[r] += weight;
            // In place: nothing is written before it was read.
            stored[r] += store_weight(reinterpret_cast<Stored*>(scores + r * stride) + i, weight);
            ahead.ask_bytes((i / LANES * NR + r) * share, share);
        }
#pragma GCC unroll 8
    for (int r = 0; r < NR; r++) {
        sums[r] = keys[r] ? sum_lanes(total[r]) : 1.0f;
        shares[r] = 1.0f / (keys[r] ? sum_lanes(ROUNDS ? stored[r] : total[r]) : 1.0f);
    }
}

}  // namespace LK_ISA
}  // namespace lk
