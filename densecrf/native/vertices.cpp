// A vertex is found by its place in steps along axes 1 ... d. Where these fit into 64 bits together, as they nearly always
// do, a key is one number and a step one addition. Keys are sorted with axis 1 most significant: an image's first features
// are positions, so vertices that lie near each other in the image lie near each other in memory, neighbours on the colour
// axes nearest of all, and all neighbours are found by walking along two sorted lists. Wider places take a plain hash table.
// SPDX-License-Identifier: MIT
#include "vertices.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "parallel.hpp"

namespace densecrf {
namespace {

using Key = std::uint64_t;

// How places are packed into a key.
struct Packing {
    int margin;              // in steps
    std::vector<Key> unit;   // d + 1: what a step along each axis adds, modulo 2^64
    std::vector<int> shift;  // d: of each place
    int bits = 0;

    // Fields have room for the corners of all simplexes and for their neighbours, so that steps never carry over.
    explicit Packing(const Simplexes &s) : margin(3 + s.rings), unit(s.dimensions + 1, 0), shift(s.dimensions) {
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

// keys: of the corners of points [begin, end): from the vertex of remainder k to that of remainder k + 1 is a step back
// along the axis whose offset has rank d - k.
void find_keys(const Simplexes &s, const Packing &packing, std::size_t begin, std::size_t end, Key *keys) {
    const int d = s.dimensions, corners = d + 1;
    for (std::size_t p = begin; p < end; ++p, keys += corners) {
        const std::int32_t *cell = s.cell.data() + p * d;
        const std::uint8_t *rank = s.rank.data() + p * corners;
        Key key = 0;
        for (int i = 0; i < d; ++i)
            key += Key(std::int64_t(cell[i]) - s.low[i] + packing.margin) << packing.shift[i];
        for (int i = 0; i < corners; ++i) keys[rank[i]] = packing.unit[i];  // for now, the steps
        for (int k = 0, l = d; k < l; ++k, --l) std::swap(keys[k], keys[l]);
        for (int k = 0; k < corners; ++k) {
            const Key step = keys[k];
            keys[k] = key;
            key -= step;
        }
    }
}

// A set of keys; a key is known by its slot until the next growth. No key is 0, as fields have a margin.
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

    void expect(Key key) const {
#if defined(__GNUC__)
        __builtin_prefetch(slots_.data() + home(key));
#else
        (void)key;
#endif
    }

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

    // Doubles; returns the new slot of each old one.
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

struct Entry {
    Key key;
    std::int32_t slot;
};

// Sorts by the `bits` bits of key_of(entry) from `low` up, the lowest digit first.
template <class T, class KeyOf>
void radix_sort(Buffer<T> &entries, int low, int bits, const KeyOf &key_of) {
    const int passes = (bits + 10) / 11, width = (bits + passes - 1) / std::max(passes, 1);
    const Key mask = (Key(1) << width) - 1;
    Buffer<T> spare(entries.size());
    for (int pass = 0; pass < passes; ++pass) {
        const int shift = low + pass * width;
        std::vector<std::size_t> start(mask + 2, 0);
        in_pieces(0, entries.size(), 65536, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) ++start[((key_of(entries[n]) >> shift) & mask) + 1];
        });
        for (std::size_t i = 0; i <= mask; ++i) start[i + 1] += start[i];
        in_pieces(0, entries.size(), 65536, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) spare[start[(key_of(entries[n]) >> shift) & mask]++] = entries[n];
        });
        entries.swap(spare);
    }
}

// The vertices that some of the points touch.
struct Part {
    std::size_t begin, end;        // points
    Buffer<Key> keys;              // sorted
    Buffer<std::int32_t> slots;    // of the keys
    std::size_t slot_count = 0;

    // Puts slots into `corner`.
    void collect(const Simplexes &s, const Packing &packing, std::int32_t *corner) {
        constexpr std::size_t batch = 16;  // points whose slots are fetched at a time
        const std::size_t corners = s.dimensions + 1;
        KeySet set(2 * (end - begin));
        std::vector<Key> found(batch * corners);
        in_pieces(begin, end, batch, [&](std::size_t p, std::size_t stop) {
            const std::size_t count = (stop - p) * corners;
            if (!set.has_room(count)) {
                const Buffer<std::int32_t> moved = set.grow();
                for (std::size_t place = begin * corners; place < p * corners; ++place) corner[place] = moved[corner[place]];
            }
            find_keys(s, packing, p, stop, found.data());
            for (std::size_t n = 0; n < count; ++n) set.expect(found[n]);
            for (std::size_t n = 0; n < count; ++n) corner[p * corners + n] = std::int32_t(set.add(found[n]));
        });
        for (int ring = 0; ring < s.rings; ++ring) add_ring(set, packing, corner + begin * corners, corner + end * corners);
        slot_count = set.size();
        keys.resize(set.count());
        slots.resize(set.count());
        sort(set, packing.bits);
    }

private:
    // Adds the neighbours of all keys that are there.
    static void add_ring(KeySet &set, const Packing &packing, std::int32_t *corner, const std::int32_t *corner_end) {
        std::vector<Key> inner;
        for (std::size_t slot = 0; slot < set.size(); ++slot)
            if (set.at(slot)) inner.push_back(set.at(slot));
        in_pieces(0, inner.size(), 64, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) {
                if (!set.has_room(2 * packing.unit.size())) {
                    const Buffer<std::int32_t> moved = set.grow();
                    for (std::int32_t *place = corner; place < corner_end; ++place) *place = moved[*place];
                }
                for (const Key step : packing.unit) {
                    set.add(inner[n] + step);
                    set.add(inner[n] - step);
                }
            }
        });
    }

    void sort(const KeySet &set, int bits) {
        int slot_bits = 0;
        while (set.size() >> slot_bits) ++slot_bits;
        std::size_t n = 0;
        if (bits + slot_bits <= 64) {  // key and slot fit into one number
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

// The keys of all parts, sorted, each once: lists are merged two by two.
Buffer<Key> unite(const std::vector<Part> &parts, int threads) {
    std::vector<Buffer<Key>> lists;
    for (const Part &part : parts) lists.push_back(part.keys);
    while (lists.size() > 1) {
        std::vector<Buffer<Key>> merged((lists.size() + 1) / 2);
        parallel_for(threads, merged.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t m = begin; m < end; ++m) {
                if (2 * m + 1 == lists.size()) {
                    merged[m] = std::move(lists[2 * m]);
                    continue;
                }
                const Buffer<Key> &a = lists[2 * m], &b = lists[2 * m + 1];
                merged[m].resize(a.size() + b.size());
                merged[m].resize(std::set_union(a.begin(), a.end(), b.begin(), b.end(), merged[m].begin()) - merged[m].begin());
            }
        }, 1);
        lists.swap(merged);
    }
    return std::move(lists[0]);
}

// Two walks along the sorted keys, one of them a step ahead; free of branches, which nothing could predict.
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
            std::size_t v = begin, up = std::lower_bound(keys.begin(), keys.end(), keys[begin] + step) - keys.begin();
            while (v < end && up < count) {
                const Key wanted = keys[v] + step, key = keys[up];
                pairs[2 * v] = key == wanted ? std::int32_t(up + 1) : 0;
                *(key == wanted ? pairs + 2 * up + 1 : &scratch) = std::int32_t(v + 1);
                v += key >= wanted;
                up += key <= wanted;
            }
        });
    }
}

// Blocks of some thousand vertices that are closed under steps along the last axes: they share the places before.
void find_blocks(Vertices &vertices, const Buffer<Key> &keys, const Simplexes &s, const Packing &packing) {
    constexpr std::size_t large = 4096;
    vertices.first_local_axis = std::min(3, s.dimensions + 1);
    const int shift = s.dimensions > 2 ? packing.shift[1] : 0;
    vertices.blocks = {0};
    for (std::size_t v = 1; v < keys.size() && s.dimensions > 2; ++v)
        if (v - vertices.blocks.back() >= large && keys[v] >> shift != keys[v - 1] >> shift)
            vertices.blocks.push_back(std::int32_t(v));
    vertices.blocks.push_back(std::int32_t(keys.size()));
}

Vertices number_packed(Simplexes s, const Packing &packing, int threads) {
    const std::size_t corners = s.dimensions + 1;
    Vertices vertices;
    vertices.corner.resize(s.points * corners);
    std::vector<Part> parts(std::min<std::size_t>(std::min(threads, 64), 1 + s.points / 4096));
    const auto each_part = [&](const auto &work) {
        parallel_for(int(parts.size()), parts.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) work(parts[n]);
        }, 1);
    };
    for (std::size_t n = 0; n < parts.size(); ++n) {
        parts[n].begin = s.points * n / parts.size();
        parts[n].end = s.points * (n + 1) / parts.size();
    }
    each_part([&](Part &part) { part.collect(s, packing, vertices.corner.data()); });
    s.cell = {};
    s.rank = {};  // two large arrays less at a time
    const Buffer<Key> sorted = unite(parts, threads);
    vertices.count = sorted.size();
    each_part([&](Part &part) {
        Buffer<std::int32_t> row(part.slot_count);
        for (std::size_t n = 0, v = 0; n < part.keys.size(); ++n) {
            while (sorted[v] != part.keys[n]) ++v;
            row[part.slots[n]] = std::int32_t(v + 1);
        }
        for (std::size_t place = part.begin * corners; place < part.end * corners; ++place)
            vertices.corner[place] = row[vertices.corner[place]];
    });
    parts.clear();
    find_neighbours(vertices, sorted, s, packing, threads);
    find_blocks(vertices, sorted, s, packing);
    return vertices;
}

// Places too wide for a key of 64 bits: a hash table of whole lists, in order of first touch.
class WideTable {
public:
    explicit WideTable(int dimensions) : d_(dimensions), slots_(1024, 0) {}

    std::int32_t find(const std::int32_t *key) const { return slots_[place(key)]; }

    std::int32_t find_or_add(const std::int32_t *key) {
        if ((count_ + 1) * 2 > slots_.size()) {
            slots_.assign(slots_.size() * 4, 0);
            in_pieces(0, count_, 256, [&](std::size_t begin, std::size_t end) {
                for (std::size_t v = begin; v < end; ++v) slots_[place(this->key(v))] = std::int32_t(v + 1);
            });
        }
        const std::size_t slot = place(key);
        if (slots_[slot] == 0) {
            keys_.insert(keys_.end(), key, key + d_);
            slots_[slot] = std::int32_t(++count_);
        }
        return slots_[slot];
    }

    std::size_t count() const { return count_; }
    const std::int32_t *key(std::size_t v) const { return keys_.data() + v * d_; }

private:
    std::size_t place(const std::int32_t *key) const {
        Key hash = 0;
        for (int i = 0; i < d_; ++i) hash = (hash ^ std::uint32_t(key[i])) * 0x9E3779B97F4A7C15ull;
        hash ^= hash >> 32;
        const std::size_t mask = slots_.size() - 1;
        for (std::size_t slot = hash & mask;; slot = (slot + 1) & mask)
            if (slots_[slot] == 0 || std::equal(key, key + d_, this->key(slots_[slot] - 1))) return slot;
    }

    int d_;
    std::size_t count_ = 0;
    std::vector<std::int32_t> slots_, keys_;
};

Vertices number_wide(const Simplexes &s) {
    const int d = s.dimensions, corners = d + 1;
    Vertices vertices;
    vertices.corner.resize(s.points * corners);
    WideTable table(d);
    std::vector<std::int32_t> key(d);
    const auto step = [&](int axis, int count) {
        for (int i = 0; i < d; ++i) key[i] += axis == 0 ? -count : i + 1 == axis ? count : 0;
    };
    std::vector<int> axis_of(corners);
    in_pieces(0, s.points, 16, [&](std::size_t begin, std::size_t end) {
        for (std::size_t p = begin; p < end; ++p) {
            std::copy_n(s.cell.begin() + p * d, d, key.begin());
            for (int i = 0; i < corners; ++i) axis_of[s.rank[p * corners + i]] = i;
            for (int c = 0; c < corners; ++c) {
                vertices.corner[p * corners + c] = table.find_or_add(key.data());
                step(axis_of[d - c], -1);
            }
        }
    });
    vertices.count = table.count();
    vertices.neighbours.assign(std::size_t(corners) * 2 * vertices.count, 0);
    in_pieces(0, vertices.count, 1, [&](std::size_t v, std::size_t) {
        for (int axis = 0; axis < corners; ++axis) {
            std::copy_n(table.key(v), d, key.begin());
            step(axis, 1);
            const std::int32_t up = table.find(key.data());
            if (up == 0) continue;
            std::int32_t *pairs = vertices.neighbours.data() + std::size_t(axis) * 2 * vertices.count;
            pairs[2 * v] = up;
            pairs[2 * std::size_t(up - 1) + 1] = std::int32_t(v + 1);
        }
    });
    vertices.first_local_axis = corners;
    vertices.blocks = {0, std::int32_t(vertices.count)};
    return vertices;
}

}  // namespace

Vertices number_vertices(Simplexes simplexes, int threads) {
    if (simplexes.points == 0) return {};
    const Packing packing(simplexes);
    return packing.bits <= 63 ? number_packed(std::move(simplexes), packing, threads) : number_wide(simplexes);
}

}  // namespace densecrf
