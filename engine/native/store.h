// New keys and values into the blocks they belong to.

#pragma once

#include <cstdint>
#include <cstring>

namespace lk {

struct StoreCall {  // the same fields as StoreCall in engine/attention/native_calls.py
    const uint64_t* key_at;  // for each row the address of layer 0's key of head 0
    int64_t row_bytes;       // of one head's key or value
    int64_t value_offset;    // from a key to its value
    int64_t head_offset;     // from a head's key to the next one's
    int32_t rows, kv_heads;
};

// ``rows`` [rows, kv_heads, row_bytes] are the keys at ``offset`` 0; heads [from, to) of them.
inline void store(const StoreCall& call, int64_t offset, const void* rows, int from, int to) {
    for (int t = 0; t < call.rows; t++)
        for (int head = from; head < to; head++) {
            int64_t item = (int64_t(t) * call.kv_heads + head) * call.row_bytes;
            char* at = reinterpret_cast<char*>(call.key_at[t]) + offset + head * call.head_offset;
            std::memcpy(at, static_cast<const char*>(rows) + item, call.row_bytes);
        }
}

}  // namespace lk
