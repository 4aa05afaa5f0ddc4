// Both ends of a channel's rings (engine/comm/ring.py).
//
// The memory is shared with another process: what it holds is copied before it is looked at twice.

#pragma once

#include <sys/socket.h>

#include <cerrno>

#include "frame.h"
#include "words.h"

namespace lk {

struct RingEnd {  // the same fields as RingEnd in engine/comm/ring.py
    char* page;   // the four words, then the frames
    uint64_t capacity;
    uint64_t written;   // bytes that were written, as known here
    uint64_t position;  // bytes that were handed out; the reader's
    uint64_t read;      // bytes whose room was given back, as known here
    uint64_t count;     // frames written, or handed out
};

struct Rings {  // the same fields as Rings in engine/comm/shm_channel.py
    RingEnd out, in;
    int64_t bell_fd;
};

constexpr int64_t RING_PAGE = 4096;
constexpr int64_t WRITTEN = 0, READ = 64, READER_ASLEEP = 128, WRITER_ASLEEP = 192;
constexpr int64_t ASLEEP_BEHIND = 128;  // a counter lies the word of who waits for it
static_assert(READER_ASLEEP - WRITTEN == ASLEEP_BEHIND && WRITER_ASLEEP - READ == ASLEEP_BEHIND);
constexpr uint32_t FILLER = 0x50494b53;  // SKIP

// Takes the bells of a socket; false at its end, which is Python's to see.
inline bool hear_bells(int fd) {
    char bell;
    for (int n = 0; n < 64; n++) {
        ssize_t count = ::recv(fd, &bell, 1, MSG_DONTWAIT);
        if (count == 0) return false;
        if (count < 0) return errno == EAGAIN || errno == EINTR;
    }
    return true;
}

class Ring {
public:
    Ring(Rings& rings, RingEnd& end)
        : end_(end), frames_(end.page + RING_PAGE), bell_fd_(int(rings.bell_fd)) {}

protected:
    Word word(int64_t offset) const {
        return Word(*reinterpret_cast<uint64_t*>(end_.page + offset));
    }
    // Publishes a counter, and rings the bell where the other side sleeps.
    void tell(int64_t counter, uint64_t value, int64_t asleep) const {
        if (publish(word(counter), value, word(asleep)))
            ::send(bell_fd_, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    RingEnd& end_;
    char* const frames_;
    const int bell_fd_;
};

class RingWriter : Ring {
public:
    explicit RingWriter(Rings& rings) : Ring(rings, rings.out) {}

    bool has_room(Bytes head, int64_t body_bytes) {
        uint64_t length = frame_length(head, body_bytes), wanted = skipped(length) + length;
        if (fits(wanted)) return true;
        uint64_t read = word(READ).load(std::memory_order_acquire);
        if (read < end_.read || read > end_.written) return false;  // Python says what is wrong
        end_.read = read;
        return fits(wanted);
    }

    // A frame whose body ``fill`` writes; false when there is no room for it now.
    template <class Fill>
    bool write(Bytes head, int64_t body_bytes, const Fill& fill) {
        if (!has_room(head, body_bytes)) return false;
        uint64_t length = frame_length(head, body_bytes), skip = skipped(length);
        uint64_t at = end_.written % end_.capacity;
        if (skip) {
            FrameHeader filler{FILLER, 0, 0, 0, 0};
            std::memcpy(frames_ + at, &filler, sizeof filler);
            at = 0;
        }
        char* frame = frames_ + at;
        FrameHeader header = frame_header(head, body_bytes, end_.count);
        std::memcpy(frame, &header, sizeof header);
        std::memset(frame + sizeof header, 0, TAG_BYTES);
        std::memcpy(frame + HEAD_START, head.at, head.count);
        fill(frame + body_start(head));
        end_.count++;
        end_.written += skip + length;
        tell(WRITTEN, end_.written, READER_ASLEEP);
        return true;
    }

    bool is_done() const { return true; }

private:
    // The rest of the ring, where a frame would not fit before its end.
    uint64_t skipped(uint64_t length) const {
        uint64_t left = end_.capacity - end_.written % end_.capacity;
        return length > left ? left : 0;
    }
    bool fits(uint64_t bytes) const {
        return end_.written + bytes - end_.read <= end_.capacity;
    }
};

class RingReader : Ring {
public:
    explicit RingReader(Rings& rings) : Ring(rings, rings.in) {}

    // Whether the next frame has this head and a body of this length.
    Found look(Bytes head, int64_t body_bytes) {
        if (end_.written == end_.position) {
            uint64_t written = word(WRITTEN).load(std::memory_order_acquire);
            if (written < end_.written || written > end_.read + end_.capacity) return Found::OTHER;
            end_.written = written;
            if (written == end_.position) return Found::NOTHING;
        }
        uint64_t at = end_.position % end_.capacity;
        FrameHeader header;
        std::memcpy(&header, frames_ + at, sizeof header);
        skip_ = at && header.magic == FILLER ? end_.capacity - at : 0;
        if (skip_) {
            at = 0;
            std::memcpy(&header, frames_, sizeof header);
        }
        length_ = frame_length(head, body_bytes);
        bool wanted = skip_ + length_ <= end_.written - end_.position &&
                      length_ <= end_.capacity - at &&
                      is_same(header, frame_header(head, body_bytes, end_.count)) &&
                      std::memcmp(frames_ + at + HEAD_START, head.at, head.count) == 0;
        body_ = frames_ + at + body_start(head);
        return wanted ? Found::WANTED : Found::OTHER;
    }
    // Of the frame that was found; until ``take``.
    const char* body() const { return body_; }

    // Gives the found frame's room back.
    void take() {
        end_.count++;
        end_.position += skip_ + length_;
        end_.read = end_.position;
        tell(READ, end_.read, WRITER_ASLEEP);
    }

    // Asks for a bell; true when something is there already.
    bool fall_asleep() {
        return lk::fall_asleep(word(READER_ASLEEP), word(WRITTEN), end_.written);
    }
    // False when the other side is gone.
    bool wake_up() {
        word(READER_ASLEEP).store(0, std::memory_order_release);
        return hear_bells(bell_fd_);
    }
    int fd() const { return bell_fd_; }

    // As far as is known here.
    bool is_empty() const { return end_.written == end_.position; }

private:
    uint64_t skip_ = 0, length_ = 0;
    const char* body_ = nullptr;
};

}  // namespace lk
