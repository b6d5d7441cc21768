// The permutohedral lattice: a Gaussian filter over N points with d features each, in time linear in N.
// Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010; the constants
// (one [1/2 1 1/2] blur an axis, slice factor 1 / (1 + 2^-d)) are those of the dense CRF of Kraehenbuehl and Koltun, 2011.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "parallel.hpp"

namespace densecrf {

// Vertex rows are numbered from 1; row 0 is kept at zero and stands for every vertex that no point touches.
class Lattice {
public:
    // features: N x d, row-major, already divided by the standard deviations, finite (checked by the caller).
    Lattice(const float *features, std::size_t points, int dimensions, int threads)
        : points_(points), d_(dimensions), corners_(dimensions + 1) {
        if (points_ >= std::size_t(std::numeric_limits<std::int32_t>::max()) / corners_)
            throw std::length_error("too many points: points x (dimensions + 1) must stay under 2^31; use tiles");
        vertex_.resize(points_ * corners_);
        weight_.resize(points_ * corners_);
        std::vector<std::int32_t> base(points_ * d_);  // the enclosing simplex: its remainder-0 vertex ...
        std::vector<std::uint8_t> rank(points_ * corners_);  // ... and the order of the point's offsets from it
        locate(features, base, rank, threads);
        number_vertices(base, rank);
        find_neighbours(threads);
        keys_ = {};
        table_ = {};
        group_by_vertex();
    }

    std::size_t points() const { return points_; }
    std::size_t vertices() const { return vertices_; }

    // Splat and blur: values are N x lanes rows, each scaled by before[i] (or taken as they are where it is null).
    // `rows` and `spare` hold the vertex rows; the result is in `rows`.
    void splat_and_blur(const float *values, const float *before, std::size_t lanes, std::vector<float> &rows,
                        std::vector<float> &spare, int threads) const {
        rows.resize((vertices_ + 1) * lanes);
        spare.resize((vertices_ + 1) * lanes);
        std::fill_n(rows.begin(), lanes, 0.0f);
        std::fill_n(spare.begin(), lanes, 0.0f);
        parallel_for(threads, vertices_, [&](std::size_t begin, std::size_t end) {
            for (std::size_t v = begin; v < end; ++v) {
                float *row = rows.data() + (v + 1) * lanes;
                std::fill_n(row, lanes, 0.0f);
                for (std::int32_t e = first_[v]; e < first_[v + 1]; ++e) {  // a gather: each row has one writer
                    const std::int32_t corner = members_[e];
                    const std::size_t point = corner / corners_;
                    const float w = before ? weight_[corner] * before[point] : weight_[corner];
                    const float *value = values + point * lanes;
                    for (std::size_t k = 0; k < lanes; ++k) row[k] += w * value[k];
                }
            }
        });
        for (int axis = 0; axis < corners_; ++axis) {
            const std::int32_t *pairs = neighbours_.data() + std::size_t(axis) * 2 * vertices_;
            parallel_for(threads, vertices_, [&](std::size_t begin, std::size_t end) {
                for (std::size_t v = begin; v < end; ++v) {
                    const float *own = rows.data() + (v + 1) * lanes;
                    const float *lower = rows.data() + pairs[2 * v] * lanes;
                    const float *upper = rows.data() + pairs[2 * v + 1] * lanes;
                    float *blurred = spare.data() + (v + 1) * lanes;
                    for (std::size_t k = 0; k < lanes; ++k) blurred[k] = own[k] + 0.5f * (lower[k] + upper[k]);
                }
            });
            rows.swap(spare);
        }
    }

    // Slice one point: out[k] += scale * (filtered value k of the point).
    void slice_add(const float *rows, std::size_t point, float scale, std::size_t lanes, float *out) const {
        const float alpha = scale / (1.0f + std::ldexp(1.0f, -d_));
        for (int c = 0; c < corners_; ++c) {
            const std::size_t corner = point * corners_ + c;
            const float w = alpha * weight_[corner];
            const float *row = rows + vertex_[corner] * lanes;
            for (std::size_t k = 0; k < lanes; ++k) out[k] += w * row[k];
        }
    }

    // values: N x lanes in, out: N x lanes.
    void filter(const float *values, std::size_t lanes, float *out, int threads) const {
        std::vector<float> rows, spare;
        splat_and_blur(values, nullptr, lanes, rows, spare, threads);
        parallel_for(threads, points_, [&](std::size_t begin, std::size_t end) {
            std::fill(out + begin * lanes, out + end * lanes, 0.0f);
            for (std::size_t i = begin; i < end; ++i) slice_add(rows.data(), i, 1.0f, lanes, out + i * lanes);
        });
    }

private:
    // For each point: the simplex around it and its barycentric coordinates there.
    void locate(const float *features, std::vector<std::int32_t> &base, std::vector<std::uint8_t> &rank, int threads) {
        std::vector<float> scale(d_);
        for (int i = 0; i < d_; ++i) scale[i] = corners_ * std::sqrt(2.0f / 3.0f) / std::sqrt(float((i + 1) * (i + 2)));
        parallel_for(threads, points_, [&](std::size_t begin, std::size_t end) {
            std::vector<float> elevated(corners_), nearest(corners_), barycentric(corners_ + 1);
            std::vector<int> order(corners_);
            for (std::size_t p = begin; p < end; ++p) {
                const float *feature = features + p * d_;
                float sum = 0;  // to the hyperplane whose coordinates sum to zero
                for (int j = d_; j > 0; --j) {
                    const float scaled = feature[j - 1] * scale[j - 1];
                    elevated[j] = sum - j * scaled;
                    sum += scaled;
                }
                elevated[0] = sum;
                int excess = 0;  // nearest point whose coordinates are multiples of d + 1; its sum is off by this many
                for (int i = 0; i < corners_; ++i) {
                    const float multiple = std::round(elevated[i] / corners_);
                    if (!(std::fabs(multiple) < float(1 << 30) / corners_))
                        throw std::invalid_argument(
                            "features span more lattice cells than keys can count; wanted |feature / std| well under "
                            "10^8: use larger standard deviations or smaller feature values");
                    nearest[i] = multiple * corners_;
                    excess += int(multiple);
                }
                std::fill(order.begin(), order.end(), 0);
                for (int i = 0; i < d_; ++i)
                    for (int j = i + 1; j < corners_; ++j)
                        elevated[i] - nearest[i] < elevated[j] - nearest[j] ? ++order[i] : ++order[j];
                for (int i = 0; i < corners_; ++i) {
                    order[i] += excess;
                    if (order[i] < 0) {
                        order[i] += corners_;
                        nearest[i] += corners_;
                    } else if (order[i] > d_) {
                        order[i] -= corners_;
                        nearest[i] -= corners_;
                    }
                    order[i] = std::min(std::max(order[i], 0), d_);  // holds already, unless rounding ate the digits
                }
                std::fill(barycentric.begin(), barycentric.end(), 0.0f);
                for (int i = 0; i < corners_; ++i) {
                    const float v = (elevated[i] - nearest[i]) / corners_;
                    barycentric[d_ - order[i]] += v;
                    barycentric[corners_ - order[i]] -= v;
                }
                barycentric[0] += 1.0f + barycentric[corners_];
                for (int c = 0; c < corners_; ++c) weight_[p * corners_ + c] = barycentric[c];
                for (int i = 0; i < d_; ++i) base[p * d_ + i] = std::int32_t(nearest[i]);
                for (int i = 0; i < corners_; ++i) rank[p * corners_ + i] = std::uint8_t(order[i]);
            }
        }, 256);
    }

    // Gives each distinct vertex a number, in the order of first touch: the same for any number of threads.
    void number_vertices(const std::vector<std::int32_t> &base, const std::vector<std::uint8_t> &rank) {
        table_.assign(1024, 0);
        std::vector<std::int32_t> key(d_);
        for (std::size_t p = 0; p < points_; ++p)
            for (int c = 0; c < corners_; ++c) {
                for (int i = 0; i < d_; ++i) {
                    const int shift = rank[p * corners_ + i] <= d_ - c ? c : c - corners_;
                    key[i] = base[p * d_ + i] + shift;
                }
                if ((vertices_ + 1) * 2 > table_.size()) grow();
                std::size_t slot = place(key.data());
                if (table_[slot] == 0) {
                    keys_.insert(keys_.end(), key.begin(), key.end());
                    table_[slot] = std::int32_t(++vertices_);
                }
                vertex_[p * corners_ + c] = table_[slot];
            }
    }

    void find_neighbours(int threads) {
        neighbours_.assign(std::size_t(corners_) * 2 * vertices_, 0);
        parallel_for(threads, vertices_, [&](std::size_t begin, std::size_t end) {
            std::vector<std::int32_t> key(d_);
            for (std::size_t v = begin; v < end; ++v)
                for (int axis = 0; axis < corners_; ++axis) {
                    for (int i = 0; i < d_; ++i) key[i] = keys_[v * d_ + i] - 1;
                    if (axis < d_) key[axis] += corners_;
                    const std::int32_t lower = table_[place(key.data())];
                    if (lower == 0) continue;
                    std::int32_t *pairs = neighbours_.data() + std::size_t(axis) * 2 * vertices_;
                    pairs[2 * v] = lower;  // and this vertex is the upper neighbour of that one, and of no other
                    pairs[2 * std::size_t(lower - 1) + 1] = std::int32_t(v + 1);
                }
        });
    }

    // The corners (point x (d + 1) + c) that touch each vertex, in order of points.
    void group_by_vertex() {
        first_.assign(vertices_ + 1, 0);
        for (const std::int32_t v : vertex_) ++first_[v];
        for (std::size_t v = 0; v < vertices_; ++v) first_[v + 1] += first_[v];
        members_.resize(vertex_.size());
        std::vector<std::int32_t> next(first_.begin(), first_.end());
        for (std::size_t corner = 0; corner < vertex_.size(); ++corner)
            members_[next[vertex_[corner] - 1]++] = std::int32_t(corner);
    }

    // The slot of a key in the open hash table: where it is, or the free one where it belongs.
    std::size_t place(const std::int32_t *key) const {
        std::uint64_t hash = 0;
        for (int i = 0; i < d_; ++i) hash = (hash ^ std::uint32_t(key[i])) * 0x9E3779B97F4A7C15ull;
        hash ^= hash >> 32;
        const std::size_t mask = table_.size() - 1;
        for (std::size_t slot = hash & mask;; slot = (slot + 1) & mask) {
            if (table_[slot] == 0) return slot;
            const std::int32_t *other = keys_.data() + std::size_t(table_[slot] - 1) * d_;
            if (std::equal(key, key + d_, other)) return slot;
        }
    }

    void grow() {
        table_.assign(table_.size() * 2, 0);
        for (std::size_t v = 0; v < vertices_; ++v) table_[place(keys_.data() + v * d_)] = std::int32_t(v + 1);
    }

    std::size_t points_, vertices_ = 0;
    int d_, corners_;
    std::vector<std::int32_t> vertex_;      // N x (d+1): row number of each corner's vertex
    std::vector<float> weight_;             // N x (d+1): barycentric coordinates
    std::vector<std::int32_t> neighbours_;  // (d+1) x M x 2: rows of the lower and upper neighbour on each axis
    std::vector<std::int32_t> first_, members_;  // corners by vertex
    std::vector<std::int32_t> keys_, table_;     // only while building: M x d coordinates, hash table of rows
};

}  // namespace densecrf
