// Numbering of vertices by sorted keys. A vertex has coordinates, in steps along axes 1 ... d. Where these
// fit into 64 bits together, as they nearly always do, a key is one integer and a step one addition. Keys are
// sorted with axis 1 most significant. As the first features of an image are positions, vertices that are
// close in the image are then close in memory, neighbours along colour axes closest of all, and all
// neighbours are found by a walk along the sorted list. Wider coordinates take a plain hash table
// (vertices_wide.cpp).
// SPDX-License-Identifier: MIT
#include "vertices.hpp"

#include <algorithm>

#include "parallel.hpp"
#include "vertex_keys.hpp"

namespace densecrf {
namespace {

struct Entry {
    Key key;
    std::int32_t slot;
};

// The vertices that some of the points touch.
struct Part {
    std::size_t begin, end;      // points
    Buffer<Key> keys;            // sorted
    Buffer<std::int32_t> slots;  // of the keys
    std::size_t slot_count = 0;

    // Finds the vertices, and stores the slots of the points' corners in `corner`.
    void collect(const Simplexes &s, const Packing &packing, std::int32_t *corner) {
        constexpr std::size_t batch = 16;  // points whose slots are prefetched together
        const std::size_t corners = s.dimensions + 1;
        KeySet set(2 * (end - begin));
        std::vector<Key> batch_keys(batch * corners);
        in_pieces(begin, end, batch, [&](std::size_t p, std::size_t stop) {
            const std::size_t count = (stop - p) * corners;
            if (!set.has_room(count)) {
                const Buffer<std::int32_t> moved = set.grow();
                for (std::size_t c = begin * corners; c < p * corners; ++c) corner[c] = moved[corner[c]];
            }
            find_keys(s, packing, p, stop, batch_keys.data());
            for (std::size_t n = 0; n < count; ++n) set.prefetch(batch_keys[n]);
            for (std::size_t n = 0; n < count; ++n)
                corner[p * corners + n] = std::int32_t(set.add(batch_keys[n]));
        });
        for (int layer = 0; layer < s.halo; ++layer)
            add_halo(set, packing, corner + begin * corners, corner + end * corners);
        slot_count = set.size();
        keys.resize(set.count());
        slots.resize(set.count());
        sort(set, packing.bits);
    }

private:
    // Adds the neighbours of all keys in the set.
    static void add_halo(KeySet &set, const Packing &packing, std::int32_t *corner,
                         const std::int32_t *corner_end) {
        std::vector<Key> inner;
        for (std::size_t slot = 0; slot < set.size(); ++slot)
            if (set.at(slot)) inner.push_back(set.at(slot));
        in_pieces(0, inner.size(), 64, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) {
                if (!set.has_room(2 * packing.unit.size())) {
                    const Buffer<std::int32_t> moved = set.grow();
                    for (std::int32_t *slot = corner; slot < corner_end; ++slot) *slot = moved[*slot];
                }
                for (const Key step : packing.unit) {
                    set.add(inner[n] + step);
                    set.add(inner[n] - step);
                }
            }
        });
    }

    // Fills `keys` and `slots` from the set.
    void sort(const KeySet &set, int bits) {
        int slot_bits = 0;
        while (set.size() >> slot_bits) ++slot_bits;
        std::size_t n = 0;
        if (bits + slot_bits <= 64) {  // key and slot fit into one integer, which sorts faster
            Buffer<Key> entries(keys.size());
            for (std::size_t slot = 0; slot < set.size(); ++slot)
                if (set.at(slot)) entries[n++] = set.at(slot) << slot_bits | slot;
            radix_sort(entries, slot_bits, bits, [](Key e) { return e; });
            for (n = 0; n < entries.size(); ++n) {
                keys[n] = entries[n] >> slot_bits;
                slots[n] = std::int32_t(entries[n] & ((Key(1) << slot_bits) - 1));
            }
            return;
        }
        Buffer<Entry> entries(keys.size());
        for (std::size_t slot = 0; slot < set.size(); ++slot)
            if (set.at(slot)) entries[n++] = {set.at(slot), std::int32_t(slot)};
        radix_sort(entries, 0, bits, [](const Entry &e) { return e.key; });
        for (n = 0; n < entries.size(); ++n) {
            keys[n] = entries[n].key;
            slots[n] = entries[n].slot;
        }
    }
};

// The distinct keys of all parts, sorted. Lists are merged in pairs.
Buffer<Key> merge_keys(const std::vector<Part> &parts, int threads) {
    std::vector<Buffer<Key>> lists;
    for (const Part &part : parts) lists.push_back(part.keys);
    while (lists.size() > 1) {
        std::vector<Buffer<Key>> merged((lists.size() + 1) / 2);
        parallel_for(
            threads, merged.size(),
            [&](std::size_t begin, std::size_t end) {
                for (std::size_t m = begin; m < end; ++m) {
                    if (2 * m + 1 == lists.size()) {
                        merged[m] = std::move(lists[2 * m]);
                        continue;
                    }
                    const Buffer<Key> &a = lists[2 * m], &b = lists[2 * m + 1];
                    merged[m].resize(a.size() + b.size());
                    merged[m].resize(
                        std::set_union(a.begin(), a.end(), b.begin(), b.end(), merged[m].begin()) -
                        merged[m].begin());
                }
            },
            1);
        lists.swap(merged);
    }
    return std::move(lists[0]);
}

// Walks along the sorted keys with two indices, one of them a step ahead. The loop has no branches, as these
// would be unpredictable.
void find_neighbours(Vertices &vertices, const Buffer<Key> &keys, const Simplexes &s, const Packing &packing,
                     int threads) {
    const std::size_t corners = s.dimensions + 1, count = vertices.count;
    vertices.neighbours.resize(corners * 2 * count);
    parallel_for(threads, vertices.neighbours.size(), [&](std::size_t begin, std::size_t end) {
        std::fill(vertices.neighbours.begin() + begin, vertices.neighbours.begin() + end, 0);
    });
    for (std::size_t axis = 0; axis < corners; ++axis) {
        const Key step = packing.unit[axis];
        std::int32_t *pairs = vertices.neighbours.data() + axis * 2 * count;
        parallel_for(threads, count, [&](std::size_t begin, std::size_t end) {
            std::int32_t scratch;
            std::size_t v = begin,
                        up = std::lower_bound(keys.begin(), keys.end(), keys[begin] + step) - keys.begin();
            while (v < end && up < count) {
                const Key target = keys[v] + step, key = keys[up];
                pairs[2 * v] = key == target ? std::int32_t(up + 1) : 0;
                *(key == target ? pairs + 2 * up + 1 : &scratch) = std::int32_t(v + 1);
                v += key >= target;
                up += key <= target;
            }
        });
    }
}

// Divides the vertices into blocks of a few thousand. A step along axis 3 or a later one changes neither of
// the first two coordinates, and vertices that agree in these are never divided, so such a step stays within
// a block.
void find_blocks(Vertices &vertices, const Buffer<Key> &keys, const Simplexes &s, const Packing &packing) {
    constexpr std::size_t min_size = 4096;
    vertices.first_local_axis = std::min(3, s.dimensions + 1);
    const int shift = s.dimensions > 2 ? packing.shift[1] : 0;
    vertices.blocks = {0};
    for (std::size_t v = 1; v < keys.size() && s.dimensions > 2; ++v)
        if (v - vertices.blocks.back() >= min_size && keys[v] >> shift != keys[v - 1] >> shift)
            vertices.blocks.push_back(std::int32_t(v));
    vertices.blocks.push_back(std::int32_t(keys.size()));
}

// Divides the points into parts for threads.
std::vector<Part> make_parts(std::size_t points, int threads) {
    std::vector<Part> parts(std::min<std::size_t>(std::min(threads, 64), 1 + points / 4096));
    for (std::size_t n = 0; n < parts.size(); ++n) {
        parts[n].begin = points * n / parts.size();
        parts[n].end = points * (n + 1) / parts.size();
    }
    return parts;
}

// Calls work(part) for each part, in parallel.
template <class Work>
void for_each_part(std::vector<Part> &parts, const Work &work) {
    parallel_for(
        int(parts.size()), parts.size(),
        [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) work(parts[n]);
        },
        1);
}

// Replaces the slots in `corner` by rows, the positions of their keys in the sorted list plus 1.
void slots_to_rows(const Part &part, const Buffer<Key> &sorted, std::size_t corners, std::int32_t *corner) {
    Buffer<std::int32_t> row(part.slot_count);
    for (std::size_t n = 0, v = 0; n < part.keys.size(); ++n) {
        while (sorted[v] != part.keys[n]) ++v;
        row[part.slots[n]] = std::int32_t(v + 1);
    }
    for (std::size_t c = part.begin * corners; c < part.end * corners; ++c) corner[c] = row[corner[c]];
}

Vertices number_packed_vertices(Simplexes s, const Packing &packing, int threads) {
    const std::size_t corners = s.dimensions + 1;
    Vertices vertices;
    vertices.corner.resize(s.points * corners);
    std::vector<Part> parts = make_parts(s.points, threads);
    for_each_part(parts, [&](Part &part) { part.collect(s, packing, vertices.corner.data()); });
    s.cell = {};
    s.rank = {};  // frees two large arrays before the next ones are allocated
    const Buffer<Key> sorted = merge_keys(parts, threads);
    vertices.count = sorted.size();
    for_each_part(parts, [&](Part &part) { slots_to_rows(part, sorted, corners, vertices.corner.data()); });
    parts.clear();
    find_neighbours(vertices, sorted, s, packing, threads);
    find_blocks(vertices, sorted, s, packing);
    return vertices;
}

}  // namespace

Vertices number_vertices(Simplexes simplexes, int threads) {
    if (simplexes.points == 0) return {};
    const Packing packing(simplexes);
    return packing.bits <= 63 ? number_packed_vertices(std::move(simplexes), packing, threads)
                              : number_wide_vertices(simplexes);
}

}  // namespace densecrf
