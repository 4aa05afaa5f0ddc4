// Partials (out, lse) of many rows: merging two, and a stack that follows the fixed tree.
//
// The tree and its order are those of engine/attention/tree.py.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "simd.h"

namespace lk {

constexpr float EMPTY = -std::numeric_limits<float>::infinity();
constexpr float LOG2_E = 1.4426950408889634f;

LK_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Grows, keeps its bytes, is aligned to a cache line.
class Buffer {
public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept { swap(other); return *this; }
    ~Buffer() { std::free(data_); }
    float* floats(size_t count) {
        if (count > count_) {
            size_t grown = size_t(round_up(int64_t(std::max(count, count_ * 2)), 16));
            auto* data = static_cast<float*>(std::aligned_alloc(64, grown * sizeof(float)));
            if (!data) std::abort();
            if (count_) std::memcpy(data, data_, count_ * sizeof(float));
            std::free(data_);
            data_ = data;
            count_ = grown;
        }
        return data_;
    }

private:
    void swap(Buffer& other) { std::swap(data_, other.data_); std::swap(count_, other.count_); }
    float* data_ = nullptr;
    size_t count_ = 0;
};

// Rows of a become the merge of a (left) and b (right).
//     lse = top + ln(1 + w),  w = exp(low - top);  the higher side weighs 1 / (1 + w)
// An empty side leaves the other's bits as they are.
inline void merge_rows(int count, int dim, float* lse_a, float* out_a, int64_t stride_a,
                       const float* lse_b, const float* out_b, int64_t stride_b) {
    for (int start = 0; start < count; start += LANES) {
        int rows = std::min(LANES, count - start);
        Vec a = set1(EMPTY), b = a;
        std::memcpy(&a, lse_a + start, rows * sizeof(float));
        std::memcpy(&b, lse_b + start, rows * sizeof(float));
        VecI left_higher = a >= b;
        Vec top = select(left_higher, a, b), low = select(left_higher, b, a);
        Vec weight = exp2_of_negative((low - top) * LOG2_E);  // NaN if both are empty: then 0
        Vec total = 1.0f + weight;
        Vec merged = select(low == EMPTY, top, top + ln(total));
        Vec high_share = 1.0f / total, low_share = weight / total;
        Vec share_a = select(left_higher, high_share, low_share);
        Vec share_b = select(left_higher, low_share, high_share);
        std::memcpy(lse_a + start, &merged, rows * sizeof(float));
        for (int row = 0; row < rows; row++) {
            float* to = out_a + (start + row) * stride_a;
            const float* from = out_b + (start + row) * stride_b;
            if (b[row] == EMPTY) continue;
            if (a[row] == EMPTY) {
                std::memcpy(to, from, dim * sizeof(float));
                continue;
            }
            Vec wa = set1(share_a[row]), wb = set1(share_b[row]);
            int d = 0;
            for (; d + LANES <= dim; d += LANES)
                store(to + d, fma(wa, load(to + d), wb * load(from + d)));
            for (; d < dim; d++)
                to[d] = __builtin_fmaf(share_a[row], to[d], share_b[row] * from[d]);
        }
    }
}

struct Node {
    int level;
    int64_t index;
};

// The partials of the nodes met so far, merged as far as the tree allows (``cover``).
class Stack {
public:
    void reset(int rows, int dim) {
        rows_ = rows;
        dim_ = dim;
        stride_ = round_up(dim, LANES);
        slot_ = round_up(rows, LANES) * (stride_ + 1);
        nodes.clear();
    }
    int64_t stride() const { return stride_; }
    int rows() const { return rows_; }
    // Slot n's rows; slot nodes.size() is where the next partial is to be written. Room for whole
    // vectors: rows are padded to 16. A later call may move earlier slots.
    float* out(size_t n) { return buffer_.floats((n + 1) * slot_) + n * slot_; }
    float* lse(size_t n) { return out(n) + slot_ - round_up(rows_, LANES); }

    void fill_empty() {
        float* to = out(nodes.size());
        std::fill_n(to, slot_, 0.0f);
        std::fill_n(lse(nodes.size()), rows_, EMPTY);
    }
    void copy_from(Stack& other, size_t n) {
        out(nodes.size());
        std::memcpy(out(nodes.size()), other.out(n), slot_ * sizeof(float));
    }
    // The next slot has been written: it is this node.
    void push(Node node) {
        while ((node.index & 1) && !nodes.empty() && nodes.back().level == node.level &&
               nodes.back().index == node.index - 1) {
            size_t at = nodes.size();
            merge_rows(rows_, dim_, lse(at - 1), out(at - 1), stride_, lse(at), out(at), stride_);
            nodes.pop_back();
            node = {node.level + 1, node.index >> 1};
        }
        nodes.push_back(node);
    }

    std::vector<Node> nodes;

private:
    int rows_ = 0, dim_ = 0;
    int64_t stride_ = 0, slot_ = 0;
    Buffer buffer_;
};

}  // namespace lk
