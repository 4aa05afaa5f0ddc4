// Floats in one register. With AVX2 a Vec is two of them, and GCC keeps it in memory, which took six
// times as long: what is computed often is computed with these. A lane's bits are the same.

#pragma once

#include "simd.h"

namespace lk {
inline namespace LK_ISA {

#if defined(__AVX2__) && !defined(__AVX512F__)
typedef float Wide __attribute__((vector_size(32)));
typedef int32_t WideI __attribute__((vector_size(32)));
typedef uint32_t WideU __attribute__((vector_size(32)));
typedef uint16_t WideH __attribute__((vector_size(16)));

LK_INLINE Wide fma(Wide a, Wide b, Wide c) {
    return (Wide)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
LK_INLINE Wide select(WideI condition, Wide a, Wide b) {
    return (Wide)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)condition);
}
LK_INLINE Wide max(Wide a, Wide b) { return (Wide)_mm256_max_ps((__m256)a, (__m256)b); }
LK_INLINE void store(float* to, Wide x) { std::memcpy(to, &x, sizeof x); }
LK_INLINE Wide store_weight(float* to, Wide x) { store(to, x); return x; }
LK_INLINE Wide load_wide(const float* from) { return load_as<Wide>(from); }
LK_INLINE Wide load_wide(const Bf16* from) {
    return (Wide)((WideU)_mm256_cvtepu16_epi32(load_as<__m128i>(from)) << 16);
}
LK_INLINE Wide load_wide(const Half* from) {
    return (Wide)_mm256_cvtph_ps(load_as<__m128i>(from));
}
LK_INLINE Wide load_wide(const int8_t* from) {
    return (Wide)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
}
LK_INLINE Wide load_wide(const Fp8* from) {
    WideU code = (WideU)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from));
    Wide size = (Wide)((code & 0x7f) << 20) * 0x1p120f;
    return (Wide)((WideU)size | (code & 0x80) << 24);
}
#else
using Wide = Vec;
using WideI = VecI;
using WideU = VecU;
using WideH = VecH;

template <class T>
LK_INLINE Wide load_wide(const T* from) { return load(from); }
#endif

constexpr int WIDE = sizeof(Wide) / sizeof(float), PARTS = LANES / WIDE;  // of a Vec
LK_INLINE Wide set_wide(float x) { return x - Wide{}; }
LK_INLINE WideI lanes() {  // 0, 1, ...
    WideI lane;
    for (int i = 0; i < WIDE; i++) lane[i] = i;
    return lane;
}

// The maximum of 16 lanes, and their sum in a fixed order.
#if defined(__AVX2__) && !defined(__AVX512F__)
#define LK_SWAP(x, i) \
    __builtin_shufflevector(x, x, 0 ^ i, 1 ^ i, 2 ^ i, 3 ^ i, 4 ^ i, 5 ^ i, 6 ^ i, 7 ^ i)
LK_INLINE Wide higher_8(const Wide (&x)[PARTS]) { return max(x[0], x[1]); }
LK_INLINE Wide sums_of_8(const Wide (&x)[PARTS]) { return x[0] + x[1]; }
#else
#define LK_SWAP(x, i) \
    __builtin_shufflevector(x, x, 0 ^ i, 1 ^ i, 2 ^ i, 3 ^ i, 4 ^ i, 5 ^ i, 6 ^ i, 7 ^ i, \
                            8 ^ i, 9 ^ i, 10 ^ i, 11 ^ i, 12 ^ i, 13 ^ i, 14 ^ i, 15 ^ i)
LK_INLINE Wide higher_8(const Wide (&x)[PARTS]) { return max(x[0], LK_SWAP(x[0], 8)); }
LK_INLINE Wide sums_of_8(const Wide (&x)[PARTS]) { return x[0] + LK_SWAP(x[0], 8); }
#endif
LK_INLINE float max_lane(const Wide (&parts)[PARTS]) {
    Wide x = higher_8(parts);
    x = max(x, LK_SWAP(x, 4));
    x = max(x, LK_SWAP(x, 2));
    return max(x, LK_SWAP(x, 1))[0];
}
LK_INLINE float sum_lanes(const Wide (&parts)[PARTS]) {
    Wide x = sums_of_8(parts);
    x += LK_SWAP(x, 4);
    x += LK_SWAP(x, 2);
    return (x + LK_SWAP(x, 1))[0];
}
#undef LK_SWAP

// 2^f = 1 + f (c1 + c2 f + ...) on [0, 1] with the least largest error: 8.2e-8, and 1.4e-7 as it is
// computed.
LK_INLINE Wide exp2_of_fraction(Wide f) {
    Wide p = set_wide(0x1.e974fap-10f);
    p = fma(p, f, set_wide(0x1.277856p-7f));
    p = fma(p, f, set_wide(0x1.c91ce4p-5f));
    p = fma(p, f, set_wide(0x1.ebdb5cp-3f));
    p = fma(p, f, set_wide(0x1.62e4bap-1f));
    return fma(p, f, set_wide(1.0f));
}

// 2^x for x <= 0 or just above, within 2.5 ulp; exactly 1 at 0; 0 below -125 and for NaN.
LK_INLINE Wide exp2_of_negative(Wide x) {
#if defined(__AVX512F__)
    __mmask16 inside = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-125.0f), _CMP_GE_OQ);
    Wide whole = (Wide)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    return (Wide)_mm512_maskz_scalef_ps(inside, (__m512)exp2_of_fraction(x - whole), (__m512)whole);
#else
    WideI inside = x >= -125.0f;
    x = select(inside, x, Wide{});
#if defined(__AVX2__)
    Wide whole = (Wide)_mm256_floor_ps((__m256)x);
#else
    Wide magic = set_wide(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    Wide nearest = (x + magic) - magic, whole = select(nearest > x, nearest - 1.0f, nearest);
#endif
    WideI bits = (WideI)exp2_of_fraction(x - whole);
    return select(inside, (Wide)(bits + (__builtin_convertvector(whole, WideI) << 23)), Wide{});
#endif
}

#if defined(__AVX512BF16__)
// The same in fewer instructions for weights that will be rounded, with bits of its own: one takes
// the fraction, and rounds it down.
LK_INLINE Wide exp2_of_score(Wide x) {
    __mmask16 inside = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-125.0f), _CMP_GE_OQ);
    Wide f = (Wide)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    return (Wide)_mm512_maskz_scalef_ps(inside, (__m512)exp2_of_fraction(f), (__m512)x);
}
#endif

// Natural logarithm of normal x > 0; exactly 0 at 1.  ln m = 2 atanh((m - 1) / (m + 1))
LK_INLINE Wide ln(Wide x) {
    WideI power = ((WideI)x - 0x3f3504f3) >> 23;  // brings m into [sqrt(1/2), sqrt(2))
    Wide m = (Wide)((WideI)x - (power << 23));
    Wide t = (m - 1.0f) / (m + 1.0f), tt = t * t;
    Wide p = set_wide(2.0f / 9);
    p = fma(p, tt, set_wide(2.0f / 7));
    p = fma(p, tt, set_wide(2.0f / 5));
    p = fma(p, tt, set_wide(2.0f / 3));
    p = fma(p, tt, set_wide(2.0f));
    return fma(__builtin_convertvector(power, Wide), set_wide(0.6931471805599453f), t * p);
}

}  // namespace LK_ISA
}  // namespace lk
