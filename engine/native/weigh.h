// A head's part of the work on a leaf, and its second third: scores become weights.

#pragma once

#include <type_traits>

#include "ahead.h"
#include "wide.h"

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

template <bool ROUNDS>
LK_INLINE Wide weight_of(Wide score) {
#if defined(__AVX512BF16__)
    if constexpr (ROUNDS) return exp2_of_score(score);
#endif
    return exp2_of_negative(score);
}

// Scores become their weights exp2(s * scale - top), 0 beyond a row's own keys. ``columns`` is
// whole vectors, keys[r] how many a row sees. ``sums`` are of the weights as computed, ``shares``
// one over those of the weights as stored: rounded ones, too, share a row out completely.
template <int NR, class Weight, class A>
LK_INLINE void weigh(float* scores, int64_t stride, int columns, const int* keys, float scale,
                     float* tops, float* sums, float* shares, A ahead, int64_t to_ask) {
    constexpr bool ROUNDS = !std::is_same_v<Weight, float>;
    using Stored = std::conditional_t<ROUNDS, Bf16, float>;
    const WideI lane = lanes();
    Wide highest[NR][PARTS], total[NR][PARTS], stored[NR][PARTS];
    float minus_top[NR];
#pragma GCC unroll 16
    for (int i = 0; i < NR * PARTS; i++) {
        highest[i / PARTS][i % PARTS] = set_wide(EMPTY);
        total[i / PARTS][i % PARTS] = stored[i / PARTS][i % PARTS] = Wide{};
    }
    for (int i = 0; i < columns; i += LANES)
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++)
#pragma GCC unroll 2
            for (int p = 0; p < PARTS; p++) {
                int column = i + p * WIDE;
                Wide score = load_wide(scores + r * stride + column);
                if (keys[r] < column + WIDE) {  // what lies behind the own keys may be NaN
                    score = select(lane < keys[r] - column, score, set_wide(EMPTY));
                    store(scores + r * stride + column, score);
                }
                highest[r][p] = max(highest[r][p], score);
            }
#pragma GCC unroll 8
    for (int r = 0; r < NR; r++) {
        tops[r] = keys[r] ? max_lane(highest[r]) * scale : EMPTY;
        minus_top[r] = -tops[r];
    }
    int64_t share = columns ? to_ask * LANES / (columns * NR) : 0;
    for (int i = 0; i < columns; i += LANES)
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++) {
#pragma GCC unroll 2
            for (int p = 0; p < PARTS; p++) {  // a row that sees nothing: NaN, so 0
                int column = i + p * WIDE;
                Wide score = fma(load_wide(scores + r * stride + column), set_wide(scale),
                                 set_wide(minus_top[r]));
                Wide weight = weight_of<ROUNDS>(score);
                total[r][p] += weight;
                // In place: nothing is written before it was read.
                auto* to = reinterpret_cast<Stored*>(scores + r * stride) + column;
                stored[r][p] += store_weight(to, weight);
            }
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
