// A pool's answers to a step whose questions it knows beforehand, as long as nothing else comes.

#include <sys/resource.h>

#include "attention.h"
#include "clock.h"
#include "watched.h"

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

// Answers the next one asked for, if it is there and there is room for its answer.
Found answer_one(AnswersCall& call) {
    const SliceAnswer& slice = call.slices[call.next % call.num_slices];
    int64_t row_items = int64_t(slice.attend.heads) * slice.attend.dim;
    int64_t q_bytes = slice.num_queries * row_items * (slice.attend.q_kind == FLOAT32 ? 4 : 2);
    int64_t out_bytes = slice.num_node_rows * row_items * sizeof(float);
    int64_t lse_bytes = int64_t(slice.num_node_rows) * slice.attend.heads * sizeof(float);
    Reader reader(*call.channel);
    Writer writer(*call.channel);
    Found found = reader.look(call.asks[call.next], q_bytes);
    if (found != Found::WANTED) return found;
    if (!writer.has_room(call.answers[call.next], out_bytes + lse_bytes)) return Found::OTHER;
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
    return writer.is_done() ? Found::WANTED : Found::OTHER;
}

// Answers what lies there and is what comes next. Behind it lies nothing, or there is something
// else to do.
Found answer(AnswersCall& call) {
    while (call.next < call.count)
        if (Found found = answer_one(call); found != Found::WANTED) return found;
    return Reader(*call.channel).is_empty() ? Found::NOTHING : Found::OTHER;
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
    lk::answer(*call);
    return call->next - before;
}

// Watches, and answers meanwhile; returns the first with news of another kind, or -1. ``most_ns``
// limits the whole. Being preempted ends the spinning: somebody else wants this core, maybe the
// step that waits for an answer. Returns -2 instead of -1 when something was answered. A bell that
// nothing rings any more stands behind the words.
int64_t lk_answer_while_watching(lk::AnswersCall* const* calls, int32_t num_calls,
                                 lk::Watched* watched, int64_t most_ns) {
    int64_t now = lk::now_ns(), end = now + std::min(most_ns, watched->most_ns);
    int64_t began = now, nothing = -1;
    int64_t preempted = lk::times_preempted();
    bool may_spin = watched->spin_ns > 0;
    for (uint32_t turn = 1;; turn++) {
        int64_t sleep_ns = 0;
        if (turn % 64 == 0 && lk::times_preempted() != preempted) may_spin = false;
        if (turn % 16 == 1) {
            now = lk::now_ns();
            if (now >= end) return nothing;
            if (!may_spin || now >= began + watched->spin_ns) sleep_ns = end - now;
            if (sleep_ns && !watched->num_sockets) return nothing;
        }
        if (!watched->look(sleep_ns)) return nothing;
        for (int64_t i = 0; i < watched->count(); i++) {
            if (!watched->has_news(i)) continue;
            lk::AnswersCall* call = nullptr;
            for (int32_t n = 0; n < num_calls; n++)
                if (watched->is(i, *calls[n]->channel)) call = calls[n];
            if (!call || call->next == call->count) return i;
            int32_t before = call->next;
            int64_t came = lk::now_ns();
            if (lk::answer(*call) == lk::Found::OTHER) return i;
            watched->heard(i, *call->channel);
            if (call->next == before) continue;
            nothing = -2;
            if (may_spin) watched->learn_to_spin(came - began);
            began = lk::now_ns();
        }
        lk::pause();
    }
}

}  // extern "C"
