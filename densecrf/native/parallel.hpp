// Parallel loops. Threads live no longer than one call from Python: a lasting pool would hang after fork, and
// an OpenMP runtime could clash with another one in the process.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "reserve.hpp"

namespace densecrf {

// Thrown by the loops of a call that should stop.
struct Stopped {};

// The threads of one call, shared by all its loops. They are started when a loop first has work for them.
// Starting a thread or waking a sleeping one takes some 50 us, as long as many a loop here; therefore they
// spin for a while between loops before they sleep.
class Team {
public:
    using Clock = std::chrono::steady_clock;

    // threads: the maximum number at work at a time, the caller included. should_stop: called by the caller's
    // thread alone, at most once per interval. Within the call of another team this one does nothing.
    explicit Team(int threads, std::function<bool()> should_stop = {},
                  Clock::duration interval = std::chrono::milliseconds(100))
        : outer_(current_thread().team), max_threads_(std::max(1, threads)),
          should_stop_(std::move(should_stop)), interval_(interval) {
        if (outer_) return;
        initialize_thread_locals();
        next_check_ = Clock::now() + interval_;
        current_thread() = {this, true};
    }

    ~Team() {
        if (outer_) return;
        current_thread() = {};
        {
            const std::lock_guard<std::mutex> lock(guard_);
            shutting_down_ = true;
            round_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        for (std::thread &worker : workers_) worker.join();
    }

    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    // The team that this thread works for; null if there is none.
    static Team *current() { return current_thread().team; }

    // Throws Stopped if the call that this thread works for should stop. Long loops call it many times a
    // second.
    static void check() {
        const ThreadState &here = current_thread();
        if (!here.team) return;
        if (here.is_caller) here.team->ask_whether_to_stop();
        if (here.team->stopped_.load(std::memory_order_relaxed)) throw Stopped();
    }

    // Calls work(part) for parts 0 ... parts - 1. The caller takes part 0 and those for which there are too
    // few workers. work must not throw.
    template <class Work>
    void share(std::size_t parts, const Work &work) {
        if (!busy_) start_workers(std::min<std::size_t>(parts, max_threads_) - 1);
        const std::size_t helpers = std::min(parts - 1, workers_.size());
        if (!helpers || busy_) {
            for (std::size_t part = 0; part < parts; ++part) work(part);
            return;
        }
        busy_ = true;
        call_ = [](const void *context, std::size_t part) { (*static_cast<const Work *>(context))(part); };
        context_ = &work;
        helpers_ = helpers;
        remaining_.store(workers_.size(), std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> lock(guard_);
            round_.fetch_add(1, std::memory_order_release);
        }
        if (sleeping_.load() > 0) wake_.notify_all();
        wait_for_starting_workers();
        work(0);
        for (std::size_t part = helpers + 1; part < parts; ++part) work(part);
        wait_for_workers();
        busy_ = false;
    }

private:
    static constexpr int spins = 4000;  // some ten to a hundred us

    // What a thread knows of the call that it works for.
    struct ThreadState {
        Team *team = nullptr;
        bool is_caller = false;
    };

    static ThreadState &current_thread() {
        static thread_local ThreadState state;
        return state;
    }

    // Thread-local data are allocated at their first use, and the process ends if that fails. A thread that
    // first uses them to throw std::bad_alloc would be in that situation.
    static void initialize_thread_locals() {
        volatile int used = std::uncaught_exceptions();  // volatile, so that the call is not optimised away
        used = current_thread().is_caller;
        (void)used;
    }

    static void pause() {
#if defined(__x86_64__) && defined(__GNUC__)
        __builtin_ia32_pause();
#else
        std::this_thread::yield();
#endif
    }

    void wait_for_starting_workers() const {
        for (int spin = 0; starting_.load(std::memory_order_acquire) > 0; ++spin)
            spin < spins ? pause() : std::this_thread::yield();
    }

    void wait_for_workers() {
        for (int spin = 0; remaining_.load(std::memory_order_acquire) > 0; ++spin) {
            if (spin < spins) {
                pause();
                continue;
            }
            std::this_thread::yield();
            ask_whether_to_stop();
            spin = spins;
        }
    }

    void ask_whether_to_stop() {
        if (!should_stop_ || stopped_.load(std::memory_order_relaxed)) return;
        const Clock::time_point now = Clock::now();
        if (now < next_check_) return;
        next_check_ = now + interval_;
        if (should_stop_()) stopped_.store(true, std::memory_order_relaxed);
    }

    // Starts threads until there are `count`, or fewer if the system allows no more.
    void start_workers(std::size_t count) {
        if (count <= workers_.size() || start_failed_) return;
        const std::size_t before = workers_.size();
        try {
            workers_.reserve(count);
            while (workers_.size() < count) {
                const std::size_t number = workers_.size() + 1;
                starting_.fetch_add(1, std::memory_order_relaxed);
                const unsigned seen = round_.load(std::memory_order_relaxed);
                workers_.emplace_back([this, number, seen, reserve = Reserve()]() mutable {
                    work_in_rounds(number, seen, reserve);
                });
            }
        } catch (const std::system_error &) {
            start_failed_ = true;
        } catch (const std::bad_alloc &) {
            start_failed_ = true;
        }
        if (start_failed_) starting_.store(workers_.size() - before, std::memory_order_relaxed);
    }

    // The life of a worker. It initialises its thread-local data, for which it holds a reserve, after the
    // last thread was started and before the first one works: otherwise stacks and arrays would take the
    // memory that it releases.
    void work_in_rounds(std::size_t number, unsigned seen, Reserve &reserve) {
        for (bool is_first = true;; is_first = false) {
            wait_for_round_after(seen);
            ++seen;
            if (shutting_down_) return;
            if (is_first) {
                reserve.release();
                initialize_thread_locals();
                current_thread() = {this, false};
                starting_.fetch_sub(1, std::memory_order_acq_rel);
                wait_for_starting_workers();
            }
            if (number <= helpers_) call_(context_, number);
            remaining_.fetch_sub(1, std::memory_order_acq_rel);
        }
    }

    void wait_for_round_after(unsigned seen) {
        for (int spin = 0; spin < spins && round_.load(std::memory_order_acquire) == seen; ++spin) pause();
        if (round_.load(std::memory_order_acquire) != seen) return;
        std::unique_lock<std::mutex> lock(guard_);
        ++sleeping_;
        wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
        --sleeping_;
    }

    Team *outer_;
    std::size_t max_threads_;
    std::function<bool()> should_stop_;
    Clock::duration interval_;
    Clock::time_point next_check_;
    std::atomic<bool> stopped_{false};
    std::vector<std::thread> workers_;
    bool start_failed_ = false;
    std::mutex guard_;
    std::condition_variable wake_;
    std::atomic<unsigned> round_{0};  // a new round begins with each shared loop, and with the end
    std::atomic<int> sleeping_{0};
    std::atomic<std::size_t> remaining_{0};  // workers that have not finished this round
    std::atomic<std::size_t> starting_{0};   // workers whose thread-local data are not initialised
    bool shutting_down_ = false, busy_ = false;
    void (*call_)(const void *, std::size_t) = nullptr;
    const void *context_ = nullptr;
    std::size_t helpers_ = 0;
};

// Calls work(begin, end) on ranges of at most `piece` that cover [begin, end), in order. Throws Stopped
// between two of them if the call should stop.
template <class Work>
void in_pieces(std::size_t begin, std::size_t end, std::size_t piece, const Work &work) {
    for (std::size_t i = begin; i < end; i += piece) {
        Team::check();
        work(i, std::min(end, i + piece));
    }
}

// Calls work(begin, end) on disjoint ranges that cover [0, count), at most `threads` at a time, by the
// current team or by one of its own. min_count: less than this is not worth a thread. The first exception is
// rethrown.
template <class Work>
void parallel_for(int threads, std::size_t count, const Work &work, std::size_t min_count = 2048) {
    const std::size_t piece = 256 * min_count;  // the call may be stopped between two pieces
    const std::size_t max_parts = std::max<std::size_t>(1, count / min_count);
    const std::size_t parts = std::min<std::size_t>(std::max(1, threads), max_parts);
    if (parts == 1) return in_pieces(0, count, piece, work);
    std::exception_ptr failure;
    std::mutex guard;
    Team team(static_cast<int>(parts));
    Team::current()->share(parts, [&](std::size_t part) {
        try {
            in_pieces(count * part / parts, count * (part + 1) / parts, piece, work);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(guard);
            if (!failure) failure = std::current_exception();
        }
    });
    if (failure) std::rethrow_exception(failure);
}

}  // namespace densecrf
