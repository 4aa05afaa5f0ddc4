// The instruction sets the arithmetic is compiled for, and which of them this processor runs.

#pragma once

#include "routines.h"

namespace lk {

// Numbered as ISAS of kernel_native.py, later ones are faster. Null: not on this processor.
inline const Routines* routines_of(int isa) {
    if (isa == 0) return &ROUTINES_PORTABLE;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (isa == 1 && avx2) return &ROUTINES_AVX2;
    if (isa == 2 && avx512) return &ROUTINES_AVX512;
    if (isa == 3 && avx512 && __builtin_cpu_supports("avx512bf16")) return &ROUTINES_AVX512_BF16;
#endif
    return nullptr;
}

}  // namespace lk
