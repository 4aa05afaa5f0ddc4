// Asking for memory before it is needed, while something else is computed.
//
// The hardware prefetcher does not follow a block table, and neither keys nor values are read in an
// order it knows: without, a sequence in order streams no faster than one in disorder. But requests
// beyond those a core can have under way are dropped. So each phase of a head's leaf asks for an
// equal part: transposing the keys for the last quarter of the leaf itself; the keys' product, the
// weights and the values' product for the first three of what comes next.
//
// Lines are fetched into the second cache: a core waits for far more lines there than in the first
// (Zen 4: 24 lines in the first are 13 GB/s at 110 ns, a third of what it can read), and reading a
// line from there costs next to nothing.

#pragma once

#include "simd.h"

namespace lk {
inline namespace LK_ISA {

constexpr int PHASES = 4;

LK_INLINE void fetch(const void* line) { __builtin_prefetch(line, 0, 2); }

// ``on`` is 0 once everything has been asked for: then it asks for the same line again and again.
struct Ahead {
    const char* at;
    int64_t on = 1;
    LK_INLINE Ahead behind(int64_t bytes) const { return {at + bytes * on, on}; }
    LK_INLINE Ahead asked() const { return {at, 0}; }
    template <int BYTES>
    LK_INLINE void ask(int64_t step) const {
#pragma GCC unroll 16
        for (int64_t line = 0; line < BYTES; line += 64)
            fetch(at + step * on * BYTES + line);
    }
    LK_INLINE void ask_bytes(int64_t from, int64_t bytes) const {
        for (int64_t line = 0; line < bytes * on; line += 64)
            fetch(at + from + line);
    }
};
struct NothingAhead {
    LK_INLINE NothingAhead behind(int64_t) const { return {}; }
    LK_INLINE NothingAhead asked() const { return {}; }
    template <int BYTES>
    LK_INLINE void ask(int64_t) const {}
    LK_INLINE void ask_bytes(int64_t, int64_t) const {}
};

}  // namespace LK_ISA
}  // namespace lk
