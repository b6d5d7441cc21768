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
// 128 MB of freed blocks are kept. The lock is only tried: a process forked while it was held must not wait for ever.
class BlockCache {
public:
    static constexpr std::size_t huge = std::size_t(1) << 21, most_kept = std::size_t(1) << 27, header = 64;

    static void *allocate(std::size_t bytes) {
        if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
        const std::size_t size = (bytes + header + huge - 1) / huge * huge;
        if (void *kept = take(size)) return kept;
#if defined(__linux__)
        char *block = static_cast<char *>(std::aligned_alloc(huge, size));
        if (block) madvise(block, size, MADV_HUGEPAGE);  // a hint: refused, the pages are ordinary ones
#else
        char *block = static_cast<char *>(std::malloc(size));
#endif
        if (!block) throw std::bad_alloc();
        *reinterpret_cast<std::size_t *>(block) = size;
        return block + header;
    }

    static void deallocate(void *place) noexcept {
        char *block = static_cast<char *>(place) - header;
        const std::size_t size = *reinterpret_cast<std::size_t *>(block);
        State &s = state();
        const std::unique_lock<std::mutex> lock(s.guard, std::try_to_lock);
        if (lock && s.count < slots && s.kept + size <= most_kept) {
            s.blocks[s.count++] = block;
            s.kept += size;
        } else {
            std::free(block);
        }
    }

private:
    static constexpr int slots = 64;
    struct State {
        std::mutex guard;
        char *blocks[slots];
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
        std::size_t best_size = 2 * size + 1;
        for (int i = 0; i < s.count; ++i) {
            const std::size_t own = *reinterpret_cast<std::size_t *>(s.blocks[i]);
            if (own >= size && own < best_size) {
                best = i;
                best_size = own;
            }
        }
        if (best < 0) return nullptr;
        char *block = s.blocks[best];
        s.blocks[best] = s.blocks[--s.count];
        s.kept -= best_size;
        return block + header;
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
        count * sizeof(T) >= large ? BlockCache::deallocate(place) : std::free(place);
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
