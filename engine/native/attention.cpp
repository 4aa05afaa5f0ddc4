// One layer's storing, attention and merging, for Python.

#include "attention.h"
#include "store.h"

extern "C" {

void lk_attend(const lk::AttendCall* call, int64_t layer_offset) {
    lk::Attend attend(*call);
    int threads = attend.is_small() ? 1 : call->num_threads;
    lk::Threads::together(threads, [&](lk::Team& team) { attend.run(team, layer_offset); });
}

void lk_merge(const lk::MergeCall* call) {
    lk::Threads::together(1, [&](lk::Team& team) { lk::merge(team, *call); });
}

void lk_store(const lk::StoreCall* call, int64_t layer_offset, const void* k, const void* v) {
    lk::store(*call, layer_offset, false, k, 0, call->kv_heads);
    lk::store(*call, layer_offset, true, v, 0, call->kv_heads);
}

int32_t lk_isa_runs(int32_t isa) { return lk::routines_of(isa) != nullptr; }

}  // extern "C"
