// The attention of one step's layers, without leaving a team of threads.

#pragma once

#include <ctime>

#include "attention.h"
#include "store.h"

namespace lk {

struct AttentionStep {  // the same fields as NativeStep in engine/attention/native_calls.py
    StoreCall store;
    AttendCall attend;
    MergeCall merge;
    int64_t layer_bytes;
    int64_t attend_ns;  // grows by the time the keys at hand took
};

inline int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// Attention to the keys at hand, of all rows; what it needs once a step is made once.
class StepAttention {
public:
    explicit StepAttention(AttentionStep& step) : step_(step), attend_(step.attend) {}

    // This member's share of the new keys and values: heads [first, last) of those of queries,
    // keys and values in a row.
    void store(int layer, int first, int last, const void* k, const void* v) const {
        int heads = step_.attend.heads, kv_heads = step_.attend.kv_heads;
        auto part = [&](int64_t offset, const void* rows, int before) {
            int from = std::clamp(first - before, 0, kv_heads);
            int to = std::clamp(last - before, 0, kv_heads);
            lk::store(step_.store, layer * step_.layer_bytes + offset, rows, from, to);
        };
        part(0, k, heads);
        part(step_.store.value_offset, v, heads + kv_heads);
    }

    // All members call it; queries and keys must be there, and when it ends all is done.
    void run(Team& team, int layer) {
        int64_t began = now_ns();
        attend_.run(team, layer * step_.layer_bytes);
        if (team.is_first()) step_.attend_ns += now_ns() - began;
        merge(team, step_.merge);
        team.barrier();
    }

private:
    AttentionStep& step_;
    Attend attend_;
};

}  // namespace lk
