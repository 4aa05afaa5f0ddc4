// Rows of keys or values as 8 bits with a scale; the bits are those of engine/attention/stored.py.

#pragma once

#include "widen.h"

namespace lk {

constexpr float SMALLEST_TOP = 0x1p-100f;  // rows below it are zeros

// Adding it rounds to an integer, ties to even ones.
LK_INLINE float rounded(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

LK_INLINE int8_t to_int8(float x) { return int8_t(rounded(x)); }

// |x| is at most 448, but for rounding.
LK_INLINE uint8_t to_fp8(float x) {
    uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = bits >> 24 & 0x80;
    float size = __builtin_fabsf(x);
    if (size < 0x1p-6f) return uint8_t(sign | uint32_t(rounded(size * 0x1p9f)));
    bits &= 0x7fffffffu;
    uint32_t code = ((bits + 0x7ffffu + (bits >> 20 & 1)) >> 20) - (120u << 3);
    return uint8_t(sign | (code < 0x7e ? code : 0x7e));
}

template <class T>
inline float narrow_row(const T* row, int dim, void* to, int kind) {
    float top = 0.0f;
    for (int d = 0; d < dim; d++) {
        float size = __builtin_fabsf(widen(row[d]));
        top = size <= top ? top : size;  // NaN once there is one: it is not below what follows
        if (top != top) break;
    }
    if (!(top >= SMALLEST_TOP) && top == top) {
        std::memset(to, 0, dim);
        return 0.0f;
    }
    float largest = kind == INT8 ? 127.0f : 448.0f, factor = largest / top;
    if (!(factor > 0.0f)) {  // the scale says that the row is not finite
        std::memset(to, 0, dim);
        return top;
    }
    for (int d = 0; d < dim; d++) {
        float item = widen(row[d]) * factor;
        if (kind == INT8) static_cast<int8_t*>(to)[d] = to_int8(item);
        else static_cast<uint8_t*>(to)[d] = to_fp8(item);
    }
    return top / largest;
}

// Fills ``dim`` bytes at ``to``; the scale.
inline float narrow(const void* row, int row_kind, int dim, void* to, int kind) {
    switch (row_kind) {
        case FLOAT32: return narrow_row(static_cast<const float*>(row), dim, to, kind);
        case BFLOAT16: return narrow_row(static_cast<const Bf16*>(row), dim, to, kind);
        default: return narrow_row(static_cast<const Half*>(row), dim, to, kind);
    }
}

}  // namespace lk
