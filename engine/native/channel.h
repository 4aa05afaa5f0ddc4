// What a step and a pool say in the middle of a layer, over whatever lies between them. Everything
// else is Python's to say and to hear.

#pragma once

#include <variant>

#include "ring.h"
#include "stream.h"

namespace lk {

struct NativeChannel {  // the same fields as NativeChannel in engine/comm/base.py
    Rings* rings;  // one of the two is null
    Stream* stream;
};

template <class OfRings, class OfStream>
std::variant<OfRings, OfStream> end_of(NativeChannel& channel) {
    if (channel.rings) return OfRings(*channel.rings);
    return OfStream(*channel.stream);
}

class Writer {
public:
    explicit Writer(NativeChannel& channel) : end_(end_of<RingWriter, StreamWriter>(channel)) {}

    bool has_room(Bytes head, int64_t body_bytes) {
        return std::visit([&](auto& end) { return end.has_room(head, body_bytes); }, end_);
    }
    // A message whose body ``fill`` writes; false when there is no room for it now.
    template <class Fill>
    bool write(Bytes head, int64_t body_bytes, const Fill& fill) {
        return std::visit([&](auto& end) { return end.write(head, body_bytes, fill); }, end_);
    }

    // Whether nothing is left that Python is to send.
    bool is_done() const {
        return std::visit([](auto& end) { return end.is_done(); }, end_);
    }

private:
    std::variant<RingWriter, StreamWriter> end_;
};

class Reader {
public:
    explicit Reader(NativeChannel& channel) : end_(end_of<RingReader, StreamReader>(channel)) {}

    // Whether the next message has this head and a body of this length.
    Found look(Bytes head, int64_t body_bytes) {
        return std::visit([&](auto& end) { return end.look(head, body_bytes); }, end_);
    }
    // Of the message that was found; until ``take``.
    const char* body() const {
        return std::visit([](auto& end) { return end.body(); }, end_);
    }
    void take() {
        std::visit([](auto& end) { end.take(); }, end_);
    }
    // Before and after sleeping until ``fd`` has news: true when something is there already; false
    // when the other side is gone.
    bool fall_asleep() {
        return std::visit([](auto& end) { return end.fall_asleep(); }, end_);
    }
    bool wake_up() {
        return std::visit([](auto& end) { return end.wake_up(); }, end_);
    }
    int fd() const {
        return std::visit([](auto& end) { return end.fd(); }, end_);
    }
    // Whether nothing lies there that was not taken.
    bool is_empty() const {
        return std::visit([](auto& end) { return end.is_empty(); }, end_);
    }

private:
    std::variant<RingReader, StreamReader> end_;
};

}  // namespace lk
