// A few threads that work together; made on first use, once a process, never ended.

#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "clock.h"

namespace lk {

constexpr int SPINS = 20000;  // looks at a flag before sleeping: some 100 us

// One of some threads that work on the same thing at the same time, and wait for each other.
class Team {
public:
    struct Meeting {
        std::atomic<int> arrived{0}, next{0};
    };

    Team(int member, int size, Meeting& meeting)
        : member_(member), size_(size), meeting_(meeting) {}

    bool is_first() const { return member_ == 0; }

    // This member's part of [0, count), in whole units but for the end.
    std::pair<int, int> share(int count, int unit) const {
        return part_of(count, unit, member_, size_);
    }
    // Runs task(from, to) for parts of [0, count), as ``share`` or, where they are worth it,
    // ``parts`` for each member: a slow core then takes fewer. All call it, and meet behind it.
    template <class Task>
    void share_out(int count, int unit, int parts, const Task& task) {
        if (parts == 1 || size_ == 1) {
            auto [from, to] = share(count, unit);
            return task(from, to);
        }
        each(parts * size_, [&](int i) {
            auto [from, to] = part_of(count, unit, i, parts * size_);
            task(from, to);
        });
    }
    // Nobody goes on before all are here.
    void barrier() {
        if (size_ == 1) return;
        num_met_ += size_;
        meeting_.arrived.fetch_add(1, std::memory_order_acq_rel);
        for (int i = 0; meeting_.arrived.load(std::memory_order_acquire) < num_met_; i++)
            i < SPINS ? pause() : std::this_thread::yield();
    }
    // Runs task(0) ... task(count - 1), each on whoever is free. All members call it.
    template <class Task>
    void each(int count, const Task& task) {
        for (int i; (i = meeting_.next++ - taken_) < count;) task(i);
        taken_ += count + size_;  // each member took one too many
    }

private:
    static std::pair<int, int> part_of(int count, int unit, int i, int parts) {
        int units = (count + unit - 1) / unit;
        return {std::min(count, int(int64_t(units) * i / parts) * unit),
                std::min(count, int(int64_t(units) * (i + 1) / parts) * unit)};
    }

    int member_, size_, num_met_ = 0, taken_ = 0;
    Meeting& meeting_;
};

class Threads {
public:
    // task(team), once on each of num_threads threads; fewer when others of the process compute.
    static void together(int num_threads, const std::function<void(Team&)>& task) {
        Team::Meeting meeting;
        if (num_threads > 1) {
            Threads& pool = of_this_process();
            std::unique_lock busy(pool.busy_, std::try_to_lock);
            if (busy && pool.start(num_threads - 1)) {
                pool.run_shared(num_threads, [&](int member) {
                    Team team(member, num_threads, meeting);
                    task(team);
                });
                return;
            }
        }
        Team alone(0, 1, meeting);
        task(alone);
    }

private:
    // A forked child has none of its parent's threads: it gets a pool of its own. Pools are leaked
    // on purpose, their threads may outlive every destructor.
    static Threads& of_this_process() {
        static std::atomic<Threads*> current{nullptr};
        Threads* pool = current.load();
        if (pool && pool->pid_ == getpid()) return *pool;
        auto* mine = new Threads;
        if (current.compare_exchange_strong(pool, mine)) return *mine;
        delete mine;
        return *pool;
    }

    // Whether there are so many threads beside the caller's.
    bool start(int helpers) {
        try {
            for (; num_started_ < helpers; num_started_++)
                std::thread([this, number = num_started_, seen = round_.load()] {
                    serve(number, seen);
                }).detach();
        } catch (const std::system_error&) {
            // No more threads to be had: those that are there do the work.
        }
        return num_started_ >= helpers;
    }

    void run_shared(int num_members, const std::function<void(int)>& task) {
        task_ = &task;
        num_members_ = num_members;
        next_ = 0;
        left_ = num_started_;  // every thread answers each round, so none is late into the next
        round_++;
        round_.notify_all();
        work();
        for (int i = 0; i < SPINS && left_.load() != 0; i++) pause();
        for (int left; (left = left_.load()) != 0;) left_.wait(left);
    }

    void serve(int number, unsigned seen) {
        for (;;) {
            for (int i = 0; i < SPINS && round_.load() == seen; i++) pause();
            round_.wait(seen);
            seen++;
            if (number + 1 < num_members_) work();
            if (--left_ == 0) left_.notify_one();
        }
    }

    void work() {
        for (int member; (member = next_++) < num_members_;) (*task_)(member);
    }

    const pid_t pid_ = getpid();
    std::mutex busy_;
    std::atomic<unsigned> round_{0};
    std::atomic<int> next_{0}, left_{0};
    int num_started_ = 0, num_members_ = 0;
    const std::function<void(int)>* task_ = nullptr;
};

}  // namespace lk
