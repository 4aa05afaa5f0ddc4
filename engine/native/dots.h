// Products of rows with a bfloat16 matrix in panels: y[t, o] = sum over k of x[t, k] w[o, k].
//
// A result's bits depend on its row and output only (panel.h, panel_amx.h).

#pragma once

#include <algorithm>
#include <type_traits>

#include "panel_amx.h"
#include "partial.h"

#if defined(LK_HAS_PANELS)

namespace lk {

constexpr int ROWS_AT_ONCE = 384 / sizeof(Row);  // they stay in the L2 while the matrix passes by
constexpr int64_t MOST_AHEAD = 1 << 16;  // bytes, of a panel that is read once: they stay in the L2

struct Rows {
    const Row* at;
    int64_t stride;
};

// Rows as panels are multiplied with them.
inline Rows rows_of(const Bf16* x, int rows, int depth, int64_t stride_x) {
    if constexpr (std::is_same_v<Row, Bf16>) {
        return {reinterpret_cast<const Row*>(x), stride_x};
    } else {
        static thread_local Buffer buffer;
        int64_t width = round_up(depth, LANES);
        float* wide = buffer.floats(rows * width);
        for (int t = 0; t < rows; t++)
            for (int k = 0; k < depth; k++) wide[t * width + k] = widen(x[t * stride_x + k]);
        return {reinterpret_cast<const Row*>(wide), width};
    }
}

class Panels {
public:
    static constexpr int MOST_ROWS = MOST_TILE_ROWS;

    explicit Panels(int) {}

    template <int NT = MOST_ROWS, class... Arguments>
    LK_INLINE void multiply(int rows, Arguments... arguments) const {
        if constexpr (NT == 1)
            panel_tile<1>(arguments...);
        else if (rows == NT)
            panel_tile<NT>(arguments...);
        else
            multiply<NT - 1>(rows, arguments...);
    }
};

template <class By>
void dots_by(const Bf16* w, int from, int to, const Bf16* x, int rows, int depth, int64_t stride_x,
             float* y, int64_t stride_y, const Bf16* then) {
    int64_t panel_items = int64_t(depth + depth % 2) * BF16_PANEL;
    int64_t panel_bytes = panel_items * int64_t(sizeof(Bf16));
    for (int start = 0; start < rows; start += ROWS_AT_ONCE) {
        int count = std::min(rows - start, ROWS_AT_ONCE);
        Rows these = rows_of(x + start * stride_x, count, depth, stride_x);
        By by(count);
        int tiles = (count + By::MOST_ROWS - 1) / By::MOST_ROWS;
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
                int t = count * tile / tiles, end = count * (tile + 1) / tiles;
                // Each tile asks for its share, evenly: memory has as long as all of them take.
                Ahead ahead{next + panel_bytes * tile / tiles,
                            (BF16_PANEL * 4 + tiles - 1) / tiles};
                by.multiply(end - t, at, these.at + t * these.stride, depth, these.stride,
                            y + (start + t) * stride_y + first, stride_y, uint32_t(outputs), ahead);
            }
        }
    }
}

// ``y`` holds output o of row t at y[t * stride_y + o]. While the last panel is multiplied memory is
// asked for ``then``, the panel that will be wanted next; or for nothing new.
inline void dots(const Bf16* w, int from, int to, const Bf16* x, int rows, int depth,
                 int64_t stride_x, float* y, int64_t stride_y, const Bf16* then) {
#if defined(LK_HAS_AMX)
    if (may_use_amx())
        return dots_by<AmxPanels>(w, from, to, x, rows, depth, stride_x, y, stride_y, then);
#endif
    dots_by<Panels>(w, from, to, x, rows, depth, stride_x, y, stride_y, then);
}

}  // namespace lk

#endif
