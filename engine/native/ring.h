// Both ends of a channel's rings (engine/comm/ring.py, frames as in engine/comm/frame.py): what a
// step and a pool say in the middle of a layer. Everything else is Python's to say and to hear.
//
// The memory is shared with another process: what it holds is copied before it is looked at twice.

#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <cstring>

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

struct NativeChannel {  // the same fields as NativeChannel in engine/comm/shm_channel.py
    RingEnd out, in;
    int64_t bell_fd;
};

struct Bytes {
    const char* at;
    int64_t count;
};

struct FrameHeader {
    uint32_t magic, head_bytes, body_bytes, zero;
    uint64_t number;
};

constexpr int64_t RING_PAGE = 4096;
constexpr int64_t FRAME_ALIGN = 64, TAG_BYTES = 16, HEAD_START = sizeof(FrameHeader) + TAG_BYTES;
constexpr int64_t WRITTEN = 0, READ = 64, READER_ASLEEP = 128, WRITER_ASLEEP = 192;
constexpr uint32_t MAGIC = 0x32564b4c, FILLER = 0x50494b53;  // LKV2, SKIP

inline int64_t frame_align(int64_t bytes) { return (bytes + FRAME_ALIGN - 1) & -FRAME_ALIGN; }

inline uint64_t frame_length(Bytes head, int64_t body_bytes) {
    return frame_align(frame_align(HEAD_START + head.count) + body_bytes);
}

class Ring {
public:
    Ring(NativeChannel& channel, RingEnd& end)
        : end_(end), frames_(end.page + RING_PAGE), bell_fd_(int(channel.bell_fd)) {}

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

class Writer : Ring {
public:
    explicit Writer(NativeChannel& channel) : Ring(channel, channel.out) {}

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
        int64_t body_start = frame_align(HEAD_START + head.count);
        uint64_t length = frame_length(head, body_bytes), skip = skipped(length);
        uint64_t at = end_.written % end_.capacity;
        if (skip) {
            FrameHeader filler{FILLER, 0, 0, 0, 0};
            std::memcpy(frames_ + at, &filler, sizeof filler);
            at = 0;
        }
        char* frame = frames_ + at;
        FrameHeader header{MAGIC, uint32_t(head.count), uint32_t(body_bytes), 0, end_.count};
        std::memcpy(frame, &header, sizeof header);
        std::memset(frame + sizeof header, 0, TAG_BYTES);
        std::memcpy(frame + HEAD_START, head.at, head.count);
        fill(frame + body_start);
        end_.count++;
        end_.written += skip + length;
        tell(WRITTEN, end_.written, READER_ASLEEP);
        return true;
    }

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

enum class Found { NOTHING, WANTED, OTHER };

class Reader : Ring {
public:
    explicit Reader(NativeChannel& channel) : Ring(channel, channel.in) {}

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
        int64_t body_start = frame_align(HEAD_START + head.count);
        length_ = frame_length(head, body_bytes);
        bool wanted = skip_ + length_ <= end_.written - end_.position &&
                      length_ <= end_.capacity - at && header.magic == MAGIC && !header.zero &&
                      header.number == end_.count && header.head_bytes == head.count &&
                      header.body_bytes == body_bytes &&
                      std::memcmp(frames_ + at + HEAD_START, head.at, head.count) == 0;
        body_ = frames_ + at + body_start;
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

private:
    uint64_t skip_ = 0, length_ = 0;
    const char* body_ = nullptr;
};

}  // namespace lk
