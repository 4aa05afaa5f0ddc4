// The partial of some query rows over one leaf with one KV head.
//
//     s = q . k * scale,  m = max s,  p = exp(s - m),  out = p v / sum p,  lse = m + ln sum p
//
// A row's arithmetic does not depend on which of the ways below reads the keys and values.

#pragma once

#include "partial.h"
#include "tiles.h"

namespace lk {

constexpr int UNIT_ROWS = 96;  // widening a block once serves this many rows; they fit the L2
constexpr int DIRECT_ROWS = 2 * TILE_ROWS;  // up to here widening while reading is cheaper
constexpr float LN_2 = 0.6931471805599453f;

struct LeafScratch {
    Buffer k, v, scores, sums;
};

struct LeafTask {
    int dim, tokens;
    int rows, group;  // ``group`` rows to a query token
    int64_t before;   // keys of the leaf before the first token's own; may be negative
    float scale;
    const float* q;  // [rows, dim]
    float* lse;      // room for rows rounded up to 16
    float* out;      // [rows, stride]
    int64_t stride;  // dim rounded up to 16
    Prefetch prefetch{};

    int seen_by(int row) const {
        return int(std::clamp<int64_t>(before + row / group + 1, 0, tokens));
    }
};

// Scores in base 2 become exp2(s - top), 0 beyond the row's own keys; ``width`` is whole vectors.
LK_INLINE void weigh(float* scores, int keys, int width, float* top, float* sum) {
    if (keys == 0) {
        std::fill_n(scores, width, 0.0f);
        *top = EMPTY;
        *sum = 1.0f;
        return;
    }
    const VecI lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Vec highest = set1(EMPTY);
    for (int i = 0; i < width; i += LANES) {
        Vec score = load(scores + i);
        if (keys < i + LANES) {  // what lies behind the own keys may be NaN
            score = select(lane < keys - i, score, set1(EMPTY));
            store(scores + i, score);
        }
        highest = max(highest, score);
    }
    *top = max_lane(highest);
    Vec total = {};
    for (int i = 0; i < width; i += LANES) {
        Vec weight = exp2_of_negative(load(scores + i) - *top);
        store(scores + i, weight);
        total += weight;
    }
    *sum = sum_lanes(total);
}

template <class K, class V>
void attend_rows(LeafTask& task, const K& k, const V& v, LeafScratch& scratch) {
    float scale[TILE_ROWS], inverse[TILE_ROWS];
    std::fill_n(scale, TILE_ROWS, task.scale * LOG2_E);
    int64_t width = round_up(task.tokens, LANES);
    float* scores = scratch.scores.floats(TILE_ROWS * width);
    float* sums = scratch.sums.floats(round_up(task.rows, LANES));
    for (int row = 0, num; row < task.rows; row += num) {
        int left = task.rows - row;
        num = left > TILE_ROWS && left <= 8 ? 4 : std::min(left, TILE_ROWS);
        int depth = task.seen_by(row + num - 1), columns = int(round_up(depth, LANES));
        product(num, task.dim, columns, task.q + int64_t(row) * task.dim, task.dim, k, scale,
                scores, width, task.prefetch);
        for (int r = 0; r < num; r++) {
            weigh(scores + r * width, task.seen_by(row + r), columns, &task.lse[row + r],
                  &sums[row + r]);
            inverse[r] = 1.0f / sums[row + r];
        }
        product(num, depth, int(task.stride), scores, width, v, inverse,
                task.out + row * task.stride, task.stride, task.prefetch);
    }
    for (int row = 0; row < task.rows; row += LANES) {
        int num = std::min(LANES, task.rows - row);
        Vec top = {}, sum = set1(1.0f);
        std::memcpy(&top, task.lse + row, num * sizeof(float));
        std::memcpy(&sum, sums + row, num * sizeof(float));
        store(task.lse + row, fma(top, set1(LN_2), ln(sum)));
    }
}

// Values in float32, each row padded with zeros to whole vectors.
template <class T>
Rows<float> widen_values(const T* values, int seen, int dim, Buffer& buffer) {
    int64_t stride = round_up(dim, LANES);
    float* v = buffer.floats(seen * stride);
    for (int key = 0; key < seen; key++) {
        const T* from = values + int64_t(key) * dim;
        float* to = v + key * stride;
        int d = 0;
        for (; d + LANES <= dim; d += LANES) store(to + d, load(from + d));
        for (; d < dim; d++) to[d] = widen(from[d]);
        for (; d < stride; d++) to[d] = 0.0f;
    }
    return {v, stride};
}

// ``keys`` [tokens, dim], then the values. Few rows read bfloat16 as it is, many widen it once.
template <class T>
void attend_leaf(LeafTask& task, const T* keys, LeafScratch& scratch) {
    const T* values = keys + int64_t(task.tokens) * task.dim;
    int seen = task.seen_by(task.rows - 1);
    int64_t width = round_up(task.tokens, LANES);
    float* k = scratch.k.floats(width * task.dim);
    bool direct = task.rows <= DIRECT_ROWS;
    if constexpr (std::is_same_v<T, Bf16>) {
        if (direct && task.dim % 32 == 0 && task.tokens % LANES == 0) {
            auto* pairs = reinterpret_cast<uint32_t*>(k);
            transpose_key_pairs(keys, task.tokens, task.dim, pairs);
            attend_rows(task, DepthPairs{pairs, width}, ColumnPairs{values, task.dim}, scratch);
            return;
        }
    }
    transpose_keys(keys, seen, task.dim, k, width);
    Rows<float> k_DC{k, width};
    if (task.dim % LANES == 0 && (direct || std::is_same_v<T, float>))
        attend_rows(task, k_DC, Rows<T>{values, task.dim}, scratch);
    else
        attend_rows(task, k_DC, widen_values(values, seen, task.dim, scratch.v), scratch);
}

}  // namespace lk
