// Exact partial attention over rBlocks by address, and merging along the fixed tree.
//
// The interface is Kernel of engine/attention/base.py; a unit of work is some query rows of one
// segment with one KV head and a run of leaves.

#include <atomic>

#include "partial.h"
#include "threads.h"
#include "tiles.h"

namespace lk {

enum Kind { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

constexpr int UNIT_ROWS = 96;      // widening a block once serves this many rows; they fit the L2
constexpr int DIRECT_ROWS = 2 * TILE_ROWS;  // up to here widening while reading is cheaper
constexpr int CHUNKS_PER_THREAD = 4;
constexpr int64_t SMALL_WORK = 1 << 18;     // row-keys times dim not worth waking a thread for

struct SegmentRow { int32_t row_start, num_rows, first_position, leaf_start, num_leaves, node_start; };

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
    Buffer q, k, v, scores;
    Stack stack;
};

template <class T>
class Attend {
public:
    explicit Attend(const AttendCall& call)
        : c_(call), group_(call.heads / call.kv_heads), width_(round_up(call.tokens, LANES)),
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
        int64_t last = unit.segment->first_position + unit.token_start + unit.num_tokens - 1;
        const float* q = gather_queries(unit, s.q);
        stack.reset(rows, c_.dim);
        for (int n = unit.leaf_from; n < unit.leaf_to; n++) {
            int64_t index = leaf(*unit.segment, n);
            if (index * c_.tokens > last) {
                stack.fill_empty();
            } else {
                const T* ahead = n + 1 < unit.leaf_to ? block(unit, n + 1)
                    : next && next->leaf_from < next->leaf_to ? block(*next, next->leaf_from)
                    : nullptr;
                one_leaf(unit, q, rows, index, block(unit, n), ahead, s, stack);
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

    // Writes the stack's next slot: the partial of the unit's rows over one leaf.
    void one_leaf(const Unit& unit, const float* q, int rows, int64_t index, const T* keys,
                  const T* ahead, Scratch& s, Stack& stack) {
        int64_t first = unit.segment->first_position + unit.token_start - index * c_.tokens;
        int seen = int(std::min<int64_t>(c_.tokens, first + unit.num_tokens));
        const T* values = keys + int64_t(c_.tokens) * c_.dim;
        size_t slot = stack.nodes.size();
        float* out = stack.out(slot);
        Leaf leaf{first, seen, rows, q, stack.lse(slot), out, stack.stride()};
        if (ahead) {
            leaf.prefetch.at = reinterpret_cast<const char*>(ahead);
            leaf.prefetch.end = reinterpret_cast<const char*>(ahead + head_items_);
        }
        float* scores = s.scores.floats(TILE_ROWS * width_);
        bool direct = rows <= DIRECT_ROWS;
        float* k = s.k.floats(width_ * c_.dim);
        if constexpr (std::is_same_v<T, Bf16>) {
            if (direct && c_.dim % 32 == 0 && c_.tokens % LANES == 0) {
                auto* pairs = reinterpret_cast<uint32_t*>(k);
                transpose_key_pairs(keys, c_.tokens, c_.dim, pairs);
                tiles(leaf, Pairs{pairs, width_}, Rows<T>{values, c_.dim}, scores);
                return;
            }
        }
        transpose_keys(keys, seen, c_.dim, k, width_);
        Rows<float> k_DC{k, width_};
        if (c_.dim % LANES == 0 && (direct || std::is_same_v<T, float>))
            tiles(leaf, k_DC, Rows<T>{values, c_.dim}, scores);
        else
            tiles(leaf, k_DC, widened(values, seen, s.v), scores);
    }

    Rows<float> widened(const T* values, int seen, Buffer& buffer) const {
        int64_t stride = round_up(c_.dim, LANES);
        float* v = buffer.floats(seen * stride);
        for (int key = 0; key < seen; key++) {
            const T* from = values + int64_t(key) * c_.dim;
            float* to = v + key * stride;
            int d = 0;
            for (; d + LANES <= c_.dim; d += LANES) store(to + d, load(from + d));
            for (; d < c_.dim; d++) to[d] = widen(from[d]);
            for (; d < stride; d++) to[d] = 0.0f;
        }
        return {v, stride};
    }

    struct Leaf {
        int64_t first;  // keys before the first token's own, relative to the leaf; may be negative
        int seen;       // keys that any row sees
        int rows;
        const float* q;
        float* lse;
        float* out;
        int64_t stride;
        Prefetch prefetch{};
    };

    template <class K, class V>
    void tiles(Leaf& leaf, const K& k, const V& v, float* scores) {
        float scale[TILE_ROWS], inverse[TILE_ROWS], sums[UNIT_ROWS + 2 * LANES];
        std::fill_n(scale, TILE_ROWS, c_.scale * LOG2_E);
        for (int row = 0; row < leaf.rows;) {
            int left = leaf.rows - row;
            int num = left > TILE_ROWS && left <= 8 ? 4 : std::min(left, TILE_ROWS);
            int64_t visible = leaf.first + (row + num - 1) / group_ + 1;
            int depth = int(std::clamp<int64_t>(visible, 0, c_.tokens));
            float* out = leaf.out + row * leaf.stride;
            product(num, c_.dim, int(round_up(depth, LANES)), leaf.q + int64_t(row) * c_.dim,
                    c_.dim, k, scale, scores, width_, leaf.prefetch);
            for (int r = 0; r < num; r++) {
                int64_t own = leaf.first + (row + r) / group_ + 1;
                int keys = int(std::clamp<int64_t>(own, 0, c_.tokens));
                weights(scores + r * width_, keys, int(round_up(depth, LANES)),
                        &leaf.lse[row + r], &sums[row + r]);
                inverse[r] = 1.0f / sums[row + r];
            }
            product(num, depth, int(leaf.stride), scores, width_, v, inverse, out, leaf.stride,
                    leaf.prefetch);
            row += num;
        }
        for (int row = 0; row < leaf.rows; row += LANES) {
            int num = std::min(LANES, leaf.rows - row);
            Vec top, sum = set1(1.0f);
            top = sum;
            std::memcpy(&top, leaf.lse + row, num * sizeof(float));
            std::memcpy(&sum, sums + row, num * sizeof(float));
            Vec lse = fma(top, set1(0.6931471805599453f), ln(sum));
            std::memcpy(leaf.lse + row, &lse, num * sizeof(float));
        }
    }

    // Scores (base 2) become exp2(s - top) for the row's own keys and 0 for others.
    static LK_INLINE void weights(float* scores, int keys, int width, float* top, float* sum) {
        if (keys == 0) {
            std::fill_n(scores, width, 0.0f);
            *top = EMPTY;
            *sum = 1.0f;
            return;
        }
        const VecI lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        Vec highest = set1(EMPTY);
        for (int i = 0; i < width; i += LANES) {
            Vec score = load(scores + i);
            if (keys < i + LANES) {
                score = select(lane < keys - i, score, set1(EMPTY));
                store(scores + i, score);
            }
            highest = max(highest, score);
        }
        *top = max_lane(highest);
        Vec total = {};
        for (int i = 0; i < width; i += LANES) {
            Vec weight = exp2_of_negative(load(scores + i) - *top);
            store(scores + i, weight);
            total += weight;
        }
        *sum = sum_lanes(total);
    }

    void emit(const Unit& unit, Stack& stack) const {
        const SegmentRow& at = *unit.segment;
        for (size_t n = 0; n < stack.nodes.size(); n++) {
            const float *out = stack.out(n), *lse = stack.lse(n);
            for (int row = 0; row < stack.rows(); row++) {
                int64_t to = at.node_start + int64_t(n) * at.num_rows + unit.token_start + row / group_;
                to = to * c_.heads + unit.head * group_ + row % group_;
                std::memcpy(c_.out + to * c_.dim, out + row * stack.stride(), c_.dim * sizeof(float));
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
    const int64_t width_, head_items_;
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
              int32_t heads, int32_t dim, float* rows_out, float* rows_lse, float* out, float* lse) {
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
