// Exact partial attention over rBlocks by address, and merging along the fixed tree: what a team of
// threads does together.
//
// The interface is Kernel of engine/attention/base.py; a unit of work is some query rows of one
// segment with one KV head (all of them if the rows are few) and a run of leaves. The arithmetic is
// that of an instruction set, see routines.h.

#pragma once

#include "isa.h"
#include "partial.h"
#include "threads.h"
#include "widen.h"

namespace lk {

constexpr int UNIT_ROWS = 96;  // widening a block once serves this many rows; they fit the L2
constexpr int UNIT_ROWS_ABREAST = 192;  // as for these, which are half as wide, turning it does
constexpr int FEW_ROWS = 12;   // with so few to a head all heads, which lie together, share a unit
constexpr int CHUNKS_PER_THREAD = 4;
constexpr int64_t SMALL_WORK = 1 << 18;     // row-keys times dim not worth waking a thread for

struct SegmentRow {
    int32_t row_start, num_rows, first_position, leaf_start, num_leaves, node_start;
};

struct AttendCall {  // the same fields as AttendCall in engine/attention/native_calls.py
    const SegmentRow* segments;
    const int32_t* leaf_index;
    const uint64_t* address;
    const void* q;
    float* out;
    float* lse;
    int32_t num_segments, q_kind, kv_kind, heads, kv_heads, dim, tokens, num_threads, isa;
    float scale;
    int64_t head_bytes;
};

struct Unit {
    const SegmentRow* segment;
    int head, num_heads, token_start, num_tokens, leaf_from, leaf_to;
    bool whole;  // all of the segment's leaves; otherwise its stack is merged with its neighbours'
};

struct Scratch {
    Buffer q, abreast, leaf;
    Stack stack;
};

class Attend {
public:
    explicit Attend(const AttendCall& call)
        : c_(call), routines_(*routines_of(call.isa)), group_(call.heads / call.kv_heads),
          pairs_(call.q_kind == BFLOAT16 && call.kv_kind == BFLOAT16 &&
                 routines_.takes_pairs(call.dim, call.tokens)) {
        plan();
        if (split_) stacks_.resize(units_.size());
    }

    // Whether more than one thread is worth waking for it.
    bool is_small() const { return work_ < SMALL_WORK; }

    // All members call it with the layer's offset in a block; nobody leaves before all is done.
    void run(Team& team, int64_t layer_offset) {
        int num_units = int(units_.size());
        int chunks = std::min(num_units, is_small() ? 1 : c_.num_threads * CHUNKS_PER_THREAD);
        team.each(chunks, [&](int chunk) {
            int from = int(int64_t(num_units) * chunk / chunks);
            int to = int(int64_t(num_units) * (chunk + 1) / chunks);
            for (int u = from; u < to; u++) {
                Stack& stack = units_[u].whole ? scratch().stack : stacks_[u];
                const Unit* next = u + 1 < to ? &units_[u + 1] : nullptr;
                compute(units_[u], next, layer_offset, stack);
                if (units_[u].whole) emit(units_[u], stack);
            }
        });
        team.barrier();
        if (!split_) return;
        if (team.is_first()) join();
        team.barrier();
    }

private:
    static Scratch& scratch() {
        static thread_local Scratch scratch;
        return scratch;
    }

    int heads_of_unit(const SegmentRow& at) const {
        return at.num_rows * group_ <= FEW_ROWS ? c_.kv_heads : 1;
    }

    void plan() {
        bool abreast = pairs_ && routines_.abreast;
        int unit_tokens = std::max(1, (abreast ? UNIT_ROWS_ABREAST : UNIT_ROWS) / group_);
        int64_t count = 0;
        for (int s = 0; s < c_.num_segments; s++) {
            const SegmentRow& at = c_.segments[s];
            count += (at.num_rows + unit_tokens - 1) / unit_tokens * c_.kv_heads /
                     heads_of_unit(at);
            work_ += int64_t(at.num_rows) * at.num_leaves * c_.heads * c_.tokens * c_.dim;
        }
        split_ = c_.num_threads > 1 && work_ >= SMALL_WORK &&
                 count < c_.num_threads * CHUNKS_PER_THREAD;
        int parts = split_ ? int((c_.num_threads * CHUNKS_PER_THREAD + count - 1) / count) : 1;
        for (int s = 0; s < c_.num_segments; s++) {
            const SegmentRow& at = c_.segments[s];
            // Runs of leaves that end at multiples of 2^level, so that each is a subtree.
            int level = 31, num_heads = heads_of_unit(at);
            while (split_ && level > 1 && (at.num_leaves >> level) < parts) level--;
            for (int token = 0; token < at.num_rows; token += unit_tokens)
                for (int head = 0; head < c_.kv_heads; head += num_heads) {
                    int from = 0;
                    do {
                        int to = from;
                        while (to < at.num_leaves &&
                               leaf(at, to) >> level == leaf(at, from) >> level) to++;
                        int tokens = std::min(unit_tokens, at.num_rows - token);
                        units_.push_back({&at, head, num_heads, token, tokens, from, to,
                                          from == 0 && to == at.num_leaves});
                        from = to;
                    } while (from < at.num_leaves);
                }
        }
    }

    int64_t leaf(const SegmentRow& at, int n) const { return c_.leaf_index[at.leaf_start + n]; }

    const void* block(const Unit& unit, int n, int64_t layer_offset) const {
        uint64_t address = c_.address[unit.segment->leaf_start + n];
        return reinterpret_cast<const void*>(address + layer_offset + unit.head * c_.head_bytes);
    }

    void compute(const Unit& unit, const Unit* next, int64_t layer_offset, Stack& stack) {
        Scratch& s = scratch();
        int rows = unit.num_tokens * group_, all_rows = unit.num_heads * rows;
        int64_t first = unit.segment->first_position + unit.token_start;
        LeafTask task{};
        task.dim = c_.dim;
        task.tokens = c_.tokens;
        task.heads = unit.num_heads;
        task.rows = rows;
        task.group = group_;
        task.scale = std::fabs(c_.scale);
        task.pairs = pairs_;
        task.head_bytes = c_.head_bytes;
        const Abreast* abreast = abreast_of(unit);
        task.q = abreast ? queries_abreast(*abreast, unit) : gather_queries(unit, s.q);
        task.scratch = s.leaf.floats(routines_.scratch_floats(c_.dim, c_.tokens, all_rows));
        stack.reset(all_rows, c_.dim);
        for (int n = unit.leaf_from; n < unit.leaf_to; n++) {
            int64_t index = leaf(*unit.segment, n);
            task.before = first - index * c_.tokens;
            if (task.before + unit.num_tokens <= 0) {
                stack.fill_empty();
            } else {
                task.next = n + 1 < unit.leaf_to ? block(unit, n + 1, layer_offset)
                    : next && next->leaf_from < next->leaf_to
                    ? block(*next, next->leaf_from, layer_offset)
                    : nullptr;
                size_t slot = stack.nodes.size();
                task.out = stack.out(slot);
                task.lse = stack.lse(slot);
                task.stride = stack.stride();
                auto* attend = abreast ? abreast->attend_leaf : routines_.attend_leaf[c_.kv_kind];
                attend(task, block(unit, n, layer_offset));
            }
            stack.push({0, index}, merge_of(unit));
        }
    }

    // Another layout of a unit's queries and outputs, or null.
    const Abreast* abreast_of(const Unit& unit) const {
        bool many = unit.num_tokens * group_ > FEW_ROWS;
        return pairs_ && many ? routines_.abreast : nullptr;
    }
    MergeRows merge_of(const Unit& unit) const {
        const Abreast* abreast = abreast_of(unit);
        return abreast ? abreast->merge : routines_.merge_rows;
    }

    const void* queries_abreast(const Abreast& abreast, const Unit& unit) const {
        Scratch& s = scratch();
        int rows = unit.num_tokens * group_, padded = int(round_up(rows, LANES));
        s.q.floats(int64_t(padded) * c_.dim);
        auto* q = static_cast<uint16_t*>(gather_queries(unit, s.q));
        std::fill_n(q + int64_t(rows) * c_.dim, int64_t(padded - rows) * c_.dim, 0);
        float* to = s.abreast.floats(int64_t(padded) * c_.dim / 2);
        abreast.queries(padded, c_.dim, q, to);
        return to;
    }

    // [heads, rows, dim]: bfloat16 as they are where they stay so, otherwise in float32. A negative
    // scale is theirs.
    void* gather_queries(const Unit& unit, Buffer& buffer) const {
        int64_t per_token = int64_t(group_) * c_.dim, to = 0;
        float* q = buffer.floats(unit.num_heads * unit.num_tokens * per_token);
        for (int head = unit.head; head < unit.head + unit.num_heads; head++)
            for (int t = 0; t < unit.num_tokens; t++) {
                int64_t row = unit.segment->row_start + unit.token_start + t;
                int64_t from = row * c_.heads * c_.dim + head * per_token;
                for (int64_t i = from; i < from + per_token; i++, to++) put_query(q, to, i);
            }
        return q;
    }

    void put_query(float* q, int64_t to, int64_t from) const {
        bool negative = c_.scale < 0;
        if (pairs_) {
            uint16_t item = static_cast<const uint16_t*>(c_.q)[from];
            reinterpret_cast<uint16_t*>(q)[to] = negative ? item ^ 0x8000 : item;
            return;
        }
        float item = c_.q_kind == FLOAT32 ? static_cast<const float*>(c_.q)[from]
            : c_.q_kind == BFLOAT16 ? widen(static_cast<const Bf16*>(c_.q)[from])
            : widen(static_cast<const Half*>(c_.q)[from]);
        q[to] = negative ? -item : item;
    }

    void emit(const Unit& unit, Stack& stack) const {
        const SegmentRow& at = *unit.segment;
        int rows = unit.num_tokens * group_;
        const Abreast* abreast = abreast_of(unit);
        for (size_t n = 0; n < stack.nodes.size(); n++) {
            if (abreast)
                abreast->rows(rows, c_.dim, stack.out(n), scratch().q.floats(LANES * c_.dim));
            const float *out = stack.out(n), *lse = stack.lse(n);
            for (int row = 0; row < stack.rows(); row++) {
                int head = unit.head + row / rows, of_head = row % rows;
                int64_t to = at.node_start + int64_t(n) * at.num_rows + unit.token_start;
                to = (to + of_head / group_) * c_.heads + head * group_ + of_head % group_;
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
                stack.push(stacks_[u].nodes[n], merge_of(units_[u]));
            }
            if (units_[u].leaf_to == units_[u].segment->num_leaves) emit(units_[u], stack);
        }
    }

    const AttendCall& c_;
    const Routines& routines_;
    const int group_;
    const bool pairs_;
    std::vector<Unit> units_;
    std::vector<Stack> stacks_;
    bool split_ = false;
    int64_t work_ = 0;
};

struct MergeCall {  // the same fields as MergeCall in engine/attention/native_calls.py
    const int32_t* merges;  // (left, right, n) each
    const int32_t* roots;   // (node row or -1, query row, n) each
    float *rows_out, *rows_lse, *out, *lse;
    int32_t num_merges, num_roots, heads, dim, isa;
};

// Runs a merge program. Each member does its share of every entry's rows and heads, so what an
// entry needs of earlier ones is its own work.
inline void merge(Team& team, const MergeCall& call) {
    MergeRows merge_rows = routines_of(call.isa)->merge_rows;
    int64_t heads = call.heads, dim = call.dim;
    for (const int32_t* m = call.merges; m < call.merges + 3 * int64_t(call.num_merges); m += 3) {
        auto [from, to] = team.share(m[2] * call.heads, 1);
        int64_t left = m[0] * heads + from, right = m[1] * heads + from;
        merge_rows(to - from, call.dim, call.rows_lse + left, call.rows_out + left * dim, dim,
                   call.rows_lse + right, call.rows_out + right * dim, dim);
    }
    for (const int32_t* r = call.roots; r < call.roots + 3 * int64_t(call.num_roots); r += 3) {
        auto [from, to] = team.share(r[2] * call.heads, 1);
        float* out = call.out + (r[1] * heads + from) * dim;
        float* lse = call.lse + r[1] * heads + from;
        if (r[0] < 0) {
            std::fill_n(out, (to - from) * dim, 0.0f);
            std::fill_n(lse, to - from, EMPTY);
        } else {
            int64_t row = r[0] * heads + from;
            std::memcpy(out, call.rows_out + row * dim, (to - from) * dim * sizeof(float));
            std::memcpy(lse, call.rows_lse + row, (to - from) * sizeof(float));
        }
    }
}

}  // namespace lk
