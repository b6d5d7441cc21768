// Numbering of vertices whose coordinates do not fit into a key of 64 bits; see vertices.hpp.
// SPDX-License-Identifier: MIT
#include <algorithm>

#include "parallel.hpp"
#include "vertices.hpp"

namespace densecrf {
namespace {

// The hash of a list of coordinates is a weighted sum, so that a step along an axis adds a number to it.
class StepHash {
public:
    explicit StepHash(int dimensions) : factors_(dimensions), steps_(dimensions + 1, 0) {
        std::uint64_t state = 0;
        for (int i = 0; i < dimensions; ++i) {  // splitmix64
            std::uint64_t mixed = state += 0x9E3779B97F4A7C15ull;
            mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ull;
            mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBull;
            factors_[i] = steps_[i + 1] = mixed ^ (mixed >> 31);
            steps_[0] -= factors_[i];
        }
    }

    std::uint64_t of(const std::int32_t *key) const {
        std::uint64_t hash = 0;
        for (std::size_t i = 0; i < factors_.size(); ++i)
            hash += factors_[i] * std::uint64_t(std::int64_t(key[i]));
        return hash;
    }

    // What one step along an axis adds; a step along axis 0 is one back along all others.
    std::uint64_t step(int axis) const { return steps_[axis]; }

private:
    std::vector<std::uint64_t> factors_, steps_;
};

// A hash table of coordinate lists. Vertices are numbered from 1 in the order in which they are added.
class CoordinateTable {
public:
    explicit CoordinateTable(int dimensions) : d_(dimensions), slots_(1024, 0) {}

    // The number of the vertex one step along an axis from vertex v (from 0), 0 if it is not there.
    std::int32_t find_beside(std::size_t v, int axis, std::uint64_t hash) const {
        const std::int32_t *from = key(v);
        return slots_[slot_of(hash, [&](const std::int32_t *other) {
            for (int i = 0; i < d_; ++i)
                if (other[i] != from[i] + (axis == 0 ? -1 : i + 1 == axis ? 1 : 0)) return false;
            return true;
        })];
    }

    std::int32_t find_or_add(const std::int32_t *key, std::uint64_t hash) {
        if ((hashes_.size() + 1) * 2 > slots_.size()) {
            slots_.assign(slots_.size() * 4, 0);
            in_pieces(0, hashes_.size(), 4096, [&](std::size_t begin, std::size_t end) {
                for (std::size_t v = begin; v < end; ++v)
                    slots_[slot_of(hashes_[v], [](const std::int32_t *) { return false; })] =
                        std::int32_t(v + 1);
            });
        }
        const std::size_t slot =
            slot_of(hash, [&](const std::int32_t *other) { return std::equal(key, key + d_, other); });
        if (slots_[slot] == 0) {
            keys_.insert(keys_.end(), key, key + d_);
            hashes_.push_back(hash);
            slots_[slot] = std::int32_t(hashes_.size());
        }
        return slots_[slot];
    }

    std::size_t count() const { return hashes_.size(); }
    std::uint64_t hash(std::size_t v) const { return hashes_[v]; }

private:
    const std::int32_t *key(std::size_t v) const { return keys_.data() + v * d_; }

    // The slot of the vertex with this hash whose key is the one meant, or the empty one where it belongs.
    template <class IsMeant>
    std::size_t slot_of(std::uint64_t hash, const IsMeant &is_meant) const {
        const std::size_t mask = slots_.size() - 1;
        for (std::size_t slot = (hash ^ (hash >> 32)) & mask;; slot = (slot + 1) & mask) {
            if (slots_[slot] == 0) return slot;
            const std::size_t v = slots_[slot] - 1;
            if (hashes_[v] == hash && is_meant(key(v))) return slot;
        }
    }

    int d_;
    std::vector<std::int32_t> slots_, keys_;
    std::vector<std::uint64_t> hashes_;
};

// Adds the corners of all simplexes to the table and stores their rows.
void add_corners(const Simplexes &s, const StepHash &hashes, CoordinateTable &table,
                 Buffer<std::int32_t> &corner) {
    const int d = s.dimensions, corners = d + 1;
    std::vector<std::int32_t> key(d);
    std::vector<int> axis_of(corners);
    in_pieces(0, s.points, 16, [&](std::size_t begin, std::size_t end) {
        for (std::size_t p = begin; p < end; ++p) {
            std::copy_n(s.cell.begin() + p * d, d, key.begin());
            std::uint64_t hash = hashes.of(key.data());
            for (int i = 0; i < corners; ++i) axis_of[s.rank[p * corners + i]] = i;
            for (int c = 0; c < corners; ++c) {
                corner[p * corners + c] = table.find_or_add(key.data(), hash);
                const int axis = axis_of[d - c];  // one step back along it
                hash -= hashes.step(axis);
                if (axis > 0)
                    --key[axis - 1];
                else
                    for (std::int32_t &coordinate : key) ++coordinate;
            }
        }
    });
}

}  // namespace

Vertices number_wide_vertices(const Simplexes &s) {
    const int d = s.dimensions, corners = d + 1;
    Vertices vertices;
    vertices.corner.resize(s.points * corners);
    const StepHash hashes(d);
    CoordinateTable table(d);
    add_corners(s, hashes, table, vertices.corner);
    vertices.count = table.count();
    vertices.neighbours.assign(std::size_t(corners) * 2 * vertices.count, 0);
    in_pieces(0, vertices.count, 1, [&](std::size_t v, std::size_t) {
        for (int axis = 0; axis < corners; ++axis) {
            const std::int32_t up = table.find_beside(v, axis, table.hash(v) + hashes.step(axis));
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
