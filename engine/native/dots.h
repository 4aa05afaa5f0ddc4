// Products of rows with a bfloat16 matrix in panels: y[t, o] = sum over k of x[t, k] w[o, k].
//
// A panel is 32 outputs, two registers; for each two values along the depth it has those of all its
// outputs (engine/model/panels.py). So a result is one lane's sum in the order of the depth: its
// bits depend on its row and output only.

#pragma once

#include <algorithm>

#include "simd.h"

#if defined(__AVX512BF16__)

namespace lk {

constexpr int BF16_PANEL = 2 * LANES;     // outputs
constexpr int MOST_TILE_ROWS = 12;        // with two registers each they fill the register file
constexpr int BF16_ROWS_AT_ONCE = 192;    // rows that stay in the L2 while the matrix passes by
constexpr int64_t MOST_AHEAD = 1 << 16;   // bytes, of a panel that is read once: they stay in the L2

// What a tile asks memory for at each of its steps: what lies here, and at the next one ``step`` bytes
// on.
struct Ahead {
    const char* at;
    int step;
};

// All outputs of a panel for NT rows; ``low`` and ``high`` are its registers' outputs to be stored.
template <int NT>
LK_INLINE void panel_tile(const Bf16* w, const Bf16* x, int depth, int64_t stride_x, float* y,
                          int64_t stride_y, __mmask16 low, __mmask16 high, Ahead ahead) {
    __m512 sum[2][NT];
#pragma GCC unroll 24
    for (int i = 0; i < 2 * NT; i++) sum[i / NT][i % NT] = _mm512_setzero_ps();
    auto add = [&](int k, int (*pair)(const Bf16*)) __attribute__((always_inline)) {
        const Bf16* at = w + int64_t(k) * BF16_PANEL;
        __m512bh weights[2] = {load_as<__m512bh>(at), load_as<__m512bh>(at + 2 * LANES)};
        _mm_prefetch(ahead.at, _MM_HINT_T1);
        if (ahead.step > 64) _mm_prefetch(ahead.at + 64, _MM_HINT_T1);
        ahead.at += ahead.step;
#pragma GCC unroll 12
        for (int t = 0; t < NT; t++) {
            __m512bh values = (__m512bh)_mm512_set1_epi32(pair(x + t * stride_x + k));
            sum[0][t] = _mm512_dpbf16_ps(sum[0][t], weights[0], values);
            sum[1][t] = _mm512_dpbf16_ps(sum[1][t], weights[1], values);
        }
    };
    int k = 0;
    for (; k + 2 <= depth; k += 2) add(k, [](const Bf16* at) { return load_as<int>(at); });
    if (k < depth) add(k, [](const Bf16* at) { return int(load_as<uint16_t>(at)); });
#pragma GCC unroll 12
    for (int t = 0; t < NT; t++) {
        _mm512_mask_storeu_ps(y + t * stride_y, low, sum[0][t]);
        _mm512_mask_storeu_ps(y + t * stride_y + LANES, high, sum[1][t]);
    }
}

template <int NT, class... Arguments>
LK_INLINE void panel_tile_of(int rows, Arguments... arguments) {
    if constexpr (NT == 1)
        panel_tile<1>(arguments...);
    else if (rows == NT)
        panel_tile<NT>(arguments...);
    else
        panel_tile_of<NT - 1>(rows, arguments...);
}

// ``y`` holds output o of row t at y[t * stride_y + o]. While the last panel is multiplied memory is
// asked for ``then``, the panel that will be wanted next; or for nothing new.
inline void dots(const Bf16* w, int from, int to, const Bf16* x, int rows, int depth,
                 int64_t stride_x, float* y, int64_t stride_y, const Bf16* then) {
    int64_t panel_items = int64_t(depth + depth % 2) * BF16_PANEL;
    int64_t panel_bytes = panel_items * int64_t(sizeof(Bf16));
    for (int start = 0; start < rows; start += BF16_ROWS_AT_ONCE) {
        int count = std::min(rows - start, BF16_ROWS_AT_ONCE);
        int tiles = (count + MOST_TILE_ROWS - 1) / MOST_TILE_ROWS;
        // One panel for all rows, then the next: the matrix is read once.
        for (int panel = from / BF16_PANEL; panel * BF16_PANEL < to; panel++) {
            int first = panel * BF16_PANEL;
            uint64_t outputs = (1ull << std::min(to - first, BF16_PANEL)) - 1;
            outputs &= ~((1ull << std::max(from - first, 0)) - 1);
            const Bf16* at = w + panel * panel_items;
            auto next = reinterpret_cast<const char*>(at);
            if (first + BF16_PANEL < to)
                next += tiles == 1 ? std::min(panel_bytes, MOST_AHEAD) : panel_bytes;
            else if (then)
                next = reinterpret_cast<const char*>(then);
            for (int tile = 0; tile < tiles; tile++) {
                int t = start + count * tile / tiles, end = start + count * (tile + 1) / tiles;
                // Each tile asks for its share, evenly: memory has as long as all of them take.
                Ahead ahead{next + panel_bytes * tile / tiles,
                            (BF16_PANEL * 4 + tiles - 1) / tiles};
                panel_tile_of<MOST_TILE_ROWS>(
                    end - t, at, x + t * stride_x, depth, stride_x, y + t * stride_y + first,
                    stride_y, __mmask16(outputs), __mmask16(outputs >> LANES), ahead);
            }
        }
    }
}

}  // namespace lk

#endif
