// The permutohedral lattice: a Gaussian filter over N points with d features each, in time linear in N.
// Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010; the constants
// (one [1/2 1 1/2] blur an axis, slice factor 1 / (1 + 2^-d)) are those of the dense CRF of Kraehenbuehl and Koltun, 2011.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "buffer.hpp"
#include "parallel.hpp"
#include "rows.hpp"
#include "simplex.hpp"
#include "vertices.hpp"

namespace densecrf {

class Lattice {
public:
    // features: N x d, row-major, already divided by the standard deviations, finite (checked by the caller).
    Lattice(const float *features, std::size_t points, int dimensions, int threads)
        : points_(points), corners_(dimensions + 1) {
        if (points >= std::size_t(std::numeric_limits<std::int32_t>::max()) / corners_)
            throw std::length_error("too many points: points x (dimensions + 1) must stay under 2^31; use tiles");
        Simplexes s{points, dimensions, {}, {}, {}, {}};
        s.cell.resize(points * dimensions);
        s.rank.resize(points * corners_);
        weight_.resize(points * corners_);
        locate_all(features, s, threads);
        Vertices vertices = number_vertices(s, threads);
        vertices_ = vertices.count;
        corner_ = std::move(vertices.corner);
        neighbours_ = std::move(vertices.neighbours);
        first_local_axis_ = vertices.first_local_axis;
        blocks_ = std::move(vertices.blocks);
        group_by_vertex(threads);
        const float alpha = 1.0f / (1.0f + std::ldexp(1.0f, -dimensions));
        for (float &w : weight_) w *= alpha;  // from here on only the slice uses them
    }

    std::size_t points() const { return points_; }
    std::size_t vertices() const { return vertices_; }

    // Splat and blur: values are N rows of `lanes` floats, each scaled by before[i] (as they are where it is null).
    // The result is in `rows`; both buffers grow as needed and keep row 0 at zero.
    void splat_and_blur(const float *values, const float *before, int lanes, Buffer<float> &rows,
                        Buffer<float> &spare, int threads) const {
        for (Buffer<float> *buffer : {&rows, &spare}) {
            if (buffer->size() < (vertices_ + 1) * lanes) buffer->resize((vertices_ + 1) * lanes);
            std::fill_n(buffer->begin(), lanes, 0.0f);
        }
        parallel_for(threads, vertices_, [&](std::size_t begin, std::size_t end) {
            splat(lanes, first_.data(), touches_.data(), before, values, rows.data(), begin, end);
        });
        for (int axis = 0; axis < first_local_axis_; ++axis) {
            parallel_for(threads, vertices_, [&](std::size_t begin, std::size_t end) {
                blur(lanes, rows.data(), pairs(axis), spare.data(), begin, end);
            });
            rows.swap(spare);
        }
        const int local = corners_ - first_local_axis_;
        parallel_for(threads, local && vertices_ ? blocks_.size() - 1 : 0, [&](std::size_t begin, std::size_t end) {
            for (std::size_t b = begin; b < end; ++b)  // a block stays in the caches from axis to axis
                for (int i = 0; i < local; ++i)
                    blur(lanes, i % 2 ? spare.data() : rows.data(), pairs(first_local_axis_ + i),
                         i % 2 ? rows.data() : spare.data(), blocks_[b], blocks_[b + 1]);
        }, 1);
        if (local % 2) rows.swap(spare);
    }

    // out[i] += after[i] x strength x value of point i, lane by lane, for i in [begin, end).
    void slice(int lanes, const float *rows, const float *after, const float *strength, float *out, std::size_t begin,
               std::size_t end) const {
        slice_add(lanes, corners_, corner_.data(), weight_.data(), rows, after, strength, out, begin, end);
    }

    // What a point's own value contributes to its filtered value. From corner to corner of its simplex the blur has two
    // ways: down the axes between them, or up all the others; each in the order of axes, over vertices that must exist.
    float own_share(std::size_t point) const {
        const std::int32_t *corner = corner_.data() + point * corners_;
        const float *weight = weight_.data() + point * corners_;
        std::vector<int> axis(corners_);  // down which axis each corner's successor lies
        for (int c = 0; c < corners_; ++c)
            for (int i = 0; i < corners_; ++i)
                if (pairs(i)[2 * (corner[c] - 1) + 1] == corner[(c + 1) % corners_]) axis[c] = i;
        std::vector<char> between(corners_);
        float share = 0, alpha = 0;
        for (int a = 0; a < corners_; ++a) {
            alpha += weight[a];  // without the slice factor the weights sum to one
            std::fill(between.begin(), between.end(), 1);  // back to itself: down all axes, up all, or staying
            share += weight[a] * weight[a] * way(corner[a], between, 0);
            std::fill(between.begin(), between.end(), 0);
            share += weight[a] * weight[a] * (way(corner[a], between, 0) + way(corner[a], between, 1));
            for (int b = (a + 1) % corners_; b != a; b = (b + 1) % corners_) {
                between[axis[(b + corners_ - 1) % corners_]] = 1;
                share += weight[a] * weight[b] * (way(corner[a], between, 0) + way(corner[a], between, 1));
            }
        }
        return share / alpha;
    }

private:
    const std::int32_t *pairs(int axis) const { return neighbours_.data() + std::size_t(axis) * 2 * vertices_; }

    // The blur's factor along one way from a row: down the marked axes, or up the unmarked ones; 0 if a vertex is missing.
    float way(std::int32_t row, const std::vector<char> &marked, int up) const {
        float factor = 1;
        for (int axis = 0; axis < corners_; ++axis) {
            if (bool(marked[axis]) == bool(up)) continue;
            row = pairs(axis)[2 * (row - 1) + (up ? 0 : 1)];
            if (row == 0) return 0;
            factor *= 0.5f;
        }
        return factor;
    }

    void locate_all(const float *features, Simplexes &s, int threads) {
        const int d = s.dimensions;
        s.low.assign(d, std::numeric_limits<std::int32_t>::max());
        s.high.assign(d, std::numeric_limits<std::int32_t>::min());
        const std::vector<std::int32_t> none_low = s.low, none_high = s.high;
        std::mutex guard;
        parallel_for(threads, points_, [&](std::size_t begin, std::size_t end) {
            std::vector<std::int32_t> low = none_low, high = none_high;
            if (!locate(features, d, begin, end, s.cell.data(), s.rank.data(), weight_.data(), low.data(), high.data()))
                throw std::invalid_argument(
                    "features span more lattice cells than can be told apart; wanted |feature / std| under about 10^6: "
                    "use larger standard deviations or smaller feature values");
            const std::lock_guard<std::mutex> lock(guard);
            for (int i = 0; i < d; ++i) {
                s.low[i] = std::min(s.low[i], low[i]);
                s.high[i] = std::max(s.high[i], high[i]);
            }
        });
    }

    // The points that touch each vertex, in order: a splat then is a gather, with one writer a row.
    void group_by_vertex(int threads) {
        first_.assign(vertices_ + 1, 0);
        for (const std::int32_t row : corner_) ++first_[row];
        for (std::size_t v = 0; v < vertices_; ++v) first_[v + 1] += first_[v];
        touches_.resize(corner_.size());
        Buffer<std::int32_t> next(first_.begin(), first_.end());
        parallel_for(threads, vertices_, [&](std::size_t begin, std::size_t end) {  // each takes its range of vertices
            for (std::size_t point = 0, corner = 0; point < points_; ++point)
                for (int c = 0; c < corners_; ++c, ++corner) {
                    const std::size_t v = std::size_t(corner_[corner]) - 1;
                    if (v >= begin && v < end) touches_[next[v]++] = {std::int32_t(point), weight_[corner]};
                }
        }, 1 << 15);
    }

    std::size_t points_, vertices_ = 0;
    int corners_;                           // d + 1
    Buffer<float> weight_;             // N x (d+1): barycentric coordinates, times the slice factor
    Buffer<std::int32_t> corner_;      // N x (d+1): rows of the corners
    Buffer<std::int32_t> neighbours_;  // (d+1) x M x 2
    int first_local_axis_ = 0;
    std::vector<std::int32_t> blocks_;      // as in Vertices
    Buffer<std::int32_t> first_;       // M + 1: where each vertex's touches begin
    Buffer<Touch> touches_;            // N x (d+1)
};

}  // namespace densecrf
