// flags x86_64: -march=x86-64
// The arithmetic for any processor, of any kind.

#define LK_ISA portable
#include "leaf.h"

namespace lk {
const Routines ROUTINES_PORTABLE = portable::ROUTINES;
}
