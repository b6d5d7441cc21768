// Memory that is held until it is needed for something whose failure could not be survived.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace densecrf {

// Some pages, straight from the system where that is possible: what one thread gave back to malloc, it does not give to
// another that has no arena of its own yet.
// Throws std::bad_alloc if they are not to be had.
class Reserve {
public:
    Reserve() : place_(get()) {
        if (!place_) throw std::bad_alloc();
    }
    Reserve(Reserve &&other) noexcept : place_(std::exchange(other.place_, nullptr)) {}
    Reserve &operator=(Reserve &&) = delete;
    ~Reserve() { give_back(); }

    void give_back() noexcept {
        if (void *place = std::exchange(place_, nullptr)) put(place);
    }

private:
    static constexpr std::size_t size = std::size_t(1) << 16;

#if defined(__linux__)
    static void *get() {
        void *found = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return found == MAP_FAILED ? nullptr : found;
    }
    static void put(void *place) { munmap(place, size); }
#else
    static void *get() { return std::malloc(size); }
    static void put(void *place) { std::free(place); }
#endif

    void *place_;
};

}  // namespace densecrf
