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
constexpr int STREAM_AHEAD = 4096;        // bytes to ask memory for, where a panel is read once

// What a tile asks memory for at each of its steps: registers [from, to) of those ``bytes`` on.
struct Ahead {
    int from, to;
    int64_t bytes;
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
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++)  // beyond the matrix nothing is read: a prefetch does not fault
            if (r >= ahead.from && r < ahead.to)
                _mm_prefetch((const char*)(at + r * 2 * LANES) + ahead.bytes, _MM_HINT_T1);
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

// ``y`` holds output o of row t at y[t * stride_y + o].
inline void dots(const Bf16* w, int from, int to, const Bf16* x, int rows, int depth,
                 int64_t stride_x, float* y, int64_t stride_y) {
    int64_t panel_items = int64_t(depth + depth % 2) * BF16_PANEL;
    for (int start = 0; start < rows; start += BF16_ROWS_AT_ONCE) {
        int count = std::min(rows - start, BF16_ROWS_AT_ONCE);
        int tiles = (count + MOST_TILE_ROWS - 1) / MOST_TILE_ROWS;
        // One panel for all rows, then the next: the matrix is read once.
        for (int panel = from / BF16_PANEL; panel * BF16_PANEL < to; panel++) {
            int first = panel * BF16_PANEL;
            uint64_t outputs = (1ull << std::min(to - first, BF16_PANEL)) - 1;
            outputs &= ~((1ull << std::max(from - first, 0)) - 1);
            for (int tile = 0; tile < tiles; tile++) {
                int t = start + count * tile / tiles, end = start + count * (tile + 1) / tiles;
                // Read once, a panel is a stream; otherwise each tile asks for its share of the next.
                Ahead ahead{0, 2, STREAM_AHEAD};
                if (tiles > 1)
                    ahead = {2 * tile / tiles, 2 * (tile + 1) / tiles,
                             panel_items * int64_t(sizeof(Bf16))};
                panel_tile_of<MOST_TILE_ROWS>(
                    end - t, w + panel * panel_items, x + t * stride_x, depth, stride_x,
                    y + t * stride_y + first, stride_y, __mmask16(outputs),
                    __mmask16(outputs >> LANES), ahead);
            }
        }
    }
}

}  // namespace lk

#endif
