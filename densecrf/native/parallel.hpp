// Splitting loops over threads. Threads are started for each loop and joined at its end: no pool that would hang after
// fork, no OpenMP runtime that would meet another one.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace densecrf {

// Calls work(begin, end) on disjoint ranges that cover [0, count), at most `threads` at once. The caller takes the first
// range. Where the system starts no more threads, the caller does the rest itself. The first exception is rethrown.
template <class Work>
void parallel_for(int threads, std::size_t count, const Work &work, std::size_t least = 2048) {
    const std::size_t most = std::max<std::size_t>(1, count / least);
    const std::size_t parts = std::min<std::size_t>(std::max(1, threads), most);
    std::exception_ptr failure;
    std::mutex guard;
    const auto run = [&](std::size_t part) {
        try {
            work(count * part / parts, count * (part + 1) / parts);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(guard);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> team;
    team.reserve(parts);
    std::size_t started = 1;
    try {
        for (; started < parts; ++started) team.emplace_back(run, started);
    } catch (const std::system_error &) {
    }
    run(0);
    for (std::size_t part = started; part < parts; ++part) run(part);
    for (std::thread &thread : team) thread.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace densecrf
