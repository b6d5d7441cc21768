// Splitting loops over threads. Threads live no longer than one call from Python: no pool that would hang after fork, no
// OpenMP runtime that would meet another one.
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

// Thrown by the loops of a call that was asked to stop.
struct Stopped {};

// Threads that stand by for the loops of one call; they are started when a loop first has work for them. Starting a thread
// or waking one that sleeps takes some 50 us, as long as many a loop here; so between loops they look out for work for a
// while before they sleep.
class Team {
public:
    using Clock = std::chrono::steady_clock;

    // threads: the most that work at a time, the caller among them. asks: whether to stop; called by the caller's thread
    // alone, no sooner than `every` after the last time.
    explicit Team(int threads, std::function<bool()> asks = {}, Clock::duration every = std::chrono::milliseconds(100))
        : outer_(place().team), most_(std::max(1, threads)), asks_(std::move(asks)), every_(every) {
        if (outer_) return;  // the call is part of another one that has its team
        touch_thread_locals();
        next_ = Clock::now() + every_;
        place() = {this, true};
    }

    ~Team() {
        if (outer_) return;
        place() = {};
        {
            const std::lock_guard<std::mutex> lock(guard_);
            dismissed_ = true;
            turn_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        for (std::thread &member : members_) member.join();
    }

    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    // Of the call that this thread works for; null if it has none.
    static Team *current() { return place().team; }

    // Throws Stopped if the call that this thread works for is to stop. Long loops call it many times a second.
    static void check() {
        const Place &here = place();
        if (!here.team) return;
        if (here.is_caller) here.team->ask();
        if (here.team->stopped_.load(std::memory_order_relaxed)) throw Stopped();
    }

    // Calls work(part) for parts 0 ... parts - 1; the caller takes the first and what the others are too few for. work
    // must not throw.
    template <class Work>
    void share(std::size_t parts, const Work &work) {
        if (!busy_) grow(std::min<std::size_t>(parts, most_) - 1);
        const std::size_t helpers = std::min(parts - 1, members_.size());
        if (helpers && !busy_) {
            busy_ = true;
            call_ = [](const void *context, std::size_t part) { (*static_cast<const Work *>(context))(part); };
            context_ = &work;
            helpers_ = helpers;
            left_.store(members_.size(), std::memory_order_relaxed);
            {
                const std::lock_guard<std::mutex> lock(guard_);
                turn_.fetch_add(1, std::memory_order_release);
            }
            if (sleeping_.load() > 0) wake_.notify_all();
            wait_for_new_ones();
            work(0);
            for (std::size_t part = helpers + 1; part < parts; ++part) work(part);
            for (int look = 0; left_.load(std::memory_order_acquire) > 0; ++look) {
                if (look < patience) {
                    pause();
                    continue;
                }
                std::this_thread::yield();
                ask();
                look = patience;
            }
            busy_ = false;
            return;
        }
        for (std::size_t part = 0; part < parts; ++part) work(part);
    }

private:
    static constexpr int patience = 4000;  // some ten to a hundred us

    struct Place {
        Team *team = nullptr;
        bool is_caller = false;
    };

    static Place &place() {
        static thread_local Place here;
        return here;
    }

    // A thread's own data are allocated when it first uses them, and the process ends if that fails; a thread that first
    // uses them to throw std::bad_alloc would meet just that.
    static void touch_thread_locals() {
        volatile int used = std::uncaught_exceptions();  // volatile: without a use the call would be left out
        used = place().is_caller;
        (void)used;
    }

    static void pause() {
#if defined(__x86_64__) && defined(__GNUC__)
        __builtin_ia32_pause();
#else
        std::this_thread::yield();
#endif
    }

    void wait_for_new_ones() const {
        for (int look = 0; unready_.load(std::memory_order_acquire) > 0; ++look)
            look < patience ? pause() : std::this_thread::yield();
    }

    void ask() {
        if (!asks_ || stopped_.load(std::memory_order_relaxed)) return;
        const Clock::time_point now = Clock::now();
        if (now < next_) return;
        next_ = now + every_;
        if (asks_()) stopped_.store(true, std::memory_order_relaxed);
    }

    // Starts threads until there are so many; fewer if no more are to be had.
    void grow(std::size_t members) {
        if (members <= members_.size() || no_more_) return;
        const std::size_t before = members_.size();
        try {
            members_.reserve(members);
            while (members_.size() < members) {
                const std::size_t number = members_.size() + 1;
                unready_.fetch_add(1, std::memory_order_relaxed);
                const unsigned seen = turn_.load(std::memory_order_relaxed);
                members_.emplace_back([this, number, seen, reserve = Reserve()]() mutable { stand_by(number, seen, reserve); });
            }
        } catch (const std::system_error &) {
            no_more_ = true;
        } catch (const std::bad_alloc &) {
            no_more_ = true;
        }
        if (no_more_) unready_.store(members_.size() - before, std::memory_order_relaxed);
    }

    // A new thread first uses its own data, for which it has the reserve, after the last thread was started and before the
    // first one works: stacks and arrays would take what it gives back.
    void stand_by(std::size_t number, unsigned seen, Reserve &reserve) {
        for (bool is_first = true;; is_first = false) {
            for (int look = 0; look < patience && turn_.load(std::memory_order_acquire) == seen; ++look) pause();
            if (turn_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(guard_);
                ++sleeping_;
                wake_.wait(lock, [&] { return turn_.load(std::memory_order_acquire) != seen; });
                --sleeping_;
            }
            ++seen;
            if (dismissed_) return;
            if (is_first) {
                reserve.give_back();
                touch_thread_locals();
                place() = {this, false};
                unready_.fetch_sub(1, std::memory_order_acq_rel);
                wait_for_new_ones();
            }
            if (number <= helpers_) call_(context_, number);
            left_.fetch_sub(1, std::memory_order_acq_rel);
        }
    }

    Team *outer_;
    std::size_t most_;
    std::function<bool()> asks_;
    Clock::duration every_;
    Clock::time_point next_;
    std::atomic<bool> stopped_{false};
    std::vector<std::thread> members_;
    bool no_more_ = false;
    std::mutex guard_;
    std::condition_variable wake_;
    std::atomic<unsigned> turn_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<std::size_t> left_{0}, unready_{0};
    bool dismissed_ = false, busy_ = false;
    void (*call_)(const void *, std::size_t) = nullptr;
    const void *context_ = nullptr;
    std::size_t helpers_ = 0;
};

// Calls work(begin, end) on ranges of at most `piece` that cover [begin, end), in order. Stopped, if the call is to stop.
template <class Work>
void in_pieces(std::size_t begin, std::size_t end, std::size_t piece, const Work &work) {
    for (std::size_t i = begin; i < end; i += piece) {
        Team::check();
        work(i, std::min(end, i + piece));
    }
}

// Calls work(begin, end) on disjoint ranges that cover [0, count), at most `threads` at once, by the team at hand, or one
// of its own. least: what is not worth a thread. The first exception is rethrown.
template <class Work>
void parallel_for(int threads, std::size_t count, const Work &work, std::size_t least = 2048) {
    const std::size_t piece = 256 * least;  // between two, the call may be stopped
    const std::size_t most = std::max<std::size_t>(1, count / least);
    const std::size_t parts = std::min<std::size_t>(std::max(1, threads), most);
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
