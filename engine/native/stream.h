// Both ends of a channel over a TCP socket (engine/comm/tcp_channel.py). What it does not expect it
// leaves where Python finds it: bytes that came in `in`, bytes that did not go in `out`.

#pragma once

#include <sys/socket.h>

#include <cerrno>

#include "seal.h"

namespace lk {

struct Stream {  // the same fields as Stream in engine/comm/tcp_channel.py
    int64_t fd;
    char *in, *out;               // room for three of the longest frames, and for one
    uint64_t frame_bytes;         // of the longest
    uint64_t start, end;          // what came and was not handed out
    uint64_t out_start, out_end;  // what is to be sent before anything else
    uint64_t num_received, num_sent;
    uint8_t receive_key[KEY_BYTES], send_key[KEY_BYTES];
};

class StreamWriter {
public:
    explicit StreamWriter(Stream& stream) : s_(stream) {}

    bool has_room(Bytes head, int64_t body_bytes) const {
        return is_done() && frame_length(head, body_bytes) <= s_.frame_bytes;
    }

    // A frame whose body ``fill`` writes; false when there is no room for it now.
    template <class Fill>
    bool write(Bytes head, int64_t body_bytes, const Fill& fill) {
        if (!has_room(head, body_bytes)) return false;
        FrameHeader header = frame_header(head, body_bytes, s_.num_sent);
        std::memcpy(s_.out, &header, sizeof header);
        make_tag(s_.send_key, header, head, s_.out + sizeof header);
        std::memcpy(s_.out + HEAD_START, head.at, head.count);
        fill(s_.out + body_start(head));
        s_.num_sent++;
        s_.out_start = 0, s_.out_end = frame_length(head, body_bytes);
        ssize_t sent = ::send(int(s_.fd), s_.out, s_.out_end, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) s_.out_start = sent;
        return true;
    }

    bool is_done() const { return s_.out_start == s_.out_end; }

private:
    Stream& s_;
};

class StreamReader {
public:
    explicit StreamReader(Stream& stream) : s_(stream) {}

    // Whether the next frame has this head and a body of this length; nothing while a part of it
    // has yet to come.
    Found look(Bytes head, int64_t body_bytes) {
        head_ = head;
        length_ = frame_length(head, body_bytes);
        if (came() < length_ && !receive()) return Found::OTHER;
        if (came() < sizeof(FrameHeader)) return Found::NOTHING;
        FrameHeader header, due = frame_header(head, body_bytes, s_.num_received);
        std::memcpy(&header, next(), sizeof header);
        if (!is_same(header, due)) return Found::OTHER;
        if (came() < length_) return Found::NOTHING;
        char tag[TAG_BYTES];
        make_tag(s_.receive_key, header, head, tag);
        bool wanted = is_tag(next() + sizeof header, tag) &&
                      std::memcmp(next() + HEAD_START, head.at, head.count) == 0;
        return wanted ? Found::WANTED : Found::OTHER;
    }
    // Of the frame that was found; until ``take``.
    const char* body() const { return next() + body_start(head_); }

    // Gives the found frame's room back; a frame that starts in the first third has room anyhow.
    void take() {
        s_.num_received++;
        s_.start += length_;
        if (s_.start != s_.end && s_.start <= s_.frame_bytes) return;
        std::memmove(s_.in, next(), came());
        s_.end = came();
        s_.start = 0;
    }

    // It is the socket that tells of news, of the end too.
    bool fall_asleep() const { return false; }
    bool wake_up() const { return true; }
    int fd() const { return int(s_.fd); }

    bool is_empty() const { return came() == 0; }

private:
    const char* next() const { return s_.in + s_.start; }
    uint64_t came() const { return s_.end - s_.start; }

    // Takes what the kernel has; false when Python is to see what is wrong.
    bool receive() {
        uint64_t room = 3 * s_.frame_bytes - s_.end;
        ssize_t num_bytes = ::recv(int(s_.fd), s_.in + s_.end, room, MSG_DONTWAIT);
        if (num_bytes < 0) return errno == EAGAIN || errno == EINTR;
        s_.end += num_bytes;
        return num_bytes > 0;  // else there is no room, or the peer has closed
    }

    Stream& s_;
    Bytes head_{};
    uint64_t length_ = 0;
};

}  // namespace lk
