// Items of fewer bits than float32, one at a time.

#pragma once

#include "routines.h"

namespace lk {

struct Bf16 { uint16_t bits; };
struct Half { uint16_t bits; };
struct Fp8 { uint8_t bits; };  // e4m3; what a pool holds is never its NaN, a scale says that

// Widening to float32 is exact.
LK_INLINE float widen(float x) { return x; }
LK_INLINE float widen(Bf16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }
LK_INLINE float widen(Half x) {
    uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = uint32_t(x.bits & 0x7fff) << 13;
    uint32_t magnitude = rest >= (0x7c00u << 13)  // infinity or NaN
        ? rest | 0x7f800000u
        : __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, rest) * 0x1p112f);
    return __builtin_bit_cast(float, sign | magnitude);
}
LK_INLINE float widen(int8_t x) { return float(x); }
LK_INLINE float widen(Fp8 x) {
    float size = __builtin_bit_cast(float, uint32_t(x.bits & 0x7f) << 20) * 0x1p120f;
    return x.bits & 0x80 ? -size : size;
}

}  // namespace lk
