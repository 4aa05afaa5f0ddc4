// A panel of a matrix of 8-bit integers and 16 rows, multiplied by AMX: a group of the panel is a
// right tile as it lies, one of the rows a left tile. The bits are those of panel_int8.h.

#pragma once

#include "amx.h"
#include "panel.h"
#include "panel_int8.h"

#if defined(LK_HAS_AMX) && defined(LK_HAS_INT8)
#define LK_HAS_AMX_INT8

namespace lk {

class AmxInt8Panel {
public:
    static constexpr int ROWS = AMX_ROWS;

    // y[t * stride_y + o] for the outputs whose bits are set.
    void multiply(const WeightGroup* w, const Int8Rows& x, float* y, int64_t stride_y,
                  __mmask16 outputs, Ahead ahead) {
        __m512 sum[ROWS];
#pragma GCC unroll 16
        for (int t = 0; t < ROWS; t++) sum[t] = _mm512_setzero_ps();
        // While vectors scale a group's dots, tiles multiply the next group.
        dot<0>(w, x, 0);
        int g = 0;
        for (; g + 2 < x.groups; g += 2) {
            dot<1>(w, x, g + 1);
            scale<0>(w, x, g, sum);
            ahead.ask();
            dot<0>(w, x, g + 2);
            scale<1>(w, x, g + 1, sum);
            ahead.ask();
        }
        if (g + 1 < x.groups) dot<1>(w, x, g + 1);
        scale<0>(w, x, g, sum);
        if (g + 1 < x.groups) scale<1>(w, x, g + 1, sum);
#pragma GCC unroll 16
        for (int t = 0; t < ROWS; t++) _mm512_mask_storeu_ps(y + t * stride_y, outputs, sum[t]);
    }

private:
    template <int SLOT>
    LK_INLINE void dot(const WeightGroup* w, const Int8Rows& x, int g) {
        amx_zero<SLOT>();
        amx_load<4 + SLOT>(x.values + int64_t(g) * GROUP, int64_t(x.groups) * GROUP);
        amx_load<6 + SLOT>(w[g].weights, AMX_BYTES);
        amx_dot_bytes<SLOT, 4 + SLOT, 6 + SLOT>();
        amx_store<SLOT>(dots_[SLOT], AMX_BYTES);
    }
    template <int SLOT>
    LK_INLINE void scale(const WeightGroup* w, const Int8Rows& x, int g, __m512 (&sum)[ROWS]) {
        __m512 scales = load_as<__m512>(w[g].scales);
#pragma GCC unroll 16
        for (int t = 0; t < ROWS; t++) {
            int64_t at = int64_t(t) * x.groups + g;
            __m512i dot = _mm512_add_epi32(load_as<__m512i>(dots_[SLOT][t]),
                                           _mm512_set1_epi32(x.starts[at]));
            __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(x.scales[at]));
            sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sum[t]);
        }
    }

    AmxTiles tiles_{ROWS};
    alignas(64) int32_t dots_[2][ROWS][LANES];
};

}  // namespace lk

#endif
