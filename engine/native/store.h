// New keys and values into the blocks they belong to, as they are or narrowed to 8 bits.

#pragma once

#include "narrow.h"

namespace lk {

struct StoreCall {  // the same fields as StoreCall in engine/attention/native_calls.py
    const uint64_t* key_at;    // for each row the address of layer 0's key of head 0
    const uint64_t* scale_at;  // the same of that key's scale; null where rows stay as they are
    int64_t value_offset;      // from a key to its value
    int64_t value_scale;       // from a key's scale to its value's
    int64_t head_offset;       // from a head's key to the next one's
    int32_t rows, kv_heads, dim, row_kind, kind;
};

// ``rows`` [rows, kv_heads, dim] are keys, or ``values``, of the layer with this offset in a block;
// heads [from, to) of them.
inline void store(const StoreCall& call, int64_t layer_offset, bool values, const void* rows,
                  int from, int to) {
    int64_t offset = layer_offset + (values ? call.value_offset : 0);
    int64_t row_bytes = int64_t(call.dim) * item_bytes(call.row_kind);
    for (int t = 0; t < call.rows; t++)
        for (int head = from; head < to; head++) {
            const char* row = static_cast<const char*>(rows) +
                (int64_t(t) * call.kv_heads + head) * row_bytes;
            char* at = reinterpret_cast<char*>(call.key_at[t]) + offset + head * call.head_offset;
            if (!call.scale_at) {
                std::memcpy(at, row, row_bytes);
                continue;
            }
            float scale = narrow(row, call.row_kind, call.dim, at, call.kind);
            std::memcpy(reinterpret_cast<char*>(call.scale_at[t]) + layer_offset +
                            (values ? call.value_scale : 0) + head * call.head_offset,
                        &scale, sizeof scale);
        }
}

}  // namespace lk
