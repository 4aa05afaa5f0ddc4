// A step's questions to the holders of lent blocks, a layer at a time, and their answers.

#pragma once

#include <poll.h>

#include "attention.h"
#include "channel.h"
#include "clock.h"

namespace lk {

enum AskState : int32_t { LEFT_OUT = -1, UNSENT = 0, ASKED = 1, ANSWERED = 2 };

struct SliceAsk {  // the same fields as SliceAsk in engine/attention/native_calls.py
    NativeChannel* channel;       // null: the caller asks
    const Bytes *asks, *answers;  // heads of each layer's messages
    const int32_t* rows;          // the query rows, in the order they are sent
    int32_t num_rows;
    int32_t base, num_node_rows;  // where the answers go
    AskState state;
    int64_t asked_ns, trip_ns;  // when the last layer's left; grows by what answers took to come
};

class Asks {
public:
    Asks(SliceAsk* slices, int count, const AttendCall& attend, int64_t patience_ns)
        : slices_(slices), count_(count), attend_(attend), patience_ns_(patience_ns),
          row_bytes_(int64_t(attend.heads) * attend.dim * (attend.q_kind == FLOAT32 ? 4 : 2)) {}

    void send(int layer) {
        for (SliceAsk& s : *this) {
            if (s.state == LEFT_OUT) continue;
            auto fill = [&](char* body) {
                for (int row = 0; row < s.num_rows; row++)
                    std::memcpy(body + row * row_bytes_,
                                static_cast<const char*>(attend_.q) + s.rows[row] * row_bytes_,
                                row_bytes_);
            };
            bool sent = s.channel && Writer(*s.channel).write(s.asks[layer], s.num_rows * row_bytes_, fill);
            s.state = sent ? ASKED : UNSENT;
            s.asked_ns = now_ns();
        }
    }

    // Whether all answers came, without another message before them. After some patience it gives
    // the core away; what it sleeps in all is taken off ``sleep_ns``.
    bool collect(int layer, int64_t& sleep_ns) {
        was_late_ = false;
        for (SliceAsk& s : *this)
            if (s.state == UNSENT) return false;
        int64_t until = now_ns() + patience_ns_;
        for (int turn = 0, in_vain = 0;; turn++) {
            bool waits = false, came = false, other = false;
            for (SliceAsk& s : *this) {
                if (s.state != ASKED) continue;
                Found found = take(s, layer);
                waits |= found != Found::WANTED;
                came |= found == Found::WANTED;
                other |= found == Found::OTHER;
            }
            if (!waits) return true;
            // A message that came between two slices' looks is not theirs only if it is so twice.
            in_vain = other && !came ? in_vain + 1 : 0;
            if (in_vain > 1) return false;
            if (turn % 16 == 0 && now_ns() >= until) {
                was_late_ = true;
                if (!sleep(sleep_ns)) return false;
            }
            pause();
        }
    }

    // Whether the last layer's answers took longer than patience.
    bool was_late() const { return was_late_; }

private:
    SliceAsk* begin() { return slices_; }
    SliceAsk* end() { return slices_ + count_; }

    // Until a channel has news; false when Python is to go on.
    bool sleep(int64_t& sleep_ns) {
        if (sleep_ns <= 0) return false;
        int64_t began = now_ns(), most_ns = sleep_ns;
        polled_.clear();
        for (SliceAsk& s : *this) {
            if (s.state != ASKED) continue;
            Reader reader(*s.channel);
            if (reader.fall_asleep()) most_ns = 0;
            polled_.push_back({reader.fd(), POLLIN, 0});
        }
        timespec wait{most_ns / 1000000000, most_ns % 1000000000};
        bool is_well = ::ppoll(polled_.data(), polled_.size(), &wait, nullptr) >= 0;
        for (SliceAsk& s : *this)
            if (s.state == ASKED && !Reader(*s.channel).wake_up()) is_well = false;
        sleep_ns -= now_ns() - began;
        return is_well;
    }

    Found take(SliceAsk& s, int layer) {
        int64_t num_lse = int64_t(s.num_node_rows) * attend_.heads, num_out = num_lse * attend_.dim;
        Reader reader(*s.channel);
        Found found = reader.look(s.answers[layer], (num_out + num_lse) * sizeof(float));
        if (found != Found::WANTED) return found;
        int64_t to = int64_t(s.base) * attend_.heads;
        std::memcpy(attend_.out + to * attend_.dim, reader.body(), num_out * sizeof(float));
        std::memcpy(attend_.lse + to, reader.body() + num_out * sizeof(float),
                    num_lse * sizeof(float));
        reader.take();
        s.state = ANSWERED;
        s.trip_ns += now_ns() - s.asked_ns;
        return found;
    }

    SliceAsk* slices_;
    int count_;
    const AttendCall& attend_;
    int64_t patience_ns_, row_bytes_;
    bool was_late_ = false;
    std::vector<pollfd> polled_;
};

}  // namespace lk
