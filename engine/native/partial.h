// Partials (out, lse) of many rows: a stack that merges them along the fixed tree.
//
// The tree and its order are those of engine/attention/tree.py.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "routines.h"

namespace lk {

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
    void push(Node node, MergeRows merge_rows) {
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
