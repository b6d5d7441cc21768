// Memory that is set aside for an allocation that must not fail.
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

// A few pages, which are released just before the allocation that needs them. They come straight from the
// system where that is possible: malloc keeps what one thread has freed from other threads that have no arena
// yet. Throws std::bad_alloc if there is too little memory.
class Reserve {
public:
    Reserve() : pages_(allocate()) {
        if (!pages_) throw std::bad_alloc();
    }
    Reserve(Reserve &&other) noexcept : pages_(std::exchange(other.pages_, nullptr)) {}
    Reserve &operator=(Reserve &&) = delete;
    ~Reserve() { release(); }

    void release() noexcept {
        if (void *pages = std::exchange(pages_, nullptr)) free_pages(pages);
    }

private:
    static constexpr std::size_t size = std::size_t(1) << 16;

#if defined(__linux__)
    static void *allocate() {
        void *pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return pages == MAP_FAILED ? nullptr : pages;
    }
    static void free_pages(void *pages) { munmap(pages, size); }
#else
    static void *allocate() { return std::malloc(size); }
    static void free_pages(void *pages) { std::free(pages); }
#endif

    void *pages_;
};

}  // namespace densecrf
