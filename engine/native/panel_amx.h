// A panel of a bfloat16 matrix and some rows, multiplied by AMX: the panel's bytes are two columns
// of right tiles as they lie.
//
// A result's bits are those of its row and output: sums go on in the order of the depth, whichever
// rows lie beside it. They are not those of panel.h.

#pragma once

#include "amx.h"
#include "isa.h"
#include "panel.h"

#if defined(LK_HAS_AMX)

namespace lk {

class AmxPanels {
public:
    static constexpr int MOST_ROWS = 2 * AMX_ROWS;

    // For tiles of some of ``rows`` rows, each of them of AMX_ROWS at least where there are as many.
    explicit AmxPanels(int rows) : rows_(std::min(rows, AMX_ROWS)), tiles_(rows_) {}

    // As panel_tile, for up to MOST_ROWS.
    void multiply(int rows, const Bf16* w, const Bf16* x, int depth, int64_t stride_x, float* y,
                  int64_t stride_y, uint32_t outputs, Ahead ahead) const {
        int second = rows - rows_;  // rows that are in both halves get the same bits twice
        if (second == 0) {
            add_up<1>(w, {x}, depth, stride_x, ahead);
        } else {
            add_up<2>(w, {x, x + second * stride_x}, depth, stride_x, ahead);
            keep<2>(y + second * stride_y, stride_y, outputs);
            keep<3>(y + second * stride_y + LANES, stride_y, outputs >> LANES);
        }
        keep<0>(y, stride_y, outputs);
        keep<1>(y + LANES, stride_y, outputs >> LANES);
    }

private:
    // The sums of all outputs, for one half of the rows or two.
    template <int HALVES>
    void add_up(const Bf16* w, const Bf16* const (&x)[HALVES], int depth, int64_t stride_x,
                Ahead ahead) const {
        auto add = [&](const Bf16* right, const Bf16* upper, const Bf16* lower, int64_t stride)
            __attribute__((always_inline)) {
            constexpr int64_t RIGHT_BYTES = 2 * AMX_BYTES;
            amx_load<6>(right, RIGHT_BYTES);
            amx_load<4>(upper, stride * int64_t(sizeof(Bf16)));
            amx_load<7>(right + 2 * LANES, RIGHT_BYTES);
            ahead.ask(AMX_DEPTH / 2);
            amx_dot<0, 4, 6>();
            amx_dot<1, 4, 7>();
            if constexpr (HALVES == 2) {
                amx_load<5>(lower, stride * int64_t(sizeof(Bf16)));
                amx_dot<2, 5, 6>();
                amx_dot<3, 5, 7>();
            }
        };
        amx_zero<0>(), amx_zero<1>();
        if constexpr (HALVES == 2) amx_zero<2>(), amx_zero<3>();
        const Bf16 *upper = x[0], *lower = x[HALVES - 1];
        int k = 0;
        for (; k + AMX_DEPTH <= depth; k += AMX_DEPTH)
            add(w + int64_t(k) * BF16_PANEL, upper + k, lower + k, stride_x);
        if (k == depth) return;
        Bf16 right[AMX_DEPTH * BF16_PANEL] = {}, left[HALVES][AMX_ROWS * AMX_DEPTH] = {};
        int rest = depth - k;
        std::memcpy(right, w + int64_t(k) * BF16_PANEL, (rest + rest % 2) * BF16_PANEL * sizeof(Bf16));
        for (int half = 0; half < HALVES; half++)
            for (int t = 0; t < rows_; t++)
                std::memcpy(left[half] + t * AMX_DEPTH, x[half] + t * stride_x + k,
                            rest * sizeof(Bf16));
        add(right, left[0], left[HALVES - 1], AMX_DEPTH);
    }

    // Stores the sums of 16 outputs, or those whose bits are set.
    template <int SUM>
    void keep(float* y, int64_t stride_y, uint32_t outputs) const {
        __mmask16 wanted = __mmask16(outputs);
        if (wanted == 0xffff) return amx_store<SUM>(y, stride_y * int64_t(sizeof(float)));
        if (!wanted) return;
        float sums[AMX_ROWS * LANES];
        amx_store<SUM>(sums, AMX_BYTES);
        for (int t = 0; t < rows_; t++)
            _mm512_mask_storeu_ps(y + t * stride_y, wanted, _mm512_loadu_ps(sums + t * LANES));
    }

    const int rows_;
    AmxTiles tiles_;
};

}  // namespace lk

#endif
