// A pool's answers to a step whose questions it knows beforehand, as long as nothing else comes.

#include <sys/resource.h>

#include "attention.h"
#include "clock.h"
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

// How often this thread was made to give its core away.
int64_t times_preempted() {
    rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
}

}  // namespace lk

extern "C" {

// Answers what lies there and is what comes next; returns how many.
int32_t lk_answer(lk::AnswersCall* call) {
    int before = call->next;
    while (call->next < call->count && lk::answer_one(*call)) {}
    return call->next - before;
}

// As lk_wait_change, and answers meanwhile: a word that changes by what is answered has not changed.
// ``most_ns`` limits the whole, and so does being preempted: somebody else wants this core, maybe
// the step that waits for an answer. Returns -2 instead of -1 when something was answered.
int64_t lk_answer_while_watching(lk::AnswersCall* const* calls, int32_t num_calls,
                                 const uint64_t* addresses, uint64_t* values, int64_t count,
                                 int64_t spin_ns, int64_t most_ns) {
    int64_t end = lk::now_ns() + most_ns, quiet = end - most_ns + spin_ns, nothing = -1;
    int64_t preempted = lk::times_preempted();
    for (uint32_t turn = 1;; turn++) {
        for (int64_t i = 0; i < count; i++) {
            auto* word = reinterpret_cast<uint64_t*>(addresses[i]);
            if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == values[i]) continue;
            lk::AnswersCall* call = nullptr;
            for (int32_t n = 0; n < num_calls; n++)
                if (calls[n]->channel->in.page + lk::WRITTEN == reinterpret_cast<char*>(word))
                    call = calls[n];
            if (!call || !lk_answer(call)) return i;
            const lk::RingEnd& in = call->channel->in;
            if (in.written != in.position) return i;  // something else lies behind it
            values[i] = in.written;
            quiet = lk::now_ns() + spin_ns;
            nothing = -2;
        }
        if (turn % 16 == 0 && lk::now_ns() >= std::min(quiet, end)) return nothing;
        if (turn % 64 == 0 && lk::times_preempted() != preempted) return nothing;
        lk::pause();
    }
}

}  // extern "C"
