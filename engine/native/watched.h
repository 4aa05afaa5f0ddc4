// What a transport watches before it sleeps: words of rings, or sockets.

#pragma once

#include <poll.h>

#include "channel.h"

namespace lk {

struct Watched {  // the same fields as Watched in engine/comm/watched.py
    const uint64_t* addresses;  // of words, ...
    uint64_t* values;           // ... with the values last seen
    pollfd* sockets;
    int64_t num_words, num_sockets;
    int64_t num_bells;  // of the sockets, the first: they ring when a word has changed
    int64_t spin_ns;    // look again and again for so long, learned from what comes of it, ...
    int64_t least_spin_ns, most_spin_ns;
    int64_t most_ns;  // ... or sleep on the sockets, for so long in all

    int64_t count() const { return num_words + num_sockets; }

    // Looks which sockets have news, and sleeps until some have; false when a signal came. Words
    // tell their news by themselves.
    bool look(int64_t sleep_ns) {
        if (!num_sockets || (num_words && !sleep_ns)) return true;
        bool has_changed = false;
        for (int64_t i = 0; i < num_words; i++)
            has_changed |= fall_asleep(asleep(i), word(i), values[i]);
        if (has_changed) sleep_ns = 0;
        timespec wait{sleep_ns / 1000000000, sleep_ns % 1000000000};
        bool is_well = ::ppoll(sockets, num_sockets, &wait, nullptr) >= 0;
        for (int64_t i = 0; i < num_words; i++) asleep(i).store(0, std::memory_order_release);
        for (int64_t i = 0; is_well && i < num_bells; i++)
            if (sockets[i].revents && hear_bells(sockets[i].fd)) sockets[i].revents = 0;
        return is_well;
    }
    // News came after so long: longer spinning pays where it would have met them awake.
    void learn_to_spin(int64_t waited_ns) {
        if (waited_ns <= spin_ns) return;
        int64_t better_ns = waited_ns <= most_spin_ns ? 2 * spin_ns : spin_ns / 2;
        spin_ns = std::min(most_spin_ns, std::max(least_spin_ns, better_ns));
    }
    bool has_news(int64_t i) const {
        if (i >= num_words) return sockets[i - num_words].revents;
        return word(i).load(std::memory_order_acquire) != values[i];
    }
    bool is(int64_t i, const NativeChannel& channel) const {
        if (i >= num_words) return channel.stream && channel.stream->fd == sockets[i - num_words].fd;
        return channel.rings && channel.rings->in.page + WRITTEN == at(i);
    }
    // All that is news from this channel has been heard.
    void heard(int64_t i, const NativeChannel& channel) {
        if (i < num_words) values[i] = channel.rings->in.written;
    }

private:
    char* at(int64_t i) const { return reinterpret_cast<char*>(addresses[i]); }
    Word word(int64_t i) const { return Word(*reinterpret_cast<uint64_t*>(addresses[i])); }
    Word asleep(int64_t i) const {
        return Word(*reinterpret_cast<uint64_t*>(at(i) + ASLEEP_BEHIND));
    }
};

}  // namespace lk
