// The frame around a message, as in engine/comm/frame.py.

#pragma once

#include <cstdint>
#include <cstring>

namespace lk {

struct Bytes {
    const char* at;
    int64_t count;
};

struct FrameHeader {
    uint32_t magic, head_bytes, body_bytes, zero;
    uint64_t number;
};

constexpr int64_t FRAME_ALIGN = 64, TAG_BYTES = 16, HEAD_START = sizeof(FrameHeader) + TAG_BYTES;
constexpr uint32_t MAGIC = 0x32564b4c;  // LKV2

// What is there, of the message that is due.
enum class Found { NOTHING, WANTED, OTHER };

inline int64_t frame_align(int64_t bytes) { return (bytes + FRAME_ALIGN - 1) & -FRAME_ALIGN; }

inline int64_t body_start(Bytes head) { return frame_align(HEAD_START + head.count); }

inline uint64_t frame_length(Bytes head, int64_t body_bytes) {
    return frame_align(body_start(head) + body_bytes);
}

inline FrameHeader frame_header(Bytes head, int64_t body_bytes, uint64_t number) {
    return {MAGIC, uint32_t(head.count), uint32_t(body_bytes), 0, number};
}

inline bool is_same(const FrameHeader& a, const FrameHeader& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace lk
