// A panel of a matrix of 8-bit integers and some rows, multiplied by AVX-512 VNNI.

#pragma once

#include "int8_rows.h"

#if defined(LK_HAS_INT8)

namespace lk {

constexpr int PANEL = 16;  // outputs side by side in a register, one a lane

// A group of a panel as engine/model/int8.py writes it; a matrix is its panels one after the other.
struct WeightGroup {
    float scales[PANEL];
    // 128 more than the weight, as the processor multiplies unsigned bytes with signed ones.
    uint8_t weights[GROUP / 4][PANEL][4];
};

// Those of a panel that lie in [from, to), as bits.
LK_INLINE __mmask16 outputs_of(int panel, int from, int to) {
    auto below = [&](int end) { return (1u << std::clamp(end - panel * PANEL, 0, PANEL)) - 1; };
    return __mmask16(below(to) & ~below(from));
}

// A tile of NP panels and NT rows. Meanwhile the groups [ahead_from, ahead_to) of the panels behind
// it are fetched into the cache; beyond the matrix nothing is read, a prefetch does not fault.
template <int NP, int NT>
LK_INLINE void int8_tile(const WeightGroup* w, const Int8Rows& x, int ahead_from, int ahead_to,
                         __m512 (&sum)[NP][NT]) {
    int groups = x.groups;
#pragma GCC unroll 8
    for (int i = 0; i < NP * NT; i++) sum[i / NT][i % NT] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++) {
        if (g >= ahead_from && g < ahead_to)
            for (int p = 0; p < NP; p++)
                for (size_t line = 0; line < sizeof *w; line += 64)
                    _mm_prefetch((const char*)(w + (NP + p) * groups + g) + line, _MM_HINT_T1);
        __m512i dot[NP][NT];
#pragma GCC unroll 8
        for (int i = 0; i < NP * NT; i++)
            dot[i / NT][i % NT] = _mm512_set1_epi32(x.starts[i % NT * groups + g]);
#pragma GCC unroll 16
        for (int k = 0; k < GROUP / 4; k++) {
            __m512i weights[NP];
#pragma GCC unroll 2
            for (int p = 0; p < NP; p++)
                weights[p] = load_as<__m512i>(w[p * groups + g].weights[k]);
#pragma GCC unroll 4
            for (int t = 0; t < NT; t++) {
                const int8_t* at = x.values + (t * groups + g) * GROUP + 4 * k;
                __m512i values = _mm512_set1_epi32(load_as<int>(at));
#pragma GCC unroll 2
                for (int p = 0; p < NP; p++)
                    dot[p][t] = _mm512_dpbusd_epi32(dot[p][t], weights[p], values);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < NP * NT; i++) {
            int p = i / NT, t = i % NT;
            __m512 scale = _mm512_mul_ps(load_as<__m512>(w[p * groups + g].scales),
                                         _mm512_set1_ps(x.scales[t * groups + g]));
            sum[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[p][t]), scale, sum[p][t]);
        }
    }
}

// Outputs [from, to) of NT rows, as far as they lie in NP panels from ``panel`` on.
template <int NP, int NT>
LK_INLINE void int8_panels(const WeightGroup* w, int panel, int from, int to, const Int8Rows& x,
                           int tile, int tiles, float* y, int64_t stride_y) {
    __m512 sum[NP][NT];
    int groups = x.groups;
    int8_tile<NP, NT>(w + int64_t(panel) * groups, x, groups * tile / tiles,
                      groups * (tile + 1) / tiles, sum);
    for (int p = 0; p < NP; p++) {
        __mmask16 outputs = outputs_of(panel + p, from, to);
        for (int t = 0; t < NT; t++)
            _mm512_mask_storeu_ps(y + t * stride_y + (panel + p) * PANEL, outputs, sum[p][t]);
    }
}

}  // namespace lk

#endif
