// The permutohedral lattice: a Gaussian filter over N points with d features each, in time linear in N.
// Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010; the constants
// (one [1/2 1 1/2] blur an axis, slice factor 1 / (1 + 2^-d)) are those of the dense CRF of Kraehenbuehl and Koltun, 2011.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "simplex.hpp"
#include "ties.hpp"
#include "vertices.hpp"

namespace densecrf {

class Lattice {
public:
    // features: N x d, row-major, already divided by the standard deviations, finite (checked by the caller).
    // rings: of untouched vertices around the touched ones; without, the blur drops what would pass through them.
    // large: from how many points on ties are short, if numbers allow it.
    Lattice(const float *features, std::size_t points, int dimensions, int rings, int threads,
            std::size_t large = std::size_t(1) << 20)
        : points_(points), corners_(dimensions + 1) {
        if (points >= std::size_t(std::numeric_limits<std::int32_t>::max()) / corners_)
            throw std::length_error("too many points: points x (dimensions + 1) must stay under 2^31; use tiles");
        const float slice_factor = 1.0f / (1.0f + std::ldexp(1.0f, -dimensions));
        Buffer<float> weight(points * corners_);
        Vertices vertices = number_vertices(locate_all(features, dimensions, rings, weight.data(), threads), threads);
        vertices_ = vertices.count;
        const bool in_short = points >= large && std::max(points, vertices_ + 1) < ShortTie::most;
        const auto tie = [&](auto kind) {
            using T = decltype(kind);
            return std::make_unique<AnyTies>(
                Ties<T>(std::move(vertices.corner), std::move(weight), corners_, vertices_, slice_factor, threads));
        };
        ties_ = in_short ? tie(ShortTie()) : tie(Tie());
        neighbours_ = std::move(vertices.neighbours);
        first_local_axis_ = vertices.first_local_axis;
        blocks_ = std::move(vertices.blocks);
        if (points >= large) BlockCache::release_all();
    }

    std::size_t points() const { return points_; }
    std::size_t vertices() const { return vertices_; }

    // From here on point i's value counts before[i] times, and what it gets is multiplied by after[i].
    void scale(const Buffer<float> &before, const Buffer<float> &after, int threads) {
        std::visit([&](auto &ties) { ties.scale(before, after, threads); }, *ties_);
    }

    // N: by how much more a point's weights were multiplied on the one side than on the other; null where alike.
    const float *before_over_after() const {
        return std::visit([](const auto &ties) { return ties.ratio.empty() ? nullptr : ties.ratio.data(); }, *ties_);
    }

    // For splats of some points only, which are numbered anew from 0.
    AnyTouches select(const Buffer<std::int32_t> &ids, int threads) const {
        return std::visit([&](const auto &ties) -> AnyTouches {
            return ties.select(ids.data(), ids.size(), vertices_, threads);
        }, *ties_);
    }

    // Splat and blur: values are rows of `lanes` floats, one for each point, or for those that `some` was selected for if
    // it is not null. The result is in `rows`; both buffers grow as needed and keep row 0 at zero. transposed: the blurs in
    // reverse order; each is symmetric by itself, but where vertices are missing they do not commute.
    void splat_and_blur(const AnyTouches *some, const float *values, int lanes, Buffer<float> &rows, Buffer<float> &spare,
                        int threads, bool transposed = false) const {
        for (Buffer<float> *buffer : {&rows, &spare}) {
            if (buffer->size() < (vertices_ + 1) * lanes) buffer->resize((vertices_ + 1) * lanes);
            std::fill_n(buffer->begin(), lanes, 0.0f);
        }
        const int local = corners_ - first_local_axis_;
        float *from = rows.data(), *to = spare.data();
        if ((first_local_axis_ + local % 2) % 2) std::swap(from, to);  // so that the last pass writes to `rows`
        const auto splat_all = [&](const auto &touches) {
            const std::int32_t *first = touches.first.data();
            const std::size_t all = touches.ties.size();
            const auto vertex = [&](std::size_t tie) {  // the first whose ties do not begin before this one
                return tie == all ? vertices_ : std::size_t(std::lower_bound(first, first + vertices_, std::int32_t(tie)) - first);
            };
            parallel_for(threads, all, [&](std::size_t begin, std::size_t end) {  // vertices differ in their ties
                splat(lanes, first, touches.ties.data(), values, from, begin ? vertex(begin) : 0, vertex(end));
            });
        };
        if (some) std::visit(splat_all, *some);
        else std::visit([&](const auto &ties) { splat_all(ties.touches); }, *ties_);
        const auto blur_global = [&](int axis) {
            parallel_for(threads, vertices_, [&](std::size_t begin, std::size_t end) {
                blur(lanes, from, pairs(axis), to, begin, end);
            });
            std::swap(from, to);
        };
        const auto blur_local = [&] {
            parallel_for(threads, local && vertices_ ? blocks_.size() - 1 : 0, [&](std::size_t begin, std::size_t end) {
                for (std::size_t b = begin; b < end; ++b)  // a block stays in the caches from axis to axis
                    for (int i = 0; i < local; ++i)
                        blur(lanes, i % 2 ? to : from, pairs(transposed ? corners_ - 1 - i : first_local_axis_ + i),
                             i % 2 ? from : to, blocks_[b], blocks_[b + 1]);
            }, 1);
            if (local % 2) std::swap(from, to);
        };
        if (transposed) blur_local();
        for (int i = 0; i < first_local_axis_; ++i) blur_global(transposed ? first_local_axis_ - 1 - i : i);
        if (!transposed) blur_local();
    }

    // out[n - begin] += strength x value of point ids[n] (or n, where ids is null), lane by lane, for n in [begin, end).
    void slice(int lanes, const std::int32_t *ids, const float *rows, const float *strength, float *out,
               std::size_t begin, std::size_t end) const {
        std::visit([&](const auto &ties) {
            slice_add(lanes, ties.corners, ties.slices.data(), ids, rows, strength, out, begin, end);
        }, *ties_);
    }

    // What a point's own value contributes to its filtered value. From corner to corner of its simplex the blur has two
    // ways: down the axes between them, or up all the others; each in the order of axes, over vertices that must exist.
    float own_share(std::size_t point) const {
        std::vector<std::int32_t> corner(corners_);
        std::vector<float> weight(corners_);
        std::visit([&](const auto &ties) {
            for (int c = 0; c < corners_; ++c) {
                corner[c] = std::int32_t(ties.slices[point * corners_ + c].number());
                weight[c] = ties.slices[point * corners_ + c].weight();
            }
        }, *ties_);
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

    Simplexes locate_all(const float *features, int d, int rings, float *weight, int threads) const {
        Simplexes s{points_, d, rings, {}, {}, {}, {}};
        s.cell.resize(points_ * d);
        s.rank.resize(points_ * corners_);
        s.low.assign(d, std::numeric_limits<std::int32_t>::max());
        s.high.assign(d, std::numeric_limits<std::int32_t>::min());
        const std::vector<std::int32_t> none_low = s.low, none_high = s.high;
        std::mutex guard;
        parallel_for(threads, points_, [&](std::size_t begin, std::size_t end) {
            std::vector<std::int32_t> low = none_low, high = none_high;
            in_pieces(begin, end, 4096, [&](std::size_t i, std::size_t stop) {
                if (!locate(features, d, i, stop, s.cell.data(), s.rank.data(), weight, low.data(), high.data()))
                    throw std::invalid_argument(
                        "features span more lattice cells than can be told apart; wanted |feature / std| under about "
                        "10^6: use larger standard deviations or smaller feature values");
            });
            const std::lock_guard<std::mutex> lock(guard);
            for (int i = 0; i < d; ++i) {
                s.low[i] = std::min(s.low[i], low[i]);
                s.high[i] = std::max(s.high[i], high[i]);
            }
        });
        return s;
    }

    std::size_t points_, vertices_ = 0;
    int corners_;                       // d + 1
    std::unique_ptr<AnyTies> ties_;
    Buffer<std::int32_t> neighbours_;   // (d+1) x M x 2
    int first_local_axis_ = 0;
    std::vector<std::int32_t> blocks_;  // as in Vertices
};

}  // namespace densecrf
