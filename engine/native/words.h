// Words of 64 bits that two processes share; each is naturally aligned.

#pragma once

#include <atomic>
#include <cstdint>

namespace lk {

using Word = std::atomic_ref<uint64_t>;

// Publishes a counter. True when the other side sleeps and its bell is to be rung. Pairs with
// fall_asleep: each side stores, fences, then loads what the other stored, so either the sleeper
// sees the counter or this call sees the flag.
inline bool publish(Word counter, uint64_t value, Word asleep) {
    counter.store(value, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (asleep.load(std::memory_order_relaxed) == 0) return false;
    return asleep.exchange(0, std::memory_order_seq_cst) != 0;
}

// Declares this side asleep. True when the counter has left ``seen`` already: do not sleep.
inline bool fall_asleep(Word asleep, Word counter, uint64_t seen) {
    asleep.store(1, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return counter.load(std::memory_order_acquire) != seen;
}

}  // namespace lk
