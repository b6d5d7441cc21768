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

// How points hang on the vertices: each on d + 1 corners of a simplex.
struct Ties {
    std::size_t points = 0;
    int corners = 0;
    Buffer<std::int32_t> corner;  // points x corners: rows of the corners
    Buffer<float> weight;         // points x corners: what a slice multiplies the rows with
    Buffer<std::int32_t> first;   // vertices + 1: where each vertex's touches begin
    Buffer<Touch> touches;        // points x corners: the same from the vertices' side, what a splat multiplies with

    // Lists the points that touch each vertex, in order, with the weights as they are or times each point's scale: a splat
    // then is a gather, with one writer a row. Parts of the points are counted and then placed side by side.
    void group_by_vertex(std::size_t vertices, const float *scale, int threads) {
        const std::size_t parts = std::min<std::size_t>(std::min(threads, 8), 1 + points / 8192);
        std::vector<Buffer<std::int32_t>> next(parts);
        const auto each_part = [&](const auto &work) {
            parallel_for(int(parts), parts, [&](std::size_t begin, std::size_t end) {
                for (std::size_t n = begin; n < end; ++n)
                    work(next[n], points * n / parts * corners, points * (n + 1) / parts * corners);
            }, 1);
        };
        each_part([&](Buffer<std::int32_t> &counts, std::size_t begin, std::size_t end) {
            counts.assign(vertices, 0);
            for (std::size_t place = begin; place < end; ++place) ++counts[corner[place] - 1];
        });
        first.resize(vertices + 1);
        std::int32_t total = 0;
        for (std::size_t v = 0; v < vertices; ++v) {
            first[v] = total;
            for (Buffer<std::int32_t> &counts : next) {
                const std::int32_t own = counts[v];
                counts[v] = total;
                total += own;
            }
        }
        first[vertices] = total;
        touches.resize(corner.size());
        each_part([&](Buffer<std::int32_t> &places, std::size_t begin, std::size_t end) {
            std::int32_t point = std::int32_t(begin / corners);
            for (std::size_t place = begin; place < end; ++point)
                for (int c = 0; c < corners; ++c, ++place)
                    touches[places[corner[place] - 1]++] = {point, scale ? scale[point] * weight[place] : weight[place]};
        });
    }
};

// out[i - begin] += strength x value of point i, lane by lane, for i in [begin, end).
inline void slice_add(int lanes, const Ties &ties, const float *rows, const float *strength, float *out,
                      std::size_t begin, std::size_t end) {
    slice_add(lanes, ties.corners, ties.corner.data(), ties.weight.data(), rows, strength, out, begin, end);
}

class Lattice {
public:
    // features: N x d, row-major, already divided by the standard deviations, finite (checked by the caller).
    Lattice(const float *features, std::size_t points, int dimensions, int threads)
        : corners_(dimensions + 1), slice_factor_(1.0f / (1.0f + std::ldexp(1.0f, -dimensions))) {
        if (points >= std::size_t(std::numeric_limits<std::int32_t>::max()) / corners_)
            throw std::length_error("too many points: points x (dimensions + 1) must stay under 2^31; use tiles");
        Simplexes s{points, dimensions, {}, {}, {}, {}};
        s.cell.resize(points * dimensions);
        s.rank.resize(points * corners_);
        all_.points = points;
        all_.corners = corners_;
        all_.weight.resize(points * corners_);
        locate_all(features, s, threads);
        Vertices vertices = number_vertices(s, threads);
        vertices_ = vertices.count;
        all_.corner = std::move(vertices.corner);
        neighbours_ = std::move(vertices.neighbours);
        first_local_axis_ = vertices.first_local_axis;
        blocks_ = std::move(vertices.blocks);
        s = {};
        all_.group_by_vertex(vertices_, nullptr, threads);
        parallel_for(threads, all_.weight.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t place = begin; place < end; ++place) all_.weight[place] *= slice_factor_;
        });
    }

    const Ties &all() const { return all_; }
    std::size_t points() const { return all_.points; }
    std::size_t vertices() const { return vertices_; }

    // From here on point i's value counts before[i] times, and what it gets is multiplied by after[i].
    void scale(const Buffer<float> &before, const Buffer<float> &after, int threads) {
        splat_over_slice_.resize(points());
        parallel_for(threads, points(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                for (int c = 0; c < corners_; ++c) all_.weight[i * corners_ + c] *= after[i];
                splat_over_slice_[i] = after[i] > 0 ? before[i] / (after[i] * slice_factor_) : 0.0f;
            }
        });
        parallel_for(threads, all_.touches.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t t = begin; t < end; ++t) all_.touches[t].weight *= before[all_.touches[t].point];
        });
    }

    // The ties of some points only, which are numbered anew from 0.
    void select(const Buffer<std::int32_t> &points, Ties &part, int threads) const {
        part.points = points.size();
        part.corners = corners_;
        part.corner.resize(part.points * corners_);
        part.weight.resize(part.points * corners_);
        std::vector<float> splat_scale(part.points, 1 / slice_factor_);
        parallel_for(threads, part.points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) {
                std::copy_n(all_.corner.data() + points[n] * corners_, corners_, part.corner.data() + n * corners_);
                std::copy_n(all_.weight.data() + points[n] * corners_, corners_, part.weight.data() + n * corners_);
                if (!splat_over_slice_.empty()) splat_scale[n] = splat_over_slice_[points[n]];
            }
        });
        part.group_by_vertex(vertices_, splat_scale.data(), threads);
    }

    // Splat and blur: values are rows of `lanes` floats, one for each of the ties' points. The result is in `rows`; both
    // buffers grow as needed and keep row 0 at zero.
    void splat_and_blur(const Ties &ties, const float *values, int lanes, Buffer<float> &rows, Buffer<float> &spare,
                        int threads) const {
        for (Buffer<float> *buffer : {&rows, &spare}) {
            if (buffer->size() < (vertices_ + 1) * lanes) buffer->resize((vertices_ + 1) * lanes);
            std::fill_n(buffer->begin(), lanes, 0.0f);
        }
        parallel_for(threads, vertices_, [&](std::size_t begin, std::size_t end) {
            splat(lanes, ties.first.data(), ties.touches.data(), values, rows.data(), begin, end);
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

    // What a point's own value contributes to its filtered value. From corner to corner of its simplex the blur has two
    // ways: down the axes between them, or up all the others; each in the order of axes, over vertices that must exist.
    float own_share(std::size_t point) const {
        const std::int32_t *corner = all_.corner.data() + point * corners_;
        const float *weight = all_.weight.data() + point * corners_;
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
        parallel_for(threads, points(), [&](std::size_t begin, std::size_t end) {
            std::vector<std::int32_t> low = none_low, high = none_high;
            if (!locate(features, d, begin, end, s.cell.data(), s.rank.data(), all_.weight.data(), low.data(), high.data()))
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

    std::size_t vertices_ = 0;
    int corners_;                       // d + 1
    float slice_factor_;
    Ties all_;
    Buffer<float> splat_over_slice_;    // N, where values are scaled: ratio of a point's splat and slice weights
    Buffer<std::int32_t> neighbours_;   // (d+1) x M x 2
    int first_local_axis_ = 0;
    std::vector<std::int32_t> blocks_;  // as in Vertices
};

}  // namespace densecrf
