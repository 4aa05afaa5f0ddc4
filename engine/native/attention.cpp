// Exact partial attention over rBlocks by address, and merging along the fixed tree.
//
// The interface is Kernel of engine/attention/base.py; a unit of work is some query rows of one
// segment with one KV head and a run of leaves.

#include "leaf.h"
#include "partial.h"
#include "threads.h"

namespace lk {

enum Kind { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

constexpr int CHUNKS_PER_THREAD = 4;
constexpr int64_t SMALL_WORK = 1 << 18;     // row-keys times dim not worth waking a thread for

struct SegmentRow {
    int32_t row_start, num_rows, first_position, leaf_start, num_leaves, node_start;
};

struct AttendCall {  // the same fields as _AttendCall in kernel_native.py
    const SegmentRow* segments;
    const int32_t* leaf_index;
    const uint64_t* address;
    const void* q;
    float* out;
    float* lse;
    int64_t layer_offset;
    int32_t num_segments, q_kind, kv_kind, heads, kv_heads, dim, tokens, num_threads;
    float scale;
};

struct Unit {
    const SegmentRow* segment;
    int head, token_start, num_tokens, leaf_from, leaf_to;
    bool whole;  // all of the segment's leaves; otherwise its stack is merged with its neighbours'
};

struct Scratch {
    Buffer q;
    LeafScratch leaf;
    Stack stack;
};

template <class T>
class Attend {
public:
    explicit Attend(const AttendCall& call)
        : c_(call), group_(call.heads / call.kv_heads),
          head_items_(int64_t(2) * call.tokens * call.dim) {}

    void run() {
        plan();
        if (split_) stacks_.resize(units_.size());
        int num_units = int(units_.size());
        int chunks = std::min(num_units, c_.num_threads * CHUNKS_PER_THREAD);
        int threads = work_ < SMALL_WORK ? 1 : c_.num_threads;
        if (threads == 1) chunks = std::min(num_units, 1);
        Threads::run(threads, chunks, [&](int chunk) {
            int from = int(int64_t(num_units) * chunk / chunks);
            int to = int(int64_t(num_units) * (chunk + 1) / chunks);
            for (int u = from; u < to; u++) {
                Stack& stack = units_[u].whole ? scratch().stack : stacks_[u];
                compute(units_[u], u + 1 < to ? &units_[u + 1] : nullptr, stack);
                if (units_[u].whole) emit(units_[u], stack);
            }
        });
        if (split_) join();
    }

private:
    static Scratch& scratch() {
        static thread_local Scratch scratch;
        return scratch;
    }

    void plan() {
        int unit_tokens = std::max(1, UNIT_ROWS / group_);
        int64_t count = 0;
        for (int s = 0; s < c_.num_segments; s++) {
            const SegmentRow& at = c_.segments[s];
            count += (at.num_rows + unit_tokens - 1) / unit_tokens * c_.kv_heads;
            work_ += int64_t(at.num_rows) * at.num_leaves * c_.heads * c_.tokens * c_.dim;
        }
        split_ = c_.num_threads > 1 && work_ >= SMALL_WORK &&
                 count < c_.num_threads * CHUNKS_PER_THREAD;
        int parts = split_ ? int((c_.num_threads * CHUNKS_PER_THREAD + count - 1) / count) : 1;
        for (int s = 0; s < c_.num_segments; s++) {
            const SegmentRow& at = c_.segments[s];
            // Runs of leaves that end at multiples of 2^level, so that each is a subtree.
            int level = 31;
            while (split_ && level > 2 && (at.num_leaves >> level) < parts) level--;
            for (int token = 0; token < at.num_rows; token += unit_tokens)
                for (int head = 0; head < c_.kv_heads; head++) {
                    int from = 0;
                    do {
                        int to = from;
                        while (to < at.num_leaves &&
                               leaf(at, to) >> level == leaf(at, from) >> level) to++;
                        int tokens = std::min(unit_tokens, at.num_rows - token);
                        units_.push_back({&at, head, token, tokens, from, to,
                                          from == 0 && to == at.num_leaves});
                        from = to;
                    } while (from < at.num_leaves);
                }
        }
    }

    int64_t leaf(const SegmentRow& at, int n) const { return c_.leaf_index[at.leaf_start + n]; }

    const T* block(const Unit& unit, int n) const {
        uint64_t address = c_.address[unit.segment->leaf_start + n];
        return reinterpret_cast<const T*>(address + c_.layer_offset) + unit.head * head_items_;
    }

    void compute(const Unit& unit, const Unit* next, Stack& stack) {
        Scratch& s = scratch();
        int rows = unit.num_tokens * group_;
        int64_t first = unit.segment->first_position + unit.token_start;
        const float* q = gather_queries(unit, s.q);
        stack.reset(rows, c_.dim);
        for (int n = unit.leaf_from; n < unit.leaf_to; n++) {
            int64_t index = leaf(*unit.segment, n), before = first - index * c_.tokens;
            if (before + unit.num_tokens <= 0) {
                stack.fill_empty();
            } else {
                const T* ahead = n + 1 < unit.leaf_to ? block(unit, n + 1)
                    : next && next->leaf_from < next->leaf_to ? block(*next, next->leaf_from)
                    : nullptr;
                size_t slot = stack.nodes.size();
                float* out = stack.out(slot);
                LeafTask task{c_.dim, c_.tokens, rows, group_, before, c_.scale, q,
                              stack.lse(slot), out, stack.stride()};
                if (ahead) {
                    task.prefetch.at = reinterpret_cast<const char*>(ahead);
                    task.prefetch.end = reinterpret_cast<const char*>(ahead + head_items_);
                }
                attend_leaf(task, block(unit, n), s.leaf);
            }
            stack.push({0, index});
        }
    }

    const float* gather_queries(const Unit& unit, Buffer& buffer) const {
        int64_t per_token = int64_t(group_) * c_.dim;
        float* q = buffer.floats(unit.num_tokens * per_token);
        for (int t = 0; t < unit.num_tokens; t++) {
            int64_t row = unit.segment->row_start + unit.token_start + t;
            int64_t from = (row * c_.heads + unit.head * group_) * c_.dim;
            for (int64_t i = 0; i < per_token; i++) {
                q[t * per_token + i] =
                    c_.q_kind == FLOAT32 ? static_cast<const float*>(c_.q)[from + i]
                    : c_.q_kind == BFLOAT16 ? widen(static_cast<const Bf16*>(c_.q)[from + i])
                    : widen(static_cast<const Half*>(c_.q)[from + i]);
            }
        }
        return q;
    }

    void emit(const Unit& unit, Stack& stack) const {
        const SegmentRow& at = *unit.segment;
        for (size_t n = 0; n < stack.nodes.size(); n++) {
            const float *out = stack.out(n), *lse = stack.lse(n);
            for (int row = 0; row < stack.rows(); row++) {
                int64_t to = at.node_start + int64_t(n) * at.num_rows + unit.token_start;
                to = (to + row / group_) * c_.heads + unit.head * group_ + row % group_;
                std::memcpy(c_.out + to * c_.dim, out + row * stack.stride(),
                            c_.dim * sizeof(float));
                c_.lse[to] = lse[row];
            }
        }
    }

    // Continues the tree over the stacks of units that have only some of their segment's leaves.
    void join() {
        Stack& stack = scratch().stack;
        for (size_t u = 0; u < units_.size(); u++) {
            if (units_[u].whole) continue;
            if (units_[u].leaf_from == 0) stack.reset(stacks_[u].rows(), c_.dim);
            for (size_t n = 0; n < stacks_[u].nodes.size(); n++) {
                stack.copy_from(stacks_[u], n);
                stack.push(stacks_[u].nodes[n]);
            }
            if (units_[u].leaf_to == units_[u].segment->num_leaves) emit(units_[u], stack);
        }
    }

    const AttendCall& c_;
    const int group_;
    const int64_t head_items_;
    std::vector<Unit> units_;
    std::vector<Stack> stacks_;
    bool split_ = false;
    int64_t work_ = 0;
};

}  // namespace lk

extern "C" {

void lk_attend(const lk::AttendCall* call) {
    if (call->kv_kind == lk::FLOAT32) lk::Attend<float>(*call).run();
    else if (call->kv_kind == lk::BFLOAT16) lk::Attend<lk::Bf16>(*call).run();
    else lk::Attend<lk::Half>(*call).run();
}

// merges: (left, right, n) each; roots: (node row or -1, query row, n) each.
void lk_merge(const int32_t* merges, int32_t num_merges, const int32_t* roots, int32_t num_roots,
              int32_t heads, int32_t dim, float* rows_out, float* rows_lse, float* out,
              float* lse) {
    int64_t row_items = int64_t(heads) * dim;
    for (const int32_t* m = merges; m < merges + 3 * int64_t(num_merges); m += 3)
        lk::merge_rows(m[2] * heads, dim, rows_lse + int64_t(m[0]) * heads,
                       rows_out + m[0] * row_items, dim, rows_lse + int64_t(m[1]) * heads,
                       rows_out + m[1] * row_items, dim);
    for (const int32_t* r = roots; r < roots + 3 * int64_t(num_roots); r += 3) {
        float* to = out + r[1] * row_items;
        float* to_lse = lse + int64_t(r[1]) * heads;
        if (r[0] < 0) {
            std::fill_n(to, r[2] * row_items, 0.0f);
            std::fill_n(to_lse, int64_t(r[2]) * heads, lk::EMPTY);
        } else {
            std::memcpy(to, rows_out + r[0] * row_items, r[2] * row_items * sizeof(float));
            std::memcpy(to_lse, rows_lse + int64_t(r[0]) * heads, r[2] * heads * sizeof(float));
        }
    }
}

// What these sources were compiled for; part of the kernel's fingerprint.
const char* lk_instruction_set() {
#if defined(__AVX512F__)
    return "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
    return "avx2";
#else
    return "portable";
#endif
}

}  // extern "C"
