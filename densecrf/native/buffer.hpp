// Large arrays: on huge pages where the system gives them on request, kept for the next inference, and not zeroed.
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

// Getting fresh pages from the system, which zeroes them, took a third of the time it takes to build a lattice. So up to
// 128 MB of freed blocks of up to 16 MB are kept. The lock is only tried: a process forked while it was held must not wait for ever.
class BlockCache {
public:
    static constexpr std::size_t huge = std::size_t(1) << 21;
    static constexpr std::size_t largest_kept = std::size_t(1) << 24, most_kept = std::size_t(1) << 27;

    static void *allocate(std::size_t bytes) {
        if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
        const std::size_t size = rounded(bytes);
        if (void *kept = take(size)) return kept;
        if (size > largest_kept) release_all();  // a large image: memory counts more than a millisecond
        char *block = from_system(size);
        if (!block) throw std::bad_alloc();
        return block;
    }

    // bytes: as they were asked for.
    static void deallocate(void *place, std::size_t bytes) noexcept {
        char *block = static_cast<char *>(place);
        const std::size_t size = rounded(bytes);
        State &s = state();
        const std::unique_lock<std::mutex> lock(s.guard, std::try_to_lock);
        if (lock && size <= largest_kept && s.count < slots && s.kept + size <= most_kept) {
            s.blocks[s.count++] = {block, size};
            s.kept += size;
        } else {
            to_system(block, size);
        }
    }

    // Gives all that is kept back to the system.
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
    static constexpr bool can_cut = true;
#else
    static constexpr bool can_cut = false;
#endif

    // Straight from the system: malloc would hold on to large blocks that were freed.
    static char *from_system(std::size_t size) {
#if defined(__linux__)
        void *found = mmap(nullptr, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (found == MAP_FAILED) return nullptr;
        char *start = static_cast<char *>(found);
        const std::size_t skipped = (huge - reinterpret_cast<std::uintptr_t>(start) % huge) % huge;
        if (skipped) munmap(start, skipped);
        if (huge - skipped) munmap(start + skipped + size, huge - skipped);
        madvise(start + skipped, size, MADV_HUGEPAGE);  // a hint: refused, the pages are ordinary ones
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

    // The smallest kept block that is large enough and not more than twice too large; null if there is none.
    static void *take(std::size_t size) {
        State &s = state();
        const std::unique_lock<std::mutex> lock(s.guard, std::try_to_lock);
        if (!lock) return nullptr;
        int best = -1;
        for (int i = 0; i < s.count; ++i) {
            const std::size_t own = s.blocks[i].size;
            if (own >= size && own <= (can_cut ? 2 * size : size) && (best < 0 || own < s.blocks[best].size)) best = i;
        }
        if (best < 0) return nullptr;
        const Block block = s.blocks[best];
        s.blocks[best] = s.blocks[--s.count];
        s.kept -= block.size;
        if (block.size > size) to_system(block.start + size, block.size - size);
        return block.start;
    }
};

template <class T>
struct LargeAllocator {
    using value_type = T;
    static constexpr std::size_t large = std::size_t(1) << 20;  // bytes from which blocks are kept

    LargeAllocator() = default;
    template <class U>
    LargeAllocator(const LargeAllocator<U> &) {}

    T *allocate(std::size_t count) {
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_alloc();
        void *place = count * sizeof(T) >= large ? BlockCache::allocate(count * sizeof(T)) : std::malloc(count * sizeof(T));
        if (!place) throw std::bad_alloc();
        return static_cast<T *>(place);
    }

    void deallocate(T *place, std::size_t count) noexcept {
        count * sizeof(T) >= large ? BlockCache::deallocate(place, count * sizeof(T)) : std::free(place);
    }

    template <class U>
    void construct(U *place) {
        ::new (static_cast<void *>(place)) U;  // numbers are left as they are
    }
    template <class U, class... Arguments>
    void construct(U *place, Arguments &&...arguments) {
        ::new (static_cast<void *>(place)) U(std::forward<Arguments>(arguments)...);
    }

    bool operator==(const LargeAllocator &) const { return true; }
    bool operator!=(const LargeAllocator &) const { return false; }
};

// A std::vector whose resize leaves new numbers unset.
template <class T>
using Buffer = std::vector<T, LargeAllocator<T>>;

}  // namespace densecrf
