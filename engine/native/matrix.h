// A matrix of weights in one of the formats that rows can be multiplied with.

#pragma once

#include "dots.h"
#include "dots_int8.h"

#if defined(LK_HAS_PANELS)
#define LK_HAS_DECODER

namespace lk {

// Some outputs of a matrix [outputs, depth].
struct Part {
    const void* data = nullptr;
    bool int8 = false;  // WeightGroup, else Bf16 in panels
    int from = 0, to = 0, depth = 0;
};

// ``x`` [rows, depth]; ``y`` holds output o of row t at y[t * stride_y + o]. ``then``: what will be
// multiplied next.
inline void dots(const Part& w, const Bf16* x, int rows, float* y, int64_t stride_y,
                 const Part& then = {}) {
#if defined(LK_HAS_INT8)
    if (w.int8) {
        dots(static_cast<const WeightGroup*>(w.data), w.from, w.to, x, rows, w.depth, w.depth, y,
             stride_y);
        return;
    }
#endif
    auto* next = static_cast<const Bf16*>(then.data);
    if (next) next += int64_t(then.from / BF16_PANEL) * BF16_PANEL * (then.depth + then.depth % 2);
    dots(static_cast<const Bf16*>(w.data), w.from, w.to, x, rows, w.depth, w.depth, y, stride_y,
         next);
}

}  // namespace lk

#endif
