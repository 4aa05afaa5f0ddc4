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
    int64_t spin_ns;  // look again and again for so long, ...
    int64_t most_ns;  // ... or sleep on the sockets, for so long in all

    int64_t count() const { return num_words + num_sockets; }

    // Looks which sockets have news, and waits for some; false when a signal came.
    bool look(int64_t wait_ns) {
        if (!num_sockets) return true;
        timespec wait{wait_ns / 1000000000, wait_ns % 1000000000};
        return ::ppoll(sockets, num_sockets, &wait, nullptr) >= 0;
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
    Word word(int64_t i) const { return Word(*reinterpret_cast<uint64_t*>(at(i))); }
};

}  // namespace lk
