// The forward pass of a step, all layers in one call; attention too where it is this library's.

#include <optional>

#include "attention_step.h"
#include "decoder.h"

namespace lk {

struct ForwardCall {  // the same fields as _ForwardCall in engine/model/native_llama.py
    const LayerWeights* layers;
    AttentionStep* attention;  // null: the caller attends
    const Bf16* embed;         // [vocab, size]
    const float *cos, *sin;    // [num_positions, dim / 2]
    const int64_t *token_ids, *positions;  // [rows]
    float* hidden;             // [rows, size]
    float* attended;           // [rows, heads * dim]
    Bf16 *q, *k, *v;           // [rows, heads or kv_heads, dim]
    int32_t vocab, num_positions;
    int32_t num_layers, rows, size, heads, kv_heads, dim, mlp, num_threads, int8;
    int32_t layer;  // whose attention the caller is to do, or has done; -1 at first
    float eps;
};

#if defined(LK_HAS_DECODER)

class Forward {
public:
    explicit Forward(ForwardCall& call) : c_(call) {
        static thread_local Buffer mixed, inputs;
        int deepest = std::max({c_.size, c_.heads * c_.dim, c_.mlp});
        common_ = {reinterpret_cast<Bf16*>(mixed.floats(int64_t(c_.rows) * c_.mlp / 2 + LANES)),
                   inputs.floats(Inputs::floats(c_.int8 != 0, c_.rows, deepest))};
        if (c_.attention) attention_.emplace(*c_.attention);
    }

    // The rows' hidden states before the first layer; false where a token or position is none.
    bool embed() {
        for (int t = 0; t < c_.rows; t++) {
            int64_t token = c_.token_ids[t], position = c_.positions[t];
            if (token < 0 || token >= c_.vocab || position < 0 || position >= c_.num_positions)
                return false;
            const Bf16* from = c_.embed + token * c_.size;
            float* to = c_.hidden + int64_t(t) * c_.size;
            for (int i = 0; i < c_.size; i++) to[i] = widen(from[i]);
        }
        return true;
    }

    // From behind one layer's attention to the next one that is the caller's, or to the end.
    void run() {
        int last = attention_ ? c_.num_layers - 1 : c_.layer, stop = last + 1;
        bool waited = attention_ && c_.attention->waits;
        Threads::together(c_.num_threads, [&](Team& team) {
            if (waited) attention_->merge(team);
            for (int layer = c_.layer; layer <= last; layer++) {
                if (run(team, layer)) continue;
                if (team.is_first()) stop = layer + 1;
                return;
            }
        });
        c_.layer = stop;
    }

private:
    // False when the attention behind it is not complete.
    bool run(Team& team, int layer) {
        bool is_last = layer + 1 == c_.num_layers;
        BetweenCall call{layer < 0 ? nullptr : c_.layers + layer,
                         is_last ? nullptr : c_.layers + layer + 1,
                         c_.hidden, c_.attended, c_.cos, c_.sin, c_.positions, c_.q, c_.k, c_.v,
                         c_.rows, c_.size, c_.heads, c_.kv_heads, c_.dim, c_.mlp, c_.int8, c_.eps};
        Between between(call, common_);
        between.run(team);
        if (!attention_ || is_last) return true;
        auto [first, last] = between.heads(team);
        attention_->store(layer + 1, first, last, c_.k, c_.v);
        team.barrier();
        return attention_->run(team, layer + 1);
    }

    ForwardCall& c_;
    Common common_;
    std::optional<StepAttention> attention_;
};

#endif

}  // namespace lk

extern "C" {

// Whether this library was compiled for a processor that it has a forward pass for.
int32_t lk_has_forward() {
#if defined(LK_HAS_DECODER)
    return 1;
#else
    return 0;
#endif
}

// Whether its weights may be 8-bit integers.
int32_t lk_has_int8() {
#if defined(LK_HAS_INT8)
    return 1;
#else
    return 0;
#endif
}

#if defined(LK_HAS_DECODER)
// False where a token or a position is none of the model's.
bool lk_forward(lk::ForwardCall* call) {
    lk::Forward forward(*call);
    if (call->layer < 0 && !forward.embed()) return false;
    forward.run();
    return true;
}
void lk_logits(const lk::LogitsCall* call) { lk::logits(*call); }
#endif

}  // extern "C"
