// Splitting loops over threads. Threads live no longer than one call from Python: no pool that would hang after fork, no
// OpenMP runtime that would meet another one.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace densecrf {

// Threads that stand by for the loops of one call. Starting a thread or waking one that sleeps takes some 50 us, as long as
// many a loop here; so between loops they look out for work for a while before they sleep.
class Team {
public:
    explicit Team(int threads) : outer_(current()) {
        if (outer_) return;  // the call is part of another one that has its team
        members_.reserve(std::max(0, threads - 1));
        try {
            while (int(members_.size()) + 1 < threads) {
                const std::size_t number = members_.size() + 1;
                members_.emplace_back([this, number] { stand_by(number); });
            }
        } catch (const std::system_error &) {  // no more threads to be had: fewer do it all
        }
        current() = this;
    }

    ~Team() {
        if (outer_) return;
        current() = nullptr;
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

    // Of the call that this thread is in; null if it has none.
    static Team *&current() {
        static thread_local Team *team = nullptr;
        return team;
    }

    // Calls work(part) for parts 0 ... parts - 1; the caller takes the first and what the others are too few for.
    template <class Work>
    void share(std::size_t parts, const Work &work) {
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
            work(0);
            for (std::size_t part = helpers + 1; part < parts; ++part) work(part);
            for (int look = 0; left_.load(std::memory_order_acquire) > 0; ++look)
                look < patience ? pause() : std::this_thread::yield();
            busy_ = false;
            return;
        }
        for (std::size_t part = 0; part < parts; ++part) work(part);
    }

private:
    static constexpr int patience = 4000;  // some ten to a hundred us

    static void pause() {
#if defined(__x86_64__) && defined(__GNUC__)
        __builtin_ia32_pause();
#else
        std::this_thread::yield();
#endif
    }

    void stand_by(std::size_t number) {
        for (unsigned seen = 0;;) {
            for (int look = 0; look < patience && turn_.load(std::memory_order_acquire) == seen; ++look) pause();
            if (turn_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(guard_);
                ++sleeping_;
                wake_.wait(lock, [&] { return turn_.load(std::memory_order_acquire) != seen; });
                --sleeping_;
            }
            ++seen;
            if (dismissed_) return;
            if (number <= helpers_) call_(context_, number);
            left_.fetch_sub(1, std::memory_order_acq_rel);
        }
    }

    Team *outer_;
    std::vector<std::thread> members_;
    std::mutex guard_;
    std::condition_variable wake_;
    std::atomic<unsigned> turn_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<std::size_t> left_{0};
    bool dismissed_ = false, busy_ = false;
    void (*call_)(const void *, std::size_t) = nullptr;
    const void *context_ = nullptr;
    std::size_t helpers_ = 0;
};

// Calls work(begin, end) on disjoint ranges that cover [0, count), at most `threads` at once, by the team at hand, or one
// of its own. The first exception is rethrown.
template <class Work>
void parallel_for(int threads, std::size_t count, const Work &work, std::size_t least = 2048) {
    const std::size_t most = std::max<std::size_t>(1, count / least);
    const std::size_t parts = std::min<std::size_t>(std::max(1, threads), most);
    if (parts == 1) return work(std::size_t(0), count);
    std::exception_ptr failure;
    std::mutex guard;
    Team team(static_cast<int>(parts));
    Team::current()->share(parts, [&](std::size_t part) {
        try {
            work(count * part / parts, count * (part + 1) / parts);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(guard);
            if (!failure) failure = std::current_exception();
        }
    });
    if (failure) std::rethrow_exception(failure);
}

}  // namespace densecrf
