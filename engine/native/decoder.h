// A decoder layer but for its attention: what comes behind one layer's attention and before the next
// one's. Weights are bfloat16 or 8-bit integers (matrix.h).
//
// The hidden state is float32, products take bfloat16 and give float32. A row's bits depend on
// nothing beside it.

#pragma once

#include "matrix.h"
#include "partial.h"
#include "threads.h"
#include "wide.h"

namespace lk {

struct LayerWeights {  // the same fields as _LayerWeights in engine/model/native_llama.py
    const float *attn_norm, *mlp_norm;
    const void *qkv, *out, *gate_up, *down;  // the data of a Part, as the head is
    const Bf16* qkv_bias;                    // or null
    const float* qk_norm;                    // [heads + kv_heads, dim] or null
};

struct BetweenCall {
    const LayerWeights* done;  // the layer whose attention has ended; null: there is none
    const LayerWeights* next;  // the layer to come, or null
    float* hidden;             // [rows, size]
    const float* attended;     // [rows, heads * dim], of ``done``
    const float *cos, *sin;    // [positions, dim / 2]
    const int64_t* positions;  // of the rows
    Bf16 *q, *k, *v;           // [rows, heads or kv_heads, dim], of ``next``
    int32_t rows, size, heads, kv_heads, dim, mlp, int8;
    float eps;
};

struct LogitsCall {  // the same fields as _LogitsCall
    const float* hidden;      // [.., size]
    const int64_t* row_ids;   // whose logits are wanted
    const float* norm;
    const void* head;  // [vocab, size]
    float* logits;     // [rows, vocab]
    int32_t rows, size, vocab, num_threads, int8;
    float eps;
};

#if defined(LK_HAS_DECODER)

constexpr int UNIT_OUTPUTS = 2 * LANES;  // a member's share: whole panels
constexpr int MANY_ROWS = 64, PARTS_OF_MANY = 4;  // with many, cores that are slow take less of them

LK_INLINE void store_bf16(Bf16* to, Wide x) {
#if defined(__AVX512BF16__)
    __m256bh narrow = _mm512_cvtneps_pbh((__m512)x);
#else
    WideU bits = (WideU)x, nearest = bits + 0x7fff + (bits >> 16 & 1);  // ties to even
    bits = (WideU)select(x == x, (Wide)nearest, (Wide)(bits | 0x400000));
    WideH narrow = __builtin_convertvector(bits >> 16, WideH);
#endif
    std::memcpy(to, &narrow, sizeof narrow);
}

LK_INLINE Bf16 narrow(float x) {
    Bf16 to[WIDE];
    store_bf16(to, set_wide(x));
    return to[0];
}

inline void narrow(const float* x, int64_t count, Bf16* to) {
    int64_t i = 0;
    for (; i + WIDE <= count; i += WIDE) store_bf16(to + i, load_wide(x + i));
    for (; i < count; i++) to[i] = narrow(x[i]);
}

// to = x / sqrt(mean(x^2) + eps) * weight
inline void rms_norm(const float* x, const float* weight, int size, float eps, Bf16* to) {
    Wide squares[PARTS] = {};
    int i = 0;
    for (; i + LANES <= size; i += LANES)
        for (int p = 0; p < PARTS; p++) {
            Wide part = load_wide(x + i + p * WIDE);
            squares[p] = fma(part, part, squares[p]);
        }
    float sum = sum_lanes(squares);
    for (; i < size; i++) sum += x[i] * x[i];
    float factor = 1.0f / std::sqrt(sum / float(size) + eps);
    for (i = 0; i + WIDE <= size; i += WIDE)
        store_bf16(to + i, load_wide(x + i) * factor * load_wide(weight + i));
    for (; i < size; i++) to[i] = narrow(x[i] * factor * weight[i]);
}

// x / (1 + exp(-x)), with one division
LK_INLINE Wide silu(Wide x) {
    WideI negative = x <= 0.0f;
    Wide power = exp2_of_negative(select(negative, x, -x) * LOG2_E);
    return x * select(negative, power, set_wide(1.0f)) / (1.0f + power);
}

// to = silu(gate) * up
inline void gated(const float* gate, const float* up, int count, Bf16* to) {
    int i = 0;
    for (; i + WIDE <= count; i += WIDE)
        store_bf16(to + i, silu(load_wide(gate + i)) * load_wide(up + i));
    for (; i < count; i++) to[i] = narrow(silu(set_wide(gate[i]))[0] * up[i]);
}

// What a team has in common.
struct Common {
    Bf16* mixed;    // [rows, mlp]
    float* inputs;  // room for those of any matrix
};

// One member's work.
class Between {
public:
    Between(const BetweenCall& call, const Common& common) : c_(call), common_(common) {}

    void run(Team& team) {
        if (c_.done) {
            after(team);
            if (c_.next) team.barrier();
        }
        if (c_.next) before(team);
    }

    // The heads, those of queries, keys and values in a row, that are this member's.
    std::pair<int, int> heads(Team& team) const {
        return team.share(c_.heads + 2 * c_.kv_heads, 1);
    }

private:
    struct Scratch {
        Buffer narrow, wide, inputs;
    };
    static Scratch& scratch() {
        static thread_local Scratch scratch;
        return scratch;
    }
    Bf16* narrow_rows(int64_t width) {
        return reinterpret_cast<Bf16*>(scratch().narrow.floats(c_.rows * width / 2 + LANES));
    }
    const Bf16* normed(const float* norm) {
        Bf16* to = narrow_rows(c_.size);
        for (int t = 0; t < c_.rows; t++)
            rms_norm(c_.hidden + int64_t(t) * c_.size, norm, c_.size, c_.eps,
                     to + int64_t(t) * c_.size);
        return to;
    }

    // ``x`` [rows, depth] as the matrices take it: of many rows each member takes its share. All
    // call it, none before the inputs of another matrix are done with.
    Inputs inputs(Team& team, const Bf16* x, int depth) {
        bool int8 = c_.int8 != 0, together = int8 && c_.rows >= MANY_ROWS;
        Inputs made(x, int8, c_.rows, depth,
                    together ? common_.inputs
                             : scratch().inputs.floats(Inputs::floats(int8, c_.rows, depth)));
        auto [from, to] = together ? team.share(c_.rows, 1) : std::pair{0, int(c_.rows)};
        made.take(depth, from, to);
        if (together) team.barrier();
        return made;
    }

    // A member's outputs of each matrix.
    Part part(const void* w, std::pair<int, int> outputs, int depth) const {
        return {w, c_.int8 != 0, outputs.first, outputs.second, depth};
    }
    Part out_of(const LayerWeights& layer, Team& team) const {
        return part(layer.out, team.share(c_.size, UNIT_OUTPUTS), c_.heads * c_.dim);
    }
    Part qkv_of(const LayerWeights& layer, Team& team) const {
        auto [first, last] = heads(team);
        return part(layer.qkv, {first * c_.dim, last * c_.dim}, c_.size);
    }

    // hidden += x w^T
    void add(const Part& w, const Inputs& x, const Part& then) {
        int64_t width = w.to - w.from;
        float* y = scratch().wide.floats(c_.rows * width + 1);
        dots(w, x, c_.rows, y - w.from, width, then);
        for (int t = 0; t < c_.rows; t++) {
            float* hidden = c_.hidden + int64_t(t) * c_.size + w.from;
            for (int64_t o = 0; o < width; o++) hidden[o] += y[t * width + o];
        }
    }

    void after(Team& team) {
        int parts = c_.rows < MANY_ROWS ? 1 : PARTS_OF_MANY, depth = c_.heads * c_.dim;
        auto gate_of = [&](int from, int to) { return part(c_.done->gate_up, {from, to}, c_.size); };
        auto down_of = [&](int from, int to) { return part(c_.done->down, {from, to}, c_.mlp); };
        auto [first_gate, last_gate] = team.share(c_.mlp, UNIT_OUTPUTS);
        auto [first_down, last_down] = team.share(c_.size, UNIT_OUTPUTS);
        Bf16* attended = narrow_rows(depth);
        narrow(c_.attended, int64_t(c_.rows) * depth, attended);
        Inputs x = inputs(team, attended, depth);
        team.share_out(c_.size, UNIT_OUTPUTS, parts, [&](int from, int to) {
            add(part(c_.done->out, {from, to}, depth), x, gate_of(first_gate, last_gate));
        });
        team.barrier();

        Inputs y = inputs(team, normed(c_.done->mlp_norm), c_.size);
        team.share_out(c_.mlp, UNIT_OUTPUTS, parts, [&](int from, int to) {
            Part gate = gate_of(from, to), up = gate_of(c_.mlp + from, c_.mlp + to);
            int64_t width = to - from;
            float* gates = scratch().wide.floats(2 * c_.rows * width + 1);
            float* ups = gates + c_.rows * width;
            dots(gate, y, c_.rows, gates - gate.from, width, up);
            dots(up, y, c_.rows, ups - up.from, width, down_of(first_down, last_down));
            for (int t = 0; t < c_.rows; t++)
                gated(gates + t * width, ups + t * width, int(width),
                      common_.mixed + int64_t(t) * c_.mlp + from);
        });
        team.barrier();
        Inputs mixed = inputs(team, common_.mixed, c_.mlp);
        Part then = c_.next ? qkv_of(*c_.next, team) : Part{};
        team.share_out(c_.size, UNIT_OUTPUTS, parts,
                       [&](int from, int to) { add(down_of(from, to), mixed, then); });
    }

    void before(Team& team) {
        Inputs x = inputs(team, normed(c_.next->attn_norm), c_.size);
        int dim = c_.dim;
        auto [first, last] = heads(team);
        Part qkv = qkv_of(*c_.next, team);
        int64_t width = qkv.to - qkv.from;
        float* y = scratch().wide.floats(c_.rows * width + dim + 1);
        float* turned = y + c_.rows * width;
        dots(qkv, x, c_.rows, y - qkv.from, width, out_of(*c_.next, team));
        for (int t = 0; t < c_.rows; t++)
            for (int head = first; head < last; head++) {
                float* values = y + t * width + (head - first) * dim;
                if (c_.next->qkv_bias)
                    for (int d = 0; d < dim; d++) values[d] += widen(c_.next->qkv_bias[head * dim + d]);
                store_head(t, head, values, turned);
            }
    }

    void store_head(int t, int head, float* values, float* turned) {
        int dim = c_.dim, num_rotated = c_.heads + c_.kv_heads;
        if (head >= num_rotated) {
            narrow(values, dim, c_.v + (int64_t(t) * c_.kv_heads + head - num_rotated) * dim);
            return;
        }
        if (c_.next->qk_norm) {
            float squares = 0;
            for (int d = 0; d < dim; d++) squares = __builtin_fmaf(values[d], values[d], squares);
            float factor = 1.0f / std::sqrt(squares / float(dim) + c_.eps);
            for (int d = 0; d < dim; d++) values[d] *= factor * c_.next->qk_norm[head * dim + d];
        }
        int half = dim / 2;
        const float* cos = c_.cos + c_.positions[t] * half;
        const float* sin = c_.sin + c_.positions[t] * half;
        for (int d = 0; d < half; d++) {
            float low = values[d], high = values[d + half];
            turned[d] = __builtin_fmaf(high, -sin[d], low * cos[d]);
            turned[d + half] = __builtin_fmaf(low, sin[d], high * cos[d]);
        }
        narrow(turned, dim,
               head < c_.heads ? c_.q + (int64_t(t) * c_.heads + head) * dim
                               : c_.k + (int64_t(t) * c_.kv_heads + head - c_.heads) * dim);
    }

    const BetweenCall& c_;
    const Common common_;
};

void logits(const LogitsCall& call) {
    static thread_local Buffer normed;
    auto* x = reinterpret_cast<Bf16*>(normed.floats(int64_t(call.rows) * call.size / 2 + LANES));
    for (int t = 0; t < call.rows; t++)
        rms_norm(call.hidden + call.row_ids[t] * call.size, call.norm, call.size, call.eps,
                 x + int64_t(t) * call.size);
    static thread_local Buffer room;
    bool int8 = call.int8 != 0;
    Inputs inputs(x, int8, call.rows, call.size,
                  room.floats(Inputs::floats(int8, call.rows, call.size)));
    inputs.take(call.size, 0, call.rows);
    Threads::together(call.num_threads, [&](Team& team) {
        auto [from, to] = team.share(call.vocab, UNIT_OUTPUTS);
        dots(Part{call.head, int8, from, to, call.size}, inputs, call.rows, call.logits,
             call.vocab);
    });
}

#endif

}  // namespace lk
