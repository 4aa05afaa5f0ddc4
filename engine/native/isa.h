// The instruction sets the arithmetic is compiled for, and which of them this processor runs.

#pragma once

#include "routines.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lk {

// Whether this process may use AMX, with bfloat16 and bytes: the kernel keeps so large a state only
// for those that have asked, and may refuse.
inline bool may_use_amx() {
#if defined(__x86_64__)
    static const bool granted = [] {
        constexpr unsigned WANTED = 1u << 22 | 1u << 24 | 1u << 25;  // bfloat16, tiles, bytes
        constexpr unsigned ASK_FOR_STATE = 0x1023, TILE_DATA = 18;
        unsigned a, b, c, d = 0;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & WANTED) == WANTED &&
               syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
    }();
    return granted;
#else
    return false;
#endif
}

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
    if (isa == 4 && may_use_amx()) return ROUTINES_AMX;
#endif
    return nullptr;
}

}  // namespace lk
