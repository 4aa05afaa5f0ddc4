// The partials of some query rows over one leaf.
//
//     s = q . k * scale,  m = max s,  p = exp(s - m),  out = p v / sum p,  lse = m + ln sum p
//
// A row's arithmetic does not depend on which of the ways below reads the keys and values.

#pragma once

#include "leaf_abreast.h"
#include "leaf_amx.h"
#include "merge.h"
#include "tiles.h"
#include "transpose.h"
#include "weigh.h"

namespace lk {
inline namespace LK_ISA {

constexpr int FEW_ROWS = 2 * TILE_ROWS;  // up to here widening values while reading is cheaper

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
                [](int, Wide sum) __attribute__((always_inline)) { return sum; });
    using Weight = typename V::Left;
    weigh<NR, Weight>(task.scores, width, columns, keys, task.all.scale * LOG2_E, task.tops + row,
                      task.sums + row, shares, ahead.behind(task.phase_bytes), task.phase_bytes);
    product<NR>((depth + V::DEPTH - 1) / V::DEPTH, int(stride),
                reinterpret_cast<const Weight*>(task.scores), width, v, task.out + row * stride,
                stride, ahead.behind(2 * task.phase_bytes),
                [&](int r, Wide sum) __attribute__((always_inline)) {
                    return sum * set_wide(shares[r]) + 0.0f;  // a zero is never negative
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
        for (; d + WIDE <= dim; d += WIDE) store(to + d, values.load(key, d));
        for (; d < dim; d++) to[d] = values.item(key, d);
        for (; d < stride; d++) to[d] = 0.0f;
    }
    return {v, stride};
}

#if defined(__AVX512BF16__)
// Values as pairs of rows, [rows / 2][dim]; of an odd number the last is paired with zeros.
inline void pair_values(const Bf16* values, int seen, int dim, uint32_t* pairs) {
    for (int key = 0; key < seen; key += 2)
        for (int d = 0; d < dim; d += LANES) {
            const Bf16* from = values + int64_t(key) * dim + d;
            VecU low = load_words(from), high = {};
            if (key + 1 < seen) high = (VecU)load(from + dim);
            low |= high;
            std::memcpy(pairs + key / 2 * dim + d, &low, sizeof low);
        }
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
#if defined(LK_HAS_AMX)
            if (task.all.pairs) {
                auto* v = reinterpret_cast<uint32_t*>(task.v);
                pair_values(values, seen, dim, v);
                int whole = int(round_up(seen, 2)), end = int(round_up(seen, AMX_DEPTH));
                std::memset(v + whole / 2 * dim, 0, (end - whole) * dim * sizeof(Bf16));
                return attend_rows_amx(task, pairs, v, ahead);
            }
#elif defined(__AVX512BF16__)
            if (task.all.pairs) {
                DotPairs k{pairs, LANES, dim / 2 * LANES};
                if (few) return attend_rows(task, k, RowPairs{values, dim, seen}, ahead);
                auto* v = reinterpret_cast<uint32_t*>(task.v);
                pair_values(values, seen, dim, v);
                return attend_rows(task, k, DotPairs{v, dim, LANES}, NothingAhead{});
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
    int64_t width = round_up(tokens, 2 * LANES), rows = round_up(all_rows, LANES);
    return width * (dim + round_up(dim, LANES) + SCORE_ROWS) + rows;
}

template <class T>
void attend_heads(const LeafTask& all, const void* block) {
    int64_t width = round_up(all.tokens, LANES), head_bytes = all.head_bytes;
    const char* at = static_cast<const char*>(block);
    const char* next = static_cast<const char*>(all.next ? all.next : block);
    float* k = all.scratch;
    float* v = k + width * all.dim;
    float* scores = v + all.tokens * all.stride;
    float* sums = scores + SCORE_ROWS * width;
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
    for (int row = 0; row < all_rows; row += WIDE) {
        Wide top = {}, sum = set_wide(1.0f);
        int num = least(WIDE, all_rows - row);
        std::memcpy(&top, all.lse + row, num * sizeof(float));
        std::memcpy(&sum, sums + row, num * sizeof(float));
        store(all.lse + row, fma(top, set_wide(LN_2), ln(sum)));
    }
}

template <class T>
void attend_leaf(const LeafTask& all, const void* block) {
#if defined(LK_HAS_AMX)
    if (all.pairs) {
        AmxTiles tiles(least(all.rows, AMX_ROWS));
        return attend_heads<T>(all, block);
    }
#endif
    attend_heads<T>(all, block);
}

#if defined(LK_HAS_AMX)
constexpr Abreast ABREAST[] = {
    {queries_abreast, attend_leaf_abreast, merge_abreast, rows_again}};
#else
constexpr const Abreast* ABREAST = nullptr;
#endif

constexpr Routines ROUTINES = {
    takes_pairs, scratch_floats,
    {attend_leaf<float>, attend_leaf<Bf16>, attend_leaf<Half>, attend_leaf<int8_t>,
     attend_leaf<Fp8>},
    merge_rows, ABREAST};

}  // namespace LK_ISA
}  // namespace lk
