// The forward pass of a step, all layers in one call; attention too where it is this library's.

#include <optional>

#include "attention_step.h"
#include "decoder.h"

namespace lk {

struct ForwardCall {  // the same fields as _ForwardCall in engine/model/native_llama.py
    const LayerWeights* layers;
    AttentionStep* attention;  // null: the caller attends
    float* hidden;             // [rows, size]
    const float *cos, *sin;    // [rows, dim]; sin with its sign
    float* attended;           // [rows, heads * dim]
    Bf16 *q, *k, *v;           // [rows, heads or kv_heads, dim]
    int32_t num_layers, rows, size, heads, kv_heads, dim, mlp, num_threads, int8;
    int32_t layer;  // whose attention the caller is to do, or has done; -1 at first
    float eps;
};

#if defined(LK_HAS_DECODER)

class Forward {
public:
    explicit Forward(ForwardCall& call) : c_(call) {
        static thread_local Buffer mixed;
        mixed_ = reinterpret_cast<Bf16*>(mixed.floats(int64_t(c_.rows) * c_.mlp / 2 + LANES));
        if (c_.attention) attention_.emplace(*c_.attention);
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
                         c_.hidden, c_.attended, c_.cos, c_.sin, c_.q, c_.k, c_.v,
                         c_.rows, c_.size, c_.heads, c_.kv_heads, c_.dim, c_.mlp, c_.int8, c_.eps};
        Between between(call, mixed_);
        between.run(team);
        if (!attention_ || is_last) return true;
        auto [first, last] = between.heads(team);
        attention_->store(layer + 1, first, last, c_.k, c_.v);
        team.barrier();
        return attention_->run(team, layer + 1);
    }

    ForwardCall& c_;
    Bf16* mixed_;
    std::optional<StepAttention> attention_;
};

#endif

}  // namespace lk

extern "C" {

// Whether this library was compiled for a processor that multiplies bfloat16 and bytes.
int32_t lk_has_forward() {
#if defined(LK_HAS_DECODER)
    return 1;
#else
    return 0;
#endif
}

#if defined(LK_HAS_DECODER)
void lk_forward(lk::ForwardCall* call) { lk::Forward(*call).run(); }
void lk_logits(const lk::LogitsCall* call) { lk::logits(*call); }
#endif

}  // extern "C"
