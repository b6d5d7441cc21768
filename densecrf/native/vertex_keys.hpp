// Vertices as keys of 64 bits: packing, a hash set, and a radix sort.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "parallel.hpp"
#include "vertices.hpp"

namespace densecrf {

using Key = std::uint64_t;

// How the coordinates of a vertex, in steps along axes 1 ... d, are packed into a key. Each has a field of
// bits, with room for the corners of all simplexes and for their neighbours, so that a step never carries
// into the next field.
struct Packing {
    int margin;              // of each field, in steps
    std::vector<Key> unit;   // d + 1: what a step along each axis adds to a key, modulo 2^64
    std::vector<int> shift;  // d: the position of each field
    int bits = 0;            // of all fields

    explicit Packing(const Simplexes &s)
        : margin(3 + s.halo), unit(s.dimensions + 1, 0), shift(s.dimensions) {
        for (int i = s.dimensions - 1; i >= 0; --i) {
            shift[i] = bits;
            int width = 1;
            while ((std::int64_t(s.high[i]) - s.low[i] + 2 * margin) >> width) ++width;
            if (bits < 64) unit[i + 1] = Key(1) << bits;
            unit[0] -= unit[i + 1];
            bits += width;
        }
    }
};

// The keys of the corners of points [begin, end). From the vertex of remainder k to that of remainder k + 1
// is a step back along the axis whose offset has rank d - k.
inline void find_keys(const Simplexes &s, const Packing &packing, std::size_t begin, std::size_t end,
                      Key *keys) {
    const int d = s.dimensions, corners = d + 1;
    for (std::size_t p = begin; p < end; ++p, keys += corners) {
        const std::int32_t *cell = s.cell.data() + p * d;
        const std::uint8_t *rank = s.rank.data() + p * corners;
        Key key = 0;
        for (int i = 0; i < d; ++i)
            key += Key(std::int64_t(cell[i]) - s.low[i] + packing.margin) << packing.shift[i];
        for (int i = 0; i < corners; ++i)
            keys[rank[i]] = packing.unit[i];  // the steps, until the next loop but one
        for (int k = 0, l = d; k < l; ++k, --l) std::swap(keys[k], keys[l]);
        for (int k = 0; k < corners; ++k) {
            const Key step = keys[k];
            keys[k] = key;
            key -= step;
        }
    }
}

// A hash set of keys. The slot of a key is valid until the set grows. No key is 0, as fields have a margin.
class KeySet {
public:
    explicit KeySet(std::size_t expected) {
        std::size_t size = 4096;
        while (size < expected) size *= 2;
        slots_.assign(size, 0);
    }

    std::size_t size() const { return slots_.size(); }
    std::size_t count() const { return count_; }
    Key at(std::size_t slot) const { return slots_[slot]; }
    bool has_room(std::size_t more) const { return (count_ + more) * 3 < slots_.size() * 2; }

    // Fetches the key's slot into the cache.
    void prefetch(Key key) const {
#if defined(__GNUC__)
        __builtin_prefetch(slots_.data() + home(key));
#else
        (void)key;
#endif
    }

    // Adds a key if it is not there; returns its slot.
    std::size_t add(Key key) {
        std::size_t slot = home(key);
        while (slots_[slot] != key) {
            if (slots_[slot] == 0) {
                slots_[slot] = key;
                ++count_;
                break;
            }
            slot = (slot + 1) & (slots_.size() - 1);
        }
        return slot;
    }

    // Doubles the number of slots; returns the new slot of each old one.
    Buffer<std::int32_t> grow() {
        Buffer<Key> old(slots_.size() * 2, 0);
        old.swap(slots_);
        count_ = 0;
        Buffer<std::int32_t> moved(old.size());
        in_pieces(0, old.size(), 4096, [&](std::size_t begin, std::size_t end) {
            for (std::size_t slot = begin; slot < end; ++slot)
                if (old[slot]) moved[slot] = std::int32_t(add(old[slot]));
        });
        return moved;
    }

private:
    std::size_t home(Key key) const {
        key *= 0x9E3779B97F4A7C15ull;
        return std::size_t(key ^ (key >> 32)) & (slots_.size() - 1);
    }

    Buffer<Key> slots_;
    std::size_t count_ = 0;
};

// Sorts by the `bits` bits of key_of(entry) from bit `low` up, digit by digit from the lowest.
template <class T, class KeyOf>
void radix_sort(Buffer<T> &entries, int low, int bits, const KeyOf &key_of) {
    const int passes = (bits + 10) / 11, width = (bits + passes - 1) / std::max(passes, 1);
    const Key mask = (Key(1) << width) - 1;
    Buffer<T> sorted(entries.size());
    for (int pass = 0; pass < passes; ++pass) {
        const int shift = low + pass * width;
        std::vector<std::size_t> start(mask + 2, 0);
        in_pieces(0, entries.size(), 65536, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) ++start[((key_of(entries[n]) >> shift) & mask) + 1];
        });
        for (std::size_t i = 0; i <= mask; ++i) start[i + 1] += start[i];
        in_pieces(0, entries.size(), 65536, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n)
                sorted[start[(key_of(entries[n]) >> shift) & mask]++] = entries[n];
        });
        entries.swap(sorted);
    }
}

}  // namespace densecrf
