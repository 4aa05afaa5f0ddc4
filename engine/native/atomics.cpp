// Loads, stores and additions of 64-bit counters in memory that processes share, for Python.

#include <cstdint>

extern "C" {

uint64_t lk_load_acquire_u64(const uint64_t* counter) {
    return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

void lk_store_release_u64(uint64_t* counter, uint64_t value) {
    __atomic_store_n(counter, value, __ATOMIC_RELEASE);
    // A release store keeps earlier accesses before it. A generation must also stay before the
    // later writes of its block.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

// Returns the value before the addition.
uint64_t lk_fetch_add_u64(uint64_t* counter, uint64_t amount) {
    return __atomic_fetch_add(counter, amount, __ATOMIC_SEQ_CST);
}

}  // extern "C"
