// Products of rows with a matrix of 8-bit integers: y[t, o] = sum over k of x[t, k] w[o, k].
//
// GROUP values along the depth share a scale: those of an output's weights, and those of a row,
// which become integers (int8_rows.h). A group's sum is exact, and the groups are added in order:
// so a result's bits depend on its row and output only.
//
// Tried on SmolLM2-135M over 20,460 tokens, beside +0.42 % perplexity: groups of 32 give +0.34 %
// and some 5 % less speed; rows of 16 bits, as two products of bytes, +0.05 %, but for many rows
// only the speed of bfloat16.

#pragma once

#include "isa.h"
#include "panel_int8_amx.h"

#if defined(LK_HAS_INT8)

namespace lk {

constexpr int INT8_ROWS_AT_ONCE = 64;  // rows that stay in the L2 while the matrix passes by

template <int NT>
LK_INLINE void int8_rows(const WeightGroup* w, int from, int to, const Int8Rows& x, int rows,
                         float* y, int64_t stride_y) {
    int tiles = (rows + NT - 1) / NT, end = (to + PANEL - 1) / PANEL, panel = from / PANEL;
    // Two panels for all rows, then the next: the matrix is read once.
    for (; panel < end; panel += 2)
        for (int tile = 0; tile < tiles; tile++) {
            // NT rows at any rate: some of the last ones twice, to the same bits.
            int t = std::min(NT * tile, rows - NT);
            if (panel + 1 < end)
                int8_panels<2, NT>(w, panel, from, to, x.from(t), tile, tiles, y + t * stride_y,
                                   stride_y);
            else
                int8_panels<1, NT>(w, panel, from, to, x.from(t), tile, tiles, y + t * stride_y,
                                   stride_y);
        }
}

#if defined(LK_HAS_AMX_INT8)
inline void int8_rows_amx(const WeightGroup* w, int from, int to, const Int8Rows& x, int rows,
                          float* y, int64_t stride_y) {
    constexpr int NT = AmxInt8Panel::ROWS;
    AmxInt8Panel by;
    int tiles = (rows + NT - 1) / NT;
    for (int panel = from / PANEL; panel * PANEL < to; panel++) {
        const WeightGroup* at = w + int64_t(panel) * x.groups;
        const auto* next = reinterpret_cast<const char*>(at + x.groups);
        for (int tile = 0; tile < tiles; tile++) {
            int t = std::min(NT * tile, rows - NT);
            Ahead ahead{next + int64_t(sizeof *at) * x.groups * tile / tiles,
                        int(sizeof *at + tiles - 1) / tiles};
            by.multiply(at, x.from(t), y + t * stride_y + panel * PANEL, stride_y,
                        outputs_of(panel, from, to), ahead);
        }
    }
}
#endif

// ``y`` holds output o of row t at y[t * stride_y + o].
inline void dots(const WeightGroup* w, int from, int to, const Int8Rows& x, int rows, float* y,
                 int64_t stride_y) {
    for (int start = 0; start < rows; start += INT8_ROWS_AT_ONCE) {
        int count = std::min(rows - start, INT8_ROWS_AT_ONCE);
        Int8Rows these = x.from(start);
        float* to_y = y + start * stride_y;
#if defined(LK_HAS_AMX_INT8)
        if (count >= AmxInt8Panel::ROWS && may_use_amx()) {
            int8_rows_amx(w, from, to, these, count, to_y, stride_y);
            continue;
        }
#endif
        switch (count) {
            case 1: int8_rows<1>(w, from, to, these, 1, to_y, stride_y); break;
            case 2: int8_rows<2>(w, from, to, these, 2, to_y, stride_y); break;
            case 3: int8_rows<3>(w, from, to, these, 3, to_y, stride_y); break;
            default: int8_rows<4>(w, from, to, these, count, to_y, stride_y);
        }
    }
}

}  // namespace lk

#endif
