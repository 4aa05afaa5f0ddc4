// The attention of one step's layers, without leaving a team of threads.

#pragma once

#include "asks.h"
#include "attention.h"
#include "store.h"

namespace lk {

struct AttentionStep {  // the same fields as NativeStep in engine/attention/native_calls.py
    StoreCall store;
    AttendCall attend;
    MergeCall merge;
    SliceAsk* slices;
    int64_t layer_bytes, patience_ns;
    int64_t sleep_ns;            // shrinks by what was slept for answers; at 0 the caller waits
    int64_t attend_ns, trip_ns;  // grow by what the keys at hand took, and ask to last answer
    int32_t num_slices;
    int32_t waits;     // the caller is to get a layer's missing answers
    int32_t num_late;  // grows with each layer whose answers took longer than patience
};

// What it needs once a step is made once.
class StepAttention {
public:
    explicit StepAttention(AttentionStep& step)
        : step_(step), attend_(step.attend),
          asks_(step.slices, step.num_slices, step.attend, step.patience_ns) {}

    // This member's share of the new keys and values: heads [first, last) of those of queries,
    // keys and values in a row.
    void store(int layer, int first, int last, const void* k, const void* v) const {
        int heads = step_.attend.heads, kv_heads = step_.attend.kv_heads;
        auto part = [&](bool values, const void* rows, int before) {
            int from = std::clamp(first - before, 0, kv_heads);
            int to = std::clamp(last - before, 0, kv_heads);
            lk::store(step_.store, layer * step_.layer_bytes, values, rows, from, to);
        };
        part(false, k, heads);
        part(true, v, heads + kv_heads);
    }

    // All members call it once queries and keys are there. False when the caller is to get the
    // answers that have not come; ``merge`` then does the rest.
    bool run(Team& team, int layer) {
        int64_t began = now_ns();
        if (team.is_first()) asks_.send(layer);
        int64_t asked = now_ns();
        attend_.run(team, layer * step_.layer_bytes);
        if (team.is_first()) {
            step_.attend_ns += now_ns() - asked;
            step_.waits = !asks_.collect(layer, step_.sleep_ns);
            step_.num_late += asks_.was_late();
            step_.trip_ns += now_ns() - began;
        }
        team.barrier();
        if (step_.waits) return false;
        merge(team);
        return true;
    }

    void merge(Team& team) {
        lk::merge(team, step_.merge);
        team.barrier();
        if (team.is_first()) step_.waits = 0;
    }

private:
    AttentionStep& step_;
    Attend attend_;
    Asks asks_;
};

}  // namespace lk
