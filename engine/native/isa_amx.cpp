// The arithmetic for AMX with bfloat16, and AVX-512 with it. Compiled for this machine: compilers that
// do not know of AMX refuse its flags.

#define LK_ISA amx
#include "amx.h"

#if defined(LK_HAS_AMX)
#include "leaf.h"

namespace lk {
const Routines* const ROUTINES_AMX = &amx::ROUTINES;
}
#elif defined(__x86_64__)
namespace lk {
const Routines* const ROUTINES_AMX = nullptr;
}
#endif
