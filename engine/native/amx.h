// The tile registers of AMX: eight of 16 rows of 64 bytes. Whether they may be used: isa.h.

#pragma once

#include <type_traits>
#include <utility>

#include "simd.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && \
    defined(__AVX512BF16__)
#define LK_HAS_AMX

namespace lk {
inline namespace LK_ISA {

constexpr int AMX_ROWS = 16;          // of a tile of left values or of sums
constexpr int AMX_DEPTH = 32;         // bfloat16 along the depth that one instruction adds up
constexpr int AMX_BYTES = 64;         // of a tile's row

// This thread's tile registers, for left values and sums of ``rows`` rows, while it lives: 0 to 3
// are sums, 4 and 5 left values, 6 and 7 right ones.
class AmxTiles {
public:
    explicit AmxTiles(int rows) {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, none[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } shape;
        for (int tile = 0; tile < 8; tile++) {
            shape.row_bytes[tile] = AMX_BYTES;
            shape.rows[tile] = uint8_t(tile < 6 ? rows : AMX_ROWS);
        }
        asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    ~AmxTiles() { asm volatile("tilerelease"); }
    AmxTiles(const AmxTiles&) = delete;
};

// ``act`` for 0, 1, ... COUNT - 1, as types: a tile's number is part of an instruction.
template <class Act, int... TILES>
LK_INLINE void amx_each(std::integer_sequence<int, TILES...>, Act act) {
    (act(std::integral_constant<int, TILES>{}), ...);
}
template <int COUNT, class Act>
LK_INLINE void amx_each(Act act) {
    amx_each(std::make_integer_sequence<int, COUNT>{}, act);
}

// GCC's own (_tile_loadd and others) do not say that they touch memory.
template <int TILE>
LK_INLINE void amx_load(const void* from, int64_t stride_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(TILE)
                 : "memory");
}
template <int TILE>
LK_INLINE void amx_store(void* to, int64_t stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(TILE)
                 : "memory");
}
template <int TILE>
LK_INLINE void amx_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
// SUM += LEFT [rows, 32] x RIGHT [16 pairs of the depth, 16 columns]
template <int SUM, int LEFT, int RIGHT>
LK_INLINE void amx_dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(LEFT), "i"(RIGHT));
}
// As integers: signed left bytes, [rows, 64], and unsigned right ones, by fours of the depth.
template <int SUM, int LEFT, int RIGHT>
LK_INLINE void amx_dot_bytes() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(LEFT), "i"(RIGHT));
}

}  // namespace LK_ISA
}  // namespace lk

#endif
