// Time that never goes back.

#pragma once

#include <cstdint>
#include <ctime>

namespace lk {

inline int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

}  // namespace lk
