// flags x86_64: -march=x86-64 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
// The arithmetic for AVX-512 F, BW, DQ and VL.

#if defined(__x86_64__)
#define LK_ISA avx512
#include "leaf.h"

namespace lk {
const Routines ROUTINES_AVX512 = avx512::ROUTINES;
}
#endif
