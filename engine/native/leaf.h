// The partials of some query rows over one leaf.
//
//     s = q . k * scale,  m = max s,  p = exp(s - m),  out = p v / sum p,  lse = m + ln sum p
//
// A row's arithmetic does not depend on which of the ways below reads the keys and values.

#pragma once

#include "merge.h"
#include "tiles.h"
#include "transpose.h"

namespace lk {
inline namespace LK_ISA {

constexpr int FEW_ROWS = 2 * TILE_ROWS;  // up to here widening values while reading is cheaper
constexpr float LN_2 = 0.6931471805599453f;

// A head's part of a LeafTask, with the parts of its scratch.
struct HeadTask {
    const LeafTask& all;
    const void* q;
    float *tops, *sums, *out;  // a top is the highest score in base 2
    float *k, *v, *scores;
    const char* next;
    int64_t phase_bytes;  // to ask for in each of PHASES

    int seen_by(int row) const {
        int64_t seen = all.before + row / all.group + 1;
        return seen < 0 ? 0 : seen < all.tokens ? int(seen) : all.tokens;
    }
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

template <int NR, class K, class V, class A>
void attend_tile(const HeadTask& task, int row, const K& k, const V& v, A ahead) {
    int64_t width = task.width(), stride = task.all.stride;
    int steps = task.all.dim / K::DEPTH, q_items = steps * K::LEFTS;
    int depth = task.seen_by(row + NR - 1), columns = int(round_up(depth, LANES));
    int keys[NR];
    float shares[NR];
    for (int r = 0; r < NR; r++) keys[r] = task.seen_by(row + r);
    const auto* q = static_cast<const typename K::Left*>(task.q) + int64_t(row) * q_items;
    product<NR>(steps, columns, q, q_items, k, task.scores, width, ahead,
                [](int, Vec sum) __attribute__((always_inline)) { return sum; });
    using Weight = typename V::Left;
    weigh<NR, Weight>(task.scores, width, columns, keys, task.all.scale * LOG2_E, task.tops + row,
                      task.sums + row, shares, ahead.behind(task.phase_bytes), task.phase_bytes);
    product<NR>((depth + V::DEPTH - 1) / V::DEPTH, int(stride),
                reinterpret_cast<const Weight*>(task.scores), width, v, task.out + row * stride,
                stride, ahead.behind(2 * task.phase_bytes),
                [&](int r, Vec sum) __attribute__((always_inline)) {
                    return sum * set1(shares[r]) + 0.0f;  // a zero is never negative
                });
}

template <class K, class V, class A>
void attend_rows(const HeadTask& task, const K& k, const V& v, A ahead) {
    const char* next = task.next;
    int rows = task.all.rows;
    // Many rows take so long that they may ask for everything at once, each tile for its share.
    bool ask = std::is_same_v<A, NothingAhead>;
    int64_t share = ask ? round_up(PHASES * task.phase_bytes * TILE_ROWS / rows, 64) : 0;
    for (int row = 0, num; row < rows; row += num) {
        int left = rows - row;
        num = left > TILE_ROWS && left <= 8 ? least(4, TILE_ROWS) : least(left, TILE_ROWS);
        for (const char* end = next + share; next < end; next += 64) fetch(next);
        switch (num) {
#define LK_ROWS(n) case n: attend_tile<(n <= TILE_ROWS ? n : 1)>(task, row, k, v, ahead); break;
            LK_ROWS(1) LK_ROWS(2) LK_ROWS(3) LK_ROWS(4) LK_ROWS(5) LK_ROWS(6)
#undef LK_ROWS
        }
        ahead = ahead.asked();
    }
}

// Values in float32, each row padded with zeros to whole vectors.
template <class R>
Rows<float> widen_values(const R& values, int seen, int dim, float* v) {
    int64_t stride = round_up(dim, LANES);
    for (int key = 0; key < seen; key++) {
        float* to = v + key * stride;
        int d = 0;
        for (; d + LANES <= dim; d += LANES) store(to + d, values.load(key, d));
        for (; d < dim; d++) to[d] = values.item(key, d);
        for (; d < stride; d++) to[d] = 0.0f;
    }
    return {v, stride};
}

#if defined(__AVX512BF16__)
// Values as pairs of rows, [rows / 2][dim]; of an odd number the last is paired with zeros.
inline DotPairs pair_values(const Bf16* values, int seen, int dim, uint32_t* pairs) {
    for (int key = 0; key < seen; key += 2)
        for (int d = 0; d < dim; d += LANES) {
            const Bf16* from = values + int64_t(key) * dim + d;
            VecU low = load_words(from), high = {};
            if (key + 1 < seen) high = (VecU)load(from + dim);
            low |= high;
            std::memcpy(pairs + key / 2 * dim + d, &low, sizeof low);
        }
    return {pairs, dim, LANES};
}
#endif

inline bool takes_pairs(int dim, int tokens) {
#if defined(__AVX512BF16__)
    return dim % 32 == 0 && tokens % LANES == 0;
#else
    return dim < 0 && tokens < 0;  // never
#endif
}

// ``keys`` [tokens, dim], then the values. Few rows read bfloat16 as it is, many widen it once.
template <class T>
void attend_head(HeadTask& task, const T* keys) {
    int dim = task.all.dim, tokens = task.all.tokens, seen = task.seen_by(task.all.rows - 1);
    const T* values = keys + int64_t(tokens) * dim;
    int64_t width = task.width();
    Ahead here{reinterpret_cast<const char*>(keys) + 3 * task.phase_bytes}, ahead{task.next};
    bool few = task.all.rows <= FEW_ROWS;
    if constexpr (std::is_same_v<T, Bf16>) {
        if (dim % 32 == 0 && tokens % LANES == 0) {
            auto* pairs = reinterpret_cast<uint32_t*>(task.k);
            if (few)
                transpose_key_pairs(keys, tokens, dim, pairs, here);
            else
                transpose_key_pairs(keys, tokens, dim, pairs, NothingAhead{});
#if defined(__AVX512BF16__)
            if (task.all.pairs) {
                DotPairs k{pairs, LANES, dim / 2 * LANES};
                if (few) return attend_rows(task, k, RowPairs{values, dim, seen}, ahead);
                auto* v = reinterpret_cast<uint32_t*>(task.v);
                return attend_rows(task, k, pair_values(values, seen, dim, v), NothingAhead{});
            }
#endif
            DepthPairs k{pairs, dim / 2 * LANES};
            if (few) return attend_rows(task, k, NarrowRows{values, dim}, ahead);
            auto v = widen_values(Plain<Bf16>{values, dim}, seen, dim, task.v);
            return attend_rows(task, k, v, NothingAhead{});
        }
    }
    here.ask_bytes(0, task.phase_bytes);
    transpose_keys(Plain<T>{keys, dim}, seen, dim, task.k, width);
    Rows<float> k{task.k, width};
    if constexpr (std::is_same_v<T, float>)
        if (dim % LANES == 0) {
            Rows<float> v{values, dim};
            if (few)
                attend_rows(task, k, v, ahead);
            else
                attend_rows(task, k, v, NothingAhead{});
            return;
        }
    auto v = widen_values(Plain<T>{values, dim}, seen, dim, task.v);
    attend_rows(task, k, v, NothingAhead{});
}

// Of 8 bits: widened once, with their scales.
template <class T>
void attend_scaled_head(HeadTask& task, const T* keys) {
    int dim = task.all.dim, tokens = task.all.tokens, seen = task.seen_by(task.all.rows - 1);
    int64_t width = task.width(), to_scales = task.all.head_bytes - int64_t(8) * tokens;
    const auto* at = reinterpret_cast<const char*>(keys);
    const auto* scales = reinterpret_cast<const float*>(at + to_scales);
    Ahead{at + 3 * task.phase_bytes}.ask_bytes(0, task.phase_bytes);
    transpose_keys(Scaled<T>{keys, dim, scales}, seen, dim, task.k, width);
    Scaled<T> values{keys + int64_t(tokens) * dim, dim, scales + tokens};
    Rows<float> k{task.k, width}, v = widen_values(values, seen, dim, task.v);
    if (task.all.rows <= FEW_ROWS)
        attend_rows(task, k, v, Ahead{task.next});
    else
        attend_rows(task, k, v, NothingAhead{});
}

inline size_t scratch_floats(int dim, int tokens, int all_rows) {
    int64_t width = round_up(tokens, LANES), rows = round_up(all_rows, LANES);
    return width * dim + tokens * round_up(dim, LANES) + TILE_ROWS * width + rows;
}

template <class T>
void attend_leaf(const LeafTask& all, const void* block) {
    int64_t width = round_up(all.tokens, LANES), head_bytes = all.head_bytes;
    const char* at = static_cast<const char*>(block);
    const char* next = static_cast<const char*>(all.next ? all.next : block);
    float* k = all.scratch;
    float* v = k + width * all.dim;
    float* scores = v + all.tokens * all.stride;
    float* sums = scores + TILE_ROWS * width;
    int64_t q_bytes = int64_t(all.rows) * all.dim * (all.pairs ? sizeof(Bf16) : sizeof(float));
    for (int head = 0; head < all.heads; head++, at += head_bytes) {
        int64_t row = int64_t(head) * all.rows;
        HeadTask task{all, static_cast<const char*>(all.q) + head * q_bytes, all.lse + row,
                      sums + row, all.out + row * all.stride, k, v, scores,
                      head + 1 < all.heads ? at + head_bytes : next, head_bytes / PHASES};
        if constexpr (sizeof(T) == 1)
            attend_scaled_head(task, reinterpret_cast<const T*>(at));
        else
            attend_head(task, reinterpret_cast<const T*>(at));
    }
    int all_rows = all.heads * all.rows;
    for (int row = 0; row < all_rows; row += LANES) {
        Vec top = {}, sum = set1(1.0f);
        int num = least(LANES, all_rows - row);
        std::memcpy(&top, all.lse + row, num * sizeof(float));
        std::memcpy(&sum, sums + row, num * sizeof(float));
        store(all.lse + row, fma(top, set1(LN_2), ln(sum)));
    }
}

constexpr Routines ROUTINES = {
    takes_pairs, scratch_floats,
    {attend_leaf<float>, attend_leaf<Bf16>, attend_leaf<Half>, attend_leaf<int8_t>,
     attend_leaf<Fp8>},
    merge_rows};

}  // namespace LK_ISA
}  // namespace lk
