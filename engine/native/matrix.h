// A matrix of weights in one of the formats that rows can be multiplied with.

#pragma once

#include <optional>

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

// Rows [rows, depth] as matrices of one of the formats are multiplied with them.
class Inputs {
public:
    // What they need room for, beside ``plain``.
    static int64_t floats(bool int8, int64_t rows, int depth) {
#if defined(LK_HAS_INT8)
        if (int8) return Int8Rows::floats(rows, depth);
#endif
        return 0;
    }

    Inputs(const Bf16* plain, bool int8, int64_t rows, int depth, float* room) : plain(plain) {
#if defined(LK_HAS_INT8)
        if (int8) this->int8.emplace(rows, depth, room);
#endif
    }
    // All of them must have been taken before they are multiplied.
    void take(int depth, int from, int to) const {
#if defined(LK_HAS_INT8)
        if (int8) int8->take(plain, depth, from, to);
#endif
    }

    const Bf16* const plain;
#if defined(LK_HAS_INT8)
    std::optional<Int8Rows> int8;
#endif
};

// ``y`` holds output o of row t at y[t * stride_y + o]. ``then``: what will be multiplied next.
inline void dots(const Part& w, const Inputs& x, int rows, float* y, int64_t stride_y,
                 const Part& then = {}) {
#if defined(LK_HAS_INT8)
    if (w.int8) {
        auto* groups = static_cast<const WeightGroup*>(w.data);
        return dots(groups, w.from, w.to, *x.int8, rows, y, stride_y);
    }
#endif
    auto* next = static_cast<const Bf16*>(then.data);
    if (next) next += int64_t(then.from / BF16_PANEL) * BF16_PANEL * (then.depth + then.depth % 2);
    dots(static_cast<const Bf16*>(w.data), w.from, w.to, x.plain, rows, w.depth, w.depth, y,
         stride_y, next);
}

}  // namespace lk

#endif
