// Numbering of vertices whose coordinates do not fit into a key of 64 bits; see vertices.hpp.
// SPDX-License-Identifier: MIT
#include <algorithm>

#include "parallel.hpp"
#include "vertices.hpp"

namespace densecrf {
namespace {

// A hash table of coordinate lists. Vertices are numbered from 1 in the order in which they are added.
class CoordinateTable {
public:
    explicit CoordinateTable(int dimensions) : d_(dimensions), slots_(1024, 0) {}

    // The number of a vertex, 0 if it is not there.
    std::int32_t find(const std::int32_t *key) const { return slots_[slot_of(key)]; }

    std::int32_t find_or_add(const std::int32_t *key) {
        if ((count_ + 1) * 2 > slots_.size()) {
            slots_.assign(slots_.size() * 4, 0);
            in_pieces(0, count_, 256, [&](std::size_t begin, std::size_t end) {
                for (std::size_t v = begin; v < end; ++v) slots_[slot_of(this->key(v))] = std::int32_t(v + 1);
            });
        }
        const std::size_t slot = slot_of(key);
        if (slots_[slot] == 0) {
            keys_.insert(keys_.end(), key, key + d_);
            slots_[slot] = std::int32_t(++count_);
        }
        return slots_[slot];
    }

    std::size_t count() const { return count_; }
    const std::int32_t *key(std::size_t v) const { return keys_.data() + v * d_; }

private:
    // The slot that holds the key, or the empty one where it belongs.
    std::size_t slot_of(const std::int32_t *key) const {
        std::uint64_t hash = 0;
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

// Moves a vertex `count` steps along an axis; a step along axis 0 is one back along all others.
void move(std::vector<std::int32_t> &key, int axis, int count) {
    for (std::size_t i = 0; i < key.size(); ++i)
        key[i] += axis == 0 ? -count : int(i) + 1 == axis ? count : 0;
}

// Adds the corners of all simplexes to the table and stores their rows.
void add_corners(const Simplexes &s, CoordinateTable &table, Buffer<std::int32_t> &corner) {
    const int d = s.dimensions, corners = d + 1;
    std::vector<std::int32_t> key(d);
    std::vector<int> axis_of(corners);
    in_pieces(0, s.points, 16, [&](std::size_t begin, std::size_t end) {
        for (std::size_t p = begin; p < end; ++p) {
            std::copy_n(s.cell.begin() + p * d, d, key.begin());
            for (int i = 0; i < corners; ++i) axis_of[s.rank[p * corners + i]] = i;
            for (int c = 0; c < corners; ++c) {
                corner[p * corners + c] = table.find_or_add(key.data());
                move(key, axis_of[d - c], -1);
            }
        }
    });
}

}  // namespace

Vertices number_wide_vertices(const Simplexes &s) {
    const int d = s.dimensions, corners = d + 1;
    Vertices vertices;
    vertices.corner.resize(s.points * corners);
    CoordinateTable table(d);
    add_corners(s, table, vertices.corner);
    vertices.count = table.count();
    vertices.neighbours.assign(std::size_t(corners) * 2 * vertices.count, 0);
    std::vector<std::int32_t> key(d);
    in_pieces(0, vertices.count, 1, [&](std::size_t v, std::size_t) {
        for (int axis = 0; axis < corners; ++axis) {
            std::copy_n(table.key(v), d, key.begin());
            move(key, axis, 1);
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

}  // namespace densecrf
