// flags x86_64: -march=x86-64 -mavx2 -mfma -mf16c
// The arithmetic for AVX2 with FMA and F16C.

#if defined(__x86_64__)
#define LK_ISA avx2
#include "leaf.h"

namespace lk {
const Routines ROUTINES_AVX2 = avx2::ROUTINES;
}
#endif
