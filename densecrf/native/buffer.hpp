// Large arrays that are not zeroed: on huge pages where the system grants them, and reused by the next
// inference.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace densecrf {

// Freed blocks that are kept for reuse: up to 128 MB in blocks of up to 24 MB. Fresh pages, which the system
// zeroes, took a third of the time of building a lattice. The lock is only tried, because a process that was
// forked while it was held would wait for ever.
class BlockCache {
public:
    static constexpr std::size_t huge = std::size_t(1) << 21;
    static constexpr std::size_t max_block = std::size_t(1) << 24, max_total = std::size_t(1) << 27;

    static void *allocate(std::size_t bytes) {
        if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
        const std::size_t size = rounded(bytes);
        if (void *reused = take(size)) return reused;
        if (size > max_block) release_all();  // for a large image memory matters more than a millisecond
        char *block = from_system(size);
        if (!block) throw std::bad_alloc();
        return block;
    }

    // bytes: the number that allocate() was called with.
    static void deallocate(void *address, std::size_t bytes) noexcept {
        char *block = static_cast<char *>(address);
        const std::size_t size = rounded(bytes);
        State &s = state();
        const std::unique_lock<std::mutex> lock(s.guard, std::try_to_lock);
        if (lock && size <= max_block && s.count < slots && s.kept + size <= max_total) {
            s.blocks[s.count++] = {block, size};
            s.kept += size;
        } else {
            to_system(block, size);
        }
    }

    // Returns all kept blocks to the system.
    static void release_all() {
        State &s = state();
        const std::unique_lock<std::mutex> lock(s.guard, std::try_to_lock);
        if (!lock) return;
        while (s.count > 0) {
            const Block &block = s.blocks[--s.count];
            to_system(block.start, block.size);
        }
        s.kept = 0;
    }

private:
    struct Block {
        char *start;
        std::size_t size;
    };

    static std::size_t rounded(std::size_t bytes) { return (bytes + huge - 1) / huge * huge; }

#if defined(__linux__)
    static constexpr bool can_split = true;  // a part of a mapping can be returned
#else
    static constexpr bool can_split = false;
#endif

    // Memory straight from the system, as malloc would keep large blocks that were freed.
    static char *from_system(std::size_t size) {
#if defined(__linux__)
        void *mapped = mmap(nullptr, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) return nullptr;
        char *start = static_cast<char *>(mapped);
        const std::size_t skipped = (huge - reinterpret_cast<std::uintptr_t>(start) % huge) % huge;
        if (skipped) munmap(start, skipped);
        if (huge - skipped) munmap(start + skipped + size, huge - skipped);
        madvise(start + skipped, size, MADV_HUGEPAGE);  // only a hint: without it the pages are ordinary ones
        return start + skipped;
#else
        return static_cast<char *>(std::malloc(size));
#endif
    }

    static void to_system(char *block, std::size_t size) noexcept {
#if defined(__linux__)
        munmap(block, size);
#else
        (void)size;
        std::free(block);
#endif
    }

    static constexpr int slots = 64;
    struct State {
        std::mutex guard;
        Block blocks[slots];
        int count = 0;
        std::size_t kept = 0;
    };

    static State &state() {
        static State *shared = new State;  // never destroyed: arrays may outlive the module's other statics
        return *shared;
    }

    // The smallest kept block that fits and is at most twice as large as needed; null if there is none.
    static void *take(std::size_t size) {
        State &s = state();
        const std::unique_lock<std::mutex> lock(s.guard, std::try_to_lock);
        if (!lock) return nullptr;
        int best = -1;
        for (int i = 0; i < s.count; ++i) {
            const std::size_t candidate = s.blocks[i].size;
            const bool fits = candidate >= size && candidate <= (can_split ? 2 * size : size);
            if (fits && (best < 0 || candidate < s.blocks[best].size)) best = i;
        }
        if (best < 0) return nullptr;
        const Block block = s.blocks[best];
        s.blocks[best] = s.blocks[--s.count];
        s.kept -= block.size;
        if (block.size > size) to_system(block.start + size, block.size - size);
        return block.start;
    }
};

// Takes large blocks from the cache and small ones from malloc.
template <class T>
struct LargeAllocator {
    using value_type = T;
    static constexpr std::size_t large = std::size_t(1) << 20;  // bytes; smaller blocks come from malloc

    LargeAllocator() = default;
    template <class U>
    LargeAllocator(const LargeAllocator<U> &) {}

    T *allocate(std::size_t count) {
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_alloc();
        const std::size_t bytes = count * sizeof(T);
        void *address = bytes >= large ? BlockCache::allocate(bytes) : std::malloc(bytes);
        if (!address) throw std::bad_alloc();
        return static_cast<T *>(address);
    }

    void deallocate(T *address, std::size_t count) noexcept {
        const std::size_t bytes = count * sizeof(T);
        bytes >= large ? BlockCache::deallocate(address, bytes) : std::free(address);
    }

    template <class U>
    void construct(U *address) {
        ::new (static_cast<void *>(address)) U;  // default-initialised: numbers stay unset
    }
    template <class U, class... Arguments>
    void construct(U *address, Arguments &&...arguments) {
        ::new (static_cast<void *>(address)) U(std::forward<Arguments>(arguments)...);
    }

    bool operator==(const LargeAllocator &) const { return true; }
    bool operator!=(const LargeAllocator &) const { return false; }
};

// A std::vector whose resize leaves new numbers unset.
template <class T>
using Buffer = std::vector<T, LargeAllocator<T>>;

}  // namespace densecrf
