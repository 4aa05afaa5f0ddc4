// A pool's answers to a step whose questions it knows beforehand, as long as nothing else comes.

#include "attention.h"
#include "ring.h"

namespace lk {

struct SliceAnswer {  // the same fields as SliceAnswer in engine/attention/native_calls.py
    AttendCall attend;  // q apart; out and lse are memory for one answer
    int32_t num_queries, num_node_rows;
};

struct AnswersCall {  // the same fields as AnswersCall in engine/attention/native_calls.py
    NativeChannel* channel;
    const Bytes *asks, *answers;  // heads, of each layer's slices in turn
    const SliceAnswer* slices;
    int64_t layer_bytes;
    int32_t num_slices;
    int32_t next, count;  // of the asks
};

// Returns whether the next one asked for was there, and room for its answer.
bool answer_one(AnswersCall& call) {
    const SliceAnswer& slice = call.slices[call.next % call.num_slices];
    int64_t row_items = int64_t(slice.attend.heads) * slice.attend.dim;
    int64_t q_bytes = slice.num_queries * row_items * (slice.attend.q_kind == FLOAT32 ? 4 : 2);
    int64_t out_bytes = slice.num_node_rows * row_items * sizeof(float);
    int64_t lse_bytes = int64_t(slice.num_node_rows) * slice.attend.heads * sizeof(float);
    Reader reader(*call.channel);
    Writer writer(*call.channel);
    if (reader.look(call.asks[call.next], q_bytes) != Found::WANTED ||
        !writer.has_room(call.answers[call.next], out_bytes + lse_bytes))
        return false;
    AttendCall attend = slice.attend;
    attend.q = reader.body();
    Attend work(attend);
    int threads = work.is_small() ? 1 : attend.num_threads;
    int64_t offset = call.next / call.num_slices * call.layer_bytes;
    Threads::together(threads, [&](Team& team) { work.run(team, offset); });
    reader.take();
    writer.write(call.answers[call.next], out_bytes + lse_bytes, [&](char* body) {
        std::memcpy(body, attend.out, out_bytes);
        std::memcpy(body + out_bytes, attend.lse, lse_bytes);
    });
    call.next++;
    return true;
}

}  // namespace lk

extern "C" {

// Answers what lies there and is what comes next; returns how many.
int32_t lk_answer(lk::AnswersCall* call) {
    int before = call->next;
    while (call->next < call->count && lk::answer_one(*call)) {}
    return call->next - before;
}

}  // extern "C"
