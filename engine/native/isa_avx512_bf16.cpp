// flags x86_64: -march=x86-64 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mavx512bf16
// The arithmetic for AVX-512 F, BW, DQ, VL and BF16.

#if defined(__x86_64__)
#define LK_ISA avx512_bf16
#include "leaf.h"

namespace lk {
const Routines ROUTINES_AVX512_BF16 = avx512_bf16::ROUTINES;
}
#endif
