// Sixteen floats at a time, the same bits on every instruction set.
//
// Every operation rounds each lane once (fma is always fused), so the bits do not depend on the
// register width the compiler finds. GCC's vector extensions do most; a few need help. The
// exceptions are for AVX-512 bf16 alone: dot_pairs, and weights rounded for it.

#pragma once

#include "routines.h"
#include "widen.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// The instruction set this file is being compiled for; see routines.h.
#ifndef LK_ISA
#define LK_ISA of_this_machine
#endif

namespace lk {
inline namespace LK_ISA {

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t VecI __attribute__((vector_size(64)));
typedef uint32_t VecU __attribute__((vector_size(64)));
typedef uint16_t VecH __attribute__((vector_size(32)));
typedef int8_t VecB __attribute__((vector_size(16)));
typedef uint8_t VecUB __attribute__((vector_size(16)));

LK_INLINE int least(int a, int b) { return a < b ? a : b; }

// x - 0 is x for every x, -0 too; 0 + x is not.
LK_INLINE Vec set1(float x) { return x - Vec{}; }

template <class T>
LK_INLINE T load_as(const void* from) {
    T to;
    std::memcpy(&to, from, sizeof to);
    return to;
}

LK_INLINE void store(float* to, Vec x) { std::memcpy(to, &x, sizeof x); }
// Returns what was stored.
LK_INLINE Vec store_weight(float* to, Vec x) { store(to, x); return x; }

LK_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

#if defined(__AVX512BF16__)
// c + the products of bfloat16 pairs. They are exact in float32; the order of the two sums and that
// denormals count as zero are the processor's, and the same wherever this is used.
LK_INLINE Vec dot_pairs(Vec c, VecU a, VecU b) {
    return (Vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}

// The same with x rounded.
LK_INLINE Vec store_weight(Bf16* to, Vec x) {
    __m256bh narrow = _mm512_cvtneps_pbh((__m512)x);
    std::memcpy(to, &narrow, sizeof narrow);
    return (Vec)_mm512_cvtpbh_ps(narrow);
}
#endif

// Where the condition holds (all bits set) a, elsewhere b.
LK_INLINE Vec select(VecI condition, Vec a, Vec b) { return condition ? a : b; }
LK_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
    return (Vec)_mm512_max_ps((__m512)a, (__m512)b);  // b where one of them is NaN, as below
#else
    return select(a > b, a, b);
#endif
}

// Widening, see widen.h.
LK_INLINE Vec load(const float* from) { return load_as<Vec>(from); }
LK_INLINE VecU load_words(const Bf16* from) {
#if defined(__AVX512F__)
    return (VecU)_mm512_cvtepu16_epi32(load_as<__m256i>(from));  // GCC makes two halves of it
#else
    return __builtin_convertvector(load_as<VecH>(from), VecU);
#endif
}
LK_INLINE Vec load(const Bf16* from) { return (Vec)(load_words(from) << 16); }
LK_INLINE Vec load(const Half* from) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_cvtph_ps(0xffff, load_as<__m256i>(from));
#else
    Vec to;
    for (int i = 0; i < LANES; i++) to[i] = widen(from[i]);
    return to;
#endif
}

LK_INLINE Vec load(const int8_t* from) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_as<__m128i>(from)));
#else
    return __builtin_convertvector(__builtin_convertvector(load_as<VecB>(from), VecI), Vec);
#endif
}
LK_INLINE Vec load(const Fp8* from) {
#if defined(__AVX512F__)
    VecU code = (VecU)_mm512_cvtepu8_epi32(load_as<__m128i>(from));
#else
    VecU code = __builtin_convertvector(load_as<VecUB>(from), VecU);
#endif
    Vec size = (Vec)((code & 0x7f) << 20) * 0x1p120f;
    return (Vec)((VecU)size | (code & 0x80) << 24);
}

}  // namespace LK_ISA
}  // namespace lk
