// Publishing, sleeping and spinning on words shared by two processes, for the rings of engine/comm.
// Loads and stores alone are in atomics.cpp. Every address is a naturally aligned 64-bit word that
// another process may change at any time.
#include "clock.h"
#include "words.h"

using lk::Word;

extern "C" {

// Returns 1 when the other side sleeps and this call is to ring its bell; see words.h.
int32_t lk_publish_u64(uint64_t* counter, uint64_t value, uint64_t* asleep) {
  return lk::publish(Word(*counter), value, Word(*asleep));
}

// Returns 1 when the counter has left `seen` already; see words.h.
int32_t lk_fall_asleep_u64(uint64_t* asleep, uint64_t* counter, uint64_t seen) {
  return lk::fall_asleep(Word(*asleep), Word(*counter), seen);
}

// Spins until a word at `addresses[i]` differs from `values[i]`; returns i, or -1 after spin_ns.
// It does not yield: on a crowded machine that gave the core away for milliseconds.
int64_t lk_wait_change(const uint64_t* addresses, const uint64_t* values, int64_t count,
                       int64_t spin_ns) {
  const int64_t end = lk::now_ns() + spin_ns;
  for (uint32_t turn = 1;; turn++) {
    for (int64_t i = 0; i < count; i++) {
      uint64_t* at = reinterpret_cast<uint64_t*>(addresses[i]);
      if (Word(*at).load(std::memory_order_acquire) != values[i]) return i;
    }
    if (turn % 16 == 0 && lk::now_ns() >= end) return -1;
    lk::pause();
  }
}
}
