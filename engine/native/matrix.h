// A matrix of weights in one of the formats that rows can be multiplied with.

#pragma once

#include "dots.h"
#include "dots_int8.h"

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#define LK_HAS_DECODER

namespace lk {

struct Matrix {
    const void* data;
    bool int8;  // WeightGroup, else Bf16 in panels
};

// ``y`` holds output o of row t at y[t * stride_y + o].
inline void dots(Matrix w, int from, int to, const Bf16* x, int rows, int depth, int64_t stride_x,
                 float* y, int64_t stride_y) {
    if (w.int8)
        dots(static_cast<const WeightGroup*>(w.data), from, to, x, rows, depth, stride_x, y,
             stride_y);
    else
        dots(static_cast<const Bf16*>(w.data), from, to, x, rows, depth, stride_x, y, stride_y);
}

}  // namespace lk

#endif
