// New keys and values into the blocks they belong to.

#include <cstdint>
#include <cstring>

extern "C" {

// Row t's keys and values, [kv_heads, row_bytes] each, go to where head 0 has them: key_at[t]; the
// values lie value_offset behind the keys, the next head head_offset behind this one.
void lk_store(const uint64_t* key_at, const char* k, const char* v, int32_t rows, int32_t kv_heads,
              int64_t row_bytes, int64_t layer_offset, int64_t value_offset, int64_t head_offset) {
    for (int32_t t = 0; t < rows; t++) {
        char* to = reinterpret_cast<char*>(key_at[t]) + layer_offset;
        for (int32_t head = 0; head < kv_heads; head++, to += head_offset) {
            std::memcpy(to, k, row_bytes);
            std::memcpy(to + value_offset, v, row_bytes);
            k += row_bytes;
            v += row_bytes;
        }
    }
}

}  // extern "C"
