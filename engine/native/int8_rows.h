// Rows as matrices of 8-bit integers are multiplied with them: GROUP values share a scale.

#pragma once

#include <algorithm>

#include "simd.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define LK_HAS_INT8

namespace lk {

constexpr int GROUP = 64;

struct Int8Rows {
    int groups;
    int8_t* values;   // [rows, groups, GROUP]
    float* scales;    // [rows, groups]
    int32_t* starts;  // [rows, groups]: of sums, they take away what the weights' 128 add to them

    static int groups_of(int depth) { return (depth + GROUP - 1) / GROUP; }
    // What ``at`` has room for.
    static int64_t floats(int64_t rows, int depth) {
        return rows * groups_of(depth) * (GROUP / int64_t(sizeof(float)) + 2);
    }

    Int8Rows(int64_t rows, int depth, float* at) : groups(groups_of(depth)) {
        values = reinterpret_cast<int8_t*>(at);
        scales = at + rows * groups * GROUP / int64_t(sizeof(float));
        starts = reinterpret_cast<int32_t*>(scales + rows * groups);
    }
    Int8Rows from(int64_t row) const {
        Int8Rows rest = *this;
        rest.values += row * groups * GROUP;
        rest.scales += row * groups;
        rest.starts += row * groups;
        return rest;
    }

    // Rows [from, to) become those of ``x`` [rows, depth].
    void take(const Bf16* x, int depth, int from, int to) const {
        for (int64_t t = from; t < to; t++)
            for (int g = 0; g < groups; g++)
                quantize(x + t * depth + g * GROUP, depth - g * GROUP, t * groups + g);
    }

private:
    // ``count`` values, then zeros. A NaN or infinity among them makes the scale, so all results,
    // such.
    LK_INLINE void quantize(const Bf16* x, int count, int64_t to) const {
        __m512 given[GROUP / LANES];
        __m512i most = _mm512_setzero_si512();
        for (int i = 0; i < GROUP / LANES; i++) {
            int here = std::clamp(count - i * LANES, 0, LANES);
            __m256i bits = _mm256_maskz_loadu_epi16(__mmask16((1u << here) - 1), x + i * LANES);
            __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
            given[i] = _mm512_castsi512_ps(wide);
            // As integers, magnitudes are in order too, and NaN is the largest.
            most = _mm512_max_epu32(most, _mm512_and_si512(wide, _mm512_set1_epi32(0x7fffffff)));
        }
        float largest = __builtin_bit_cast(float, uint32_t(_mm512_reduce_max_epu32(most)));
        // Below this the inverse overflows; the values are as good as zero.
        __m512 inverse = _mm512_set1_ps(largest < 0x1p-100f ? 0.0f : 127.0f / largest);
        __m512i sum = _mm512_setzero_si512();
        for (int i = 0; i < GROUP / LANES; i++) {
            __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(given[i], inverse));
            sum = _mm512_add_epi32(sum, rounded);
            __m128i bytes = _mm512_cvtsepi32_epi8(rounded);
            std::memcpy(values + to * GROUP + i * LANES, &bytes, sizeof bytes);
        }
        scales[to] = largest / 127.0f;
        starts[to] = -128 * _mm512_reduce_add_epi32(sum);
    }
};

}  // namespace lk

#endif
