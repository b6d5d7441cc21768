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
    std::vector<Key> unit;   // d + 1: what a step along each axis adds, modulo 2^64
    std::vector<int> shift;  // d: of each place
    int bits = 0;

    // Fields have room for the corners of all simplexes and for their neighbours, so that steps never carry over.
    explicit Packing(const Simplexes &s) : unit(s.dimensions + 1, 0), shift(s.dimensions) {
        for (int i = s.dimensions - 1; i >= 0; --i) {
            shift[i] = bits;
            int width = 1;
            while ((std::int64_t(s.high[i]) - s.low[i] + 2 * margin) >> width) ++width;
            if (bits < 64) unit[i + 1] = Key(1) << bits;
            unit[0] -= unit[i + 1];
            bits += width;
        }
    }

    static constexpr int margin = 3;
};

// Calls use(corner number, key) for the corners of points [begin, end): from the vertex of remainder c to that of
// remainder c + 1 is a step back along the axis whose offset has rank d - c.
template <class Use>
void for_each_key(const Simplexes &s, const Packing &packing, std::size_t begin, std::size_t end, const Use &use) {
    const int d = s.dimensions, corners = d + 1;
    std::vector<Key> step(corners);
    for (std::size_t p = begin; p < end; ++p) {
        const std::int32_t *cell = s.cell.data() + p * d;
        const std::uint8_t *rank = s.rank.data() + p * corners;
        Key key = 0;
        for (int i = 0; i < d; ++i)
            key += Key(std::int64_t(cell[i]) - s.low[i] + Packing::margin) << packing.shift[i];
        for (int i = 0; i < corners; ++i) step[rank[i]] = packing.unit[i];
        for (int c = 0; c < corners; ++c) {
            use(p * corners + c, key);
            key -= step[d - c];
        }
    }
}

inline std::size_t scramble(Key key) {
    key *= 0x9E3779B97F4A7C15ull;
    return std::size_t(key ^ (key >> 32));
}

// Gives keys numbers 0, 1, 2 ... in the order they come.
class Numbering {
public:
    explicit Numbering(std::size_t expected) : slots_(4096) {
        while (slots_.size() < expected) slots_.resize(slots_.size() * 2);
    }

    std::int32_t number(Key key) {
        const std::size_t mask = slots_.size() - 1;
        std::size_t place = scramble(key) & mask;
        while (slots_[place].number >= 0) {
            if (slots_[place].key == key) return slots_[place].number;
            place = (place + 1) & mask;
        }
        slots_[place] = {key, std::int32_t(keys_.size())};
        keys_.push_back(key);
        if (keys_.size() * 3 > slots_.size() * 2) grow();
        return std::int32_t(keys_.size() - 1);
    }

    const Buffer<Key> &keys() const { return keys_; }

private:
    struct Slot {
        Key key = 0;
        std::int32_t number = -1;
    };

    void grow() {
        Buffer<Slot> larger(slots_.size() * 2);
        const std::size_t mask = larger.size() - 1;
        for (const Slot &slot : slots_) {
            if (slot.number < 0) continue;
            std::size_t place = scramble(slot.key) & mask;
            while (larger[place].number >= 0) place = (place + 1) & mask;
            larger[place] = slot;
        }
        slots_.swap(larger);
    }

    Buffer<Slot> slots_;
    Buffer<Key> keys_;
};

struct Entry {
    Key key;
    std::int32_t number;
};

// Sorts by key, 11 bits a pass from the lowest; `spare` is scratch of the same size.
void radix_sort(Buffer<Entry> &entries, int bits) {
    Buffer<Entry> spare(entries.size());
    for (int shift = 0; shift < bits; shift += 11) {
        std::vector<std::size_t> start(2049, 0);
        for (const Entry &e : entries) ++start[((e.key >> shift) & 2047) + 1];
        for (std::size_t i = 0; i < 2048; ++i) start[i + 1] += start[i];
        for (const Entry &e : entries) spare[start[(e.key >> shift) & 2047]++] = e;
        entries.swap(spare);
    }
}

// Keys that split the corners into about equal parts: quantiles of a sample.
std::vector<Key> find_pivots(const Simplexes &s, const Packing &packing, int parts) {
    std::vector<Key> sample, pivots;
    const std::size_t stride = std::max<std::size_t>(1, s.points / 1024);
    for (std::size_t p = 0; p < s.points; p += stride)
        for_each_key(s, packing, p, p + 1, [&](std::size_t, Key key) { sample.push_back(key); });
    std::sort(sample.begin(), sample.end());
    for (int part = 1; part < parts; ++part) pivots.push_back(sample[sample.size() * part / parts]);
    return pivots;
}

void find_neighbours(Vertices &vertices, const Buffer<Key> &keys, const Simplexes &s, const Packing &packing,
                     int threads) {
    const int corners = s.dimensions + 1;
    vertices.neighbours.assign(std::size_t(corners) * 2 * vertices.count, 0);
    for (int axis = 0; axis < corners; ++axis) {
        const Key step = packing.unit[axis];
        std::int32_t *pairs = vertices.neighbours.data() + std::size_t(axis) * 2 * vertices.count;
        parallel_for(threads, vertices.count, [&](std::size_t begin, std::size_t end) {
            auto other = std::lower_bound(keys.begin(), keys.end(), keys[begin] + step);
            for (std::size_t v = begin; v < end; ++v) {
                const Key wanted = keys[v] + step;
                while (other != keys.end() && *other < wanted) ++other;
                if (other == keys.end() || *other != wanted) continue;
                const std::size_t up = std::size_t(other - keys.begin());
                pairs[2 * v] = std::int32_t(up + 1);  // and this vertex is that one's neighbour down the axis
                pairs[2 * up + 1] = std::int32_t(v + 1);
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

Vertices number_packed(const Simplexes &s, const Packing &packing, int threads) {
    const std::size_t all = s.points * (s.dimensions + 1);
    Vertices vertices;
    vertices.corner.resize(all);
    const std::size_t most_numbers = std::numeric_limits<std::int32_t>::max();
    const int parts = int(std::min({std::size_t(std::min(threads, 64)), 1 + s.points / 4096, most_numbers / all}));
    const std::vector<Key> pivots = find_pivots(s, packing, parts);
    const std::int32_t stride = std::numeric_limits<std::int32_t>::max() / parts;  // first numbers of the parts
    std::vector<Buffer<Key>> keys(parts);
    std::vector<Buffer<std::int32_t>> place(parts);  // number of first touch -> place in sorted order
    parallel_for(parts, parts, [&](std::size_t begin, std::size_t end) {
        for (std::size_t part = begin; part < end; ++part) {  // each part looks at all keys and takes its range
            const Key least = part ? pivots[part - 1] : 0;
            const bool last = part + 1 == std::size_t(parts);
            const Key most = last ? ~Key(0) : pivots[part];
            Numbering numbering(s.points / parts);
            for_each_key(s, packing, 0, s.points, [&](std::size_t corner, Key key) {
                if (key >= least && (key < most || last))
                    vertices.corner[corner] = std::int32_t(part) * stride + numbering.number(key);
            });
            Buffer<Entry> entries(numbering.keys().size());
            for (std::size_t i = 0; i < entries.size(); ++i) entries[i] = {numbering.keys()[i], std::int32_t(i)};
            radix_sort(entries, packing.bits);
            place[part].resize(entries.size());
            keys[part].resize(entries.size());
            for (std::size_t i = 0; i < entries.size(); ++i) {
                place[part][entries[i].number] = std::int32_t(i);
                keys[part][i] = entries[i].key;
            }
        }
    }, 1);
    std::vector<std::int32_t> before(parts);
    Buffer<Key> sorted;
    for (int part = 0; part < parts; ++part) {
        before[part] = std::int32_t(sorted.size()) + 1;
        sorted.insert(sorted.end(), keys[part].begin(), keys[part].end());
    }
    vertices.count = sorted.size();
    parallel_for(threads, all, [&](std::size_t begin, std::size_t end) {
        for (std::size_t corner = begin; corner < end; ++corner) {
            const std::int32_t part = vertices.corner[corner] / stride;
            vertices.corner[corner] = before[part] + place[part][vertices.corner[corner] - part * stride];
        }
    });
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
            for (std::size_t v = 0; v < count_; ++v) slots_[place(this->key(v))] = std::int32_t(v + 1);
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
    for (std::size_t p = 0; p < s.points; ++p) {
        std::copy_n(s.cell.begin() + p * d, d, key.begin());
        for (int i = 0; i < corners; ++i) axis_of[s.rank[p * corners + i]] = i;
        for (int c = 0; c < corners; ++c) {
            vertices.corner[p * corners + c] = table.find_or_add(key.data());
            step(axis_of[d - c], -1);
        }
    }
    vertices.count = table.count();
    vertices.neighbours.assign(std::size_t(corners) * 2 * vertices.count, 0);
    for (std::size_t v = 0; v < vertices.count; ++v)
        for (int axis = 0; axis < corners; ++axis) {
            std::copy_n(table.key(v), d, key.begin());
            step(axis, 1);
            const std::int32_t up = table.find(key.data());
            if (up == 0) continue;
            std::int32_t *pairs = vertices.neighbours.data() + std::size_t(axis) * 2 * vertices.count;
            pairs[2 * v] = up;
            pairs[2 * std::size_t(up - 1) + 1] = std::int32_t(v + 1);
        }
    vertices.first_local_axis = corners;
    vertices.blocks = {0, std::int32_t(vertices.count)};
    return vertices;
}

}  // namespace

Vertices number_vertices(const Simplexes &simplexes, int threads) {
    if (simplexes.points == 0) return {};
    const Packing packing(simplexes);
    return packing.bits <= 63 ? number_packed(simplexes, packing, threads) : number_wide(simplexes);
}

}  // namespace densecrf
