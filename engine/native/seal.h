// The tag of a frame, as Seal in engine/comm/auth.py makes it: BLAKE2b (RFC 7693) of 16 bytes with
// a key of 32, over the frame's header and head.

#pragma once

#include <algorithm>
#include <bit>

#include "frame.h"

namespace lk {

constexpr int64_t KEY_BYTES = 32;

class Blake2b {
public:
    explicit Blake2b(const uint8_t* key) {
        std::memcpy(state_, START, sizeof state_);
        state_[0] ^= 0x01010000 ^ (KEY_BYTES << 8) ^ TAG_BYTES;
        std::memcpy(block_, key, KEY_BYTES);
        used_ = BLOCK;  // the key's block, full of zeros behind it
    }

    void update(const void* data, int64_t count) {
        auto* from = static_cast<const char*>(data);
        while (count) {
            if (used_ == BLOCK) compress(false);  // not before it is known that more follows
            int64_t part = std::min(count, BLOCK - used_);
            std::memcpy(block_ + used_, from, part);
            used_ += part, from += part, count -= part;
        }
    }

    void finish(char* tag) {
        compress(true);
        std::memcpy(tag, state_, TAG_BYTES);
    }

private:
    static constexpr int64_t BLOCK = 128;
    static constexpr uint64_t START[8] = {
        0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
        0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
    static constexpr uint8_t ORDER[10][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
        {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
        {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
        {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
        {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

    void compress(bool is_last) {
        std::memset(block_ + used_, 0, BLOCK - used_);
        uint64_t m[16], v[16];
        std::memcpy(m, block_, BLOCK);
        std::memcpy(v, state_, sizeof state_);
        std::memcpy(v + 8, START, sizeof START);
        v[12] ^= total_ += used_;
        if (is_last) v[14] = ~v[14];
        auto mix = [&](int a, int b, int c, int d, uint64_t x, uint64_t y) {
            v[a] += v[b] + x, v[d] = std::rotr(v[d] ^ v[a], 32);
            v[c] += v[d], v[b] = std::rotr(v[b] ^ v[c], 24);
            v[a] += v[b] + y, v[d] = std::rotr(v[d] ^ v[a], 16);
            v[c] += v[d], v[b] = std::rotr(v[b] ^ v[c], 63);
        };
        for (int round = 0; round < 12; round++) {
            const uint8_t* s = ORDER[round % 10];
            for (int i = 0; i < 4; i++) mix(i, 4 + i, 8 + i, 12 + i, m[s[2 * i]], m[s[2 * i + 1]]);
            for (int i = 0; i < 4; i++)
                mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]],
                    m[s[9 + 2 * i]]);
        }
        for (int i = 0; i < 8; i++) state_[i] ^= v[i] ^ v[8 + i];
        used_ = 0;
    }

    uint64_t state_[8], total_ = 0;
    char block_[BLOCK] = {};
    int64_t used_;
};

inline void make_tag(const uint8_t* key, const FrameHeader& header, Bytes head, char* tag) {
    Blake2b hash(key);
    hash.update(&header, sizeof header);
    hash.update(head.at, head.count);
    hash.finish(tag);
}

// Takes the same time wherever the difference is.
inline bool is_tag(const char* tag, const char* other) {
    uint8_t difference = 0;
    for (int i = 0; i < TAG_BYTES; i++) difference |= tag[i] ^ other[i];
    return difference == 0;
}

}  // namespace lk
