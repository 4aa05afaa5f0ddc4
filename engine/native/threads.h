// A few threads that run numbered tasks; made on first use, once a process, never ended.

#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>

namespace lk {

class Threads {
public:
    // Runs task(0) ... task(count - 1), on the caller and up to num_threads - 1 others.
    static void run(int num_threads, int count, const std::function<void(int)>& task) {
        if (num_threads <= 1 || count <= 1) {
            for (int i = 0; i < count; i++) task(i);
            return;
        }
        Threads& pool = of_this_process();
        std::unique_lock busy(pool.busy_, std::try_to_lock);
        if (!busy) {  // another thread of this process computes: do not wait for it
            for (int i = 0; i < count; i++) task(i);
            return;
        }
        pool.run_shared(std::min(num_threads, count) - 1, count, task);
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

    void run_shared(int helpers, int count, const std::function<void(int)>& task) {
        try {
            for (; num_started_ < helpers; num_started_++)
                std::thread([this, number = num_started_, seen = round_.load()] {
                    serve(number, seen);
                }).detach();
        } catch (const std::system_error&) {
            // No more threads to be had: those that are there do the work.
        }
        task_ = &task;
        count_ = count;
        next_ = 0;
        helpers_ = helpers;
        left_ = num_started_;  // every thread answers each round, so none is late into the next
        round_++;
        round_.notify_all();
        work();
        for (int left; (left = left_.load()) != 0;) left_.wait(left);
    }

    void serve(int number, unsigned seen) {
        for (;;) {
            round_.wait(seen);
            seen++;
            if (number < helpers_) work();
            if (--left_ == 0) left_.notify_one();
        }
    }

    void work() {
        for (int i; (i = next_++) < count_;) (*task_)(i);
    }

    const pid_t pid_ = getpid();
    std::mutex busy_;
    std::atomic<unsigned> round_{0};
    std::atomic<int> next_{0}, left_{0};
    int num_started_ = 0, helpers_ = 0, count_ = 0;
    const std::function<void(int)>* task_ = nullptr;
};

}  // namespace lk
