// What the driver (attention.cpp) asks of the arithmetic (leaf.h, merge.h), which is compiled once
// for each instruction set: a table of functions.
//
// Files compiled for an instruction set must not leave functions in the library that others share
// by name: the linker would keep one of them, maybe one this processor cannot run. So they use no
// container or algorithm of std, and their own code lies in a namespace named after the set.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define LK_INLINE inline __attribute__((always_inline))

namespace lk {

constexpr int LANES = 16;
constexpr float EMPTY = -__builtin_inff();
constexpr float LOG2_E = 1.4426950408889634f;

LK_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

enum Kind { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2, INT8 = 3, FP8 = 4 };
LK_INLINE int item_bytes(int kind) { return kind == FLOAT32 ? 4 : kind <= FLOAT16 ? 2 : 1; }

// Some query rows of some KV heads over one leaf.
struct LeafTask {
    int dim, tokens;
    int heads;        // KV heads, one after the other in memory
    int rows, group;  // rows of each head; ``group`` of them to a query token
    int64_t before;   // keys of the leaf before the first token's own; may be negative
    float scale;      // >= 0
    bool pairs;       // q is bfloat16 (see Routines::takes_pairs), otherwise float32
    const void* q;    // [heads, rows, dim]
    float* lse;       // [heads, rows], room for a multiple of 16
    float* out;       // [heads, rows, stride]
    int64_t stride;   // dim rounded up to 16
    int64_t head_bytes;  // from a head's keys to the next one's; those of 8 bits end in scales
    float* scratch;   // scratch_floats of them
    const void* next; // the leaf to come, or null

    LK_INLINE int seen_by(int row) const {
        int64_t seen = before + row / group + 1;
        return seen < 0 ? 0 : seen < tokens ? int(seen) : tokens;
    }
};

// Rows of a become the merge of a (left) and b (right); see merge.h.
using MergeRows = void (*)(int count, int dim, float* lse_a, float* out_a, int64_t stride_a,
                           const float* lse_b, const float* out_b, int64_t stride_b);

// Another way to attend with pairs, for many rows of one head: 16 abreast, a lane for each. Rows are
// padded to whole lanes, queries and outputs lie as abreast.h says, the bits are the same.
struct Abreast {
    void (*queries)(int rows, int dim, const void* q, void* to);
    void (*attend_leaf)(const LeafTask&, const void* keys);
    MergeRows merge;
    void (*rows)(int rows, int dim, float* out, float* scratch);  // back to [rows, dim]
};

struct Routines {
    // Whether bfloat16 queries and keys are multiplied as they are, for leaves of this shape.
    bool (*takes_pairs)(int dim, int tokens);
    size_t (*scratch_floats)(int dim, int tokens, int all_rows);
    void (*attend_leaf[5])(const LeafTask&, const void* keys);  // by Kind; then the values
    MergeRows merge_rows;
    const Abreast* abreast;  // or null
};

extern const Routines ROUTINES_PORTABLE;
#if defined(__x86_64__)
extern const Routines ROUTINES_AVX2, ROUTINES_AVX512, ROUTINES_AVX512_BF16;
extern const Routines* const ROUTINES_AMX;  // null where the compiler does not know this processor's
#endif

}  // namespace lk
