// The permutohedral lattice: a Gaussian filter over N points with d features each, in time linear in N.
// Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010; the
// constants (one [1/2 1 1/2] blur for each axis, slice factor 1 / (1 + 2^-d)) are those of the dense CRF of
// Kraehenbuehl and Koltun, 2011.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "point_tiles.hpp"
#include "simplex.hpp"
#include "splat_weights.hpp"
#include "vertices.hpp"

namespace densecrf {

class Lattice {
public:
    // features: N x d, row-major, already divided by the standard deviations, finite (checked by the caller).
    // halo: 1 adds the untouched vertices around the touched ones; with 0, the blur loses what would pass
    // through them. large: from this number of points on, the splat weights are stored compactly if the
    // indices allow it.
    Lattice(const float *features, std::size_t points, int dimensions, int halo, int threads,
            std::size_t large = std::size_t(1) << 20)
        : points_(points), corners_(dimensions + 1) {
        if (points >= std::size_t(std::numeric_limits<std::int32_t>::max()) / corners_)
            throw std::length_error(
                "too many points: points x (dimensions + 1) must stay under 2^31; use tiles");
        Buffer<float> weight(points * corners_);
        Simplexes simplexes = locate_all(features, dimensions, halo, weight.data(), threads);
        tiles_ = make_point_tiles(simplexes);
        Vertices vertices = number_vertices(std::move(simplexes), threads);
        vertices_ = vertices.count;
        const float slice_factor = 1.0f / (1.0f + std::ldexp(1.0f, -dimensions));
        const auto store_weights = [&](auto entry) {
            using Weights = SplatWeights<decltype(entry)>;
            return std::make_unique<AnySplatWeights>(Weights(std::move(vertices.corner), std::move(weight),
                                                             corners_, vertices_, slice_factor,
                                                             tiles_.empty(), threads));
        };
        const bool compact =
            points >= large && std::max(points, vertices_ + 1) < CompactSplatWeight::index_limit;
        weights_ = compact ? store_weights(CompactSplatWeight()) : store_weights(SplatWeight());
        neighbours_ = std::move(vertices.neighbours);
        first_local_axis_ = vertices.first_local_axis;
        blocks_ = std::move(vertices.blocks);
        if (points >= large) BlockCache::release_all();
    }

    std::size_t points() const { return points_; }
    std::size_t vertices() const { return vertices_; }

    // How points can be splatted in parallel; empty if splats are made vertex by vertex.
    const PointTiles &tiles() const { return tiles_; }

    // From here on the filter multiplies point i's value by before[i] and its result by after[i].
    void scale(const Buffer<float> &before, const Buffer<float> &after, int threads) {
        std::visit([&](auto &weights) { weights.scale(before, after, threads); }, *weights_);
    }

    // N: the ratio of what scale() multiplied a point's weights by before and after; null where they are the
    // same.
    const float *before_over_after() const {
        return std::visit([](const auto &w) { return w.ratio.empty() ? nullptr : w.ratio.data(); },
                          *weights_);
    }

    // Splat weights of the points `ids` alone, which are renumbered from 0.
    AnyVertexSplatWeights select(const Buffer<std::int32_t> &ids, int threads) const {
        return std::visit(
            [&](const auto &weights) -> AnyVertexSplatWeights {
                return weights.select(ids.data(), ids.size(), vertices_, threads);
            },
            *weights_);
    }

    // Splat and blur. values: rows of `lanes` floats, one for each point, or, if `selected` is not null, for
    // each point that it was selected for. The result is in `rows`; both buffers grow as needed and keep row
    // 0 at zero. transposed: as in blur().
    void splat_and_blur(const AnyVertexSplatWeights *selected, const float *values, int lanes,
                        Buffer<float> &rows, Buffer<float> &scratch, int threads,
                        bool transposed = false) const {
        for (Buffer<float> *buffer : {&rows, &scratch}) {
            if (buffer->size() < (vertices_ + 1) * lanes) buffer->resize((vertices_ + 1) * lanes);
            std::fill_n(buffer->begin(), lanes, 0.0f);
        }
        const auto splat_all = [&](const auto &weights) {
            splat_vertices(weights, values, lanes, rows.data(), threads);
        };
        if (selected) {
            std::visit(splat_all, *selected);
        } else if (tiles_.empty()) {
            std::visit([&](const auto &weights) { splat_all(weights.by_vertex); }, *weights_);
        } else {
            clear(rows.data(), lanes, threads);
            tiles_.for_each_run(threads, [&](std::size_t, PointTiles::Run run, PointTiles::Run next, bool) {
                prefetch(next.begin, next.end);
                splat(lanes, nullptr, values + std::size_t(run.begin) * lanes, rows.data(), run.begin,
                      run.end);
            });
        }
        blur(lanes, rows, scratch, threads, transposed, false);
    }

    // Adds the values of points ids[n] (or n, where ids is null) for n in [begin, end), the first at
    // `values`, to the rows of their vertices.
    void splat(int lanes, const std::int32_t *ids, const float *values, float *rows, std::size_t begin,
               std::size_t end) const {
        std::visit(
            [&](const auto &weights) {
                const float *ratio = weights.ratio.empty() ? nullptr : weights.ratio.data();
                splat_add(lanes, weights.corners, weights.by_point.data(), ids, weights.splat_over_slice,
                          ratio, values, rows, begin, end);
            },
            *weights_);
    }

    // Takes note that a tile touches the vertices of points [begin, end). False if another tile from `first`
    // on has touched one of them. owner: for each row, the last tile that touched it.
    bool claim(std::size_t begin, std::size_t end, std::int32_t first, std::int32_t tile,
               std::int32_t *owner) const {
        return std::visit(
            [&](const auto &weights) {
                bool free = true;
                for (std::size_t n = begin * corners_; n < end * corners_; ++n) {
                    std::int32_t &one = owner[weights.by_point[n].index()];
                    free &= one < first || one == tile;
                    one = tile;
                }
                return free;
            },
            *weights_);
    }

    // Blurs `rows` along all axes; both buffers hold a row for each vertex, and zeros in row 0. transposed:
    // along the axes in reverse order. Each blur is symmetric, but where vertices are missing they do not
    // commute. clears: whether `scratch` is to hold zeros in the end.
    void blur(int lanes, Buffer<float> &rows, Buffer<float> &scratch, int threads, bool transposed,
              bool clears) const {
        BlurPass pass{lanes, threads, transposed, clears, rows.data(), scratch.data()};
        if (transposed) blur_local_axes(pass);
        for (int i = 0; i < first_local_axis_; ++i)
            blur_axis(pass, transposed ? first_local_axis_ - 1 - i : i);
        if (!transposed) blur_local_axes(pass);
        if (clears && corners_ == first_local_axis_) clear(pass.to, lanes, threads);
        if (pass.from != rows.data()) rows.swap(scratch);
    }

    // out[n - begin] = base[n - begin] + strength x filtered value of point ids[n] (or n, where ids is null),
    // lane by lane, for n in [begin, end). base may be out.
    void slice(int lanes, const std::int32_t *ids, const float *rows, const float *strength,
               const float *base, float *out, std::size_t begin, std::size_t end) const {
        std::visit(
            [&](const auto &weights) {
                slice_add(lanes, weights.corners, weights.by_point.data(), ids, rows, strength, base, out,
                          begin, end);
            },
            *weights_);
    }

    // The same, added to what is there.
    void slice(int lanes, const std::int32_t *ids, const float *rows, const float *strength, float *out,
               std::size_t begin, std::size_t end) const {
        slice(lanes, ids, rows, strength, out, out, begin, end);
    }

    // Fetches what slice() and splat() read of points [begin, end) into the cache.
    void prefetch(std::size_t begin, std::size_t end) const {
        std::visit(
            [&](const auto &weights) {
                prefetch_range(weights.by_point.data() + begin * corners_, (end - begin) * corners_);
            },
            *weights_);
    }

    // The factor of a point's own value in its filtered value. From one corner of a point's simplex to
    // another, the blur follows one of two paths: down the axes between them, or up all others; each in the
    // order of axes, over vertices that must exist.
    float self_weight(std::size_t point) const {
        std::vector<std::int32_t> corner(corners_);
        std::vector<float> weight(corners_);
        std::visit(
            [&](const auto &weights) {
                for (int c = 0; c < corners_; ++c) {
                    corner[c] = std::int32_t(weights.by_point[point * corners_ + c].index());
                    weight[c] = weights.by_point[point * corners_ + c].weight();
                }
            },
            *weights_);
        std::vector<int> axis(corners_);  // the axis down which the next corner lies
        for (int c = 0; c < corners_; ++c)
            for (int i = 0; i < corners_; ++i)
                if (pairs(i)[2 * (corner[c] - 1) + 1] == corner[(c + 1) % corners_]) axis[c] = i;
        std::vector<char> between(corners_);
        float share = 0, total_weight = 0;
        for (int a = 0; a < corners_; ++a) {
            total_weight += weight[a];  // the slice factor, as barycentric weights sum to one
            std::fill(between.begin(), between.end(),
                      1);  // back to the same corner: down all axes, up all, or staying
            share += weight[a] * weight[a] * path_factor(corner[a], between, 0);
            std::fill(between.begin(), between.end(), 0);
            share += weight[a] * weight[a] *
                     (path_factor(corner[a], between, 0) + path_factor(corner[a], between, 1));
            for (int b = (a + 1) % corners_; b != a; b = (b + 1) % corners_) {
                between[axis[(b + corners_ - 1) % corners_]] = 1;
                share += weight[a] * weight[b] *
                         (path_factor(corner[a], between, 0) + path_factor(corner[a], between, 1));
            }
        }
        return share / total_weight;
    }

private:
    // The state of a blur: the two buffers change roles after each axis.
    struct BlurPass {
        int lanes, threads;
        bool transposed, clears;
        float *from, *to;
    };

    const std::int32_t *pairs(int axis) const {
        return neighbours_.data() + std::size_t(axis) * 2 * vertices_;
    }

    // Divides vertices over threads so that each has about the same number of splat weights.
    template <class T>
    void splat_vertices(const VertexSplatWeights<T> &by_vertex, const float *values, int lanes, float *rows,
                        int threads) const {
        const std::int32_t *offsets = by_vertex.offsets.data();
        const std::size_t all = by_vertex.weights.size();
        const auto vertex_at =
            [&](std::size_t n) {  // the first one whose weights do not begin before the n-th
                if (n == all) return vertices_;
                return std::size_t(std::lower_bound(offsets, offsets + vertices_, std::int32_t(n)) - offsets);
            };
        parallel_for(threads, all, [&](std::size_t begin, std::size_t end) {
            const std::size_t first = begin ? vertex_at(begin) : 0;
            densecrf::splat(lanes, offsets, by_vertex.weights.data(), values, rows, first, vertex_at(end));
        });
    }

    void blur_axis(BlurPass &pass, int axis) const {
        parallel_for(pass.threads, vertices_, [&](std::size_t begin, std::size_t end) {
            densecrf::blur(pass.lanes, pass.from, pairs(axis), pass.to, begin, end);
        });
        std::swap(pass.from, pass.to);
    }

    // Blurs along the local axes block by block, so that a block stays in the cache from axis to axis.
    void blur_local_axes(BlurPass &pass) const {
        const int local = corners_ - first_local_axis_, lanes = pass.lanes;
        float *const from = pass.from, *const to = pass.to;
        parallel_for(
            pass.threads, local && vertices_ ? blocks_.size() - 1 : 0,
            [&](std::size_t begin, std::size_t end) {
                for (std::size_t b = begin; b < end; ++b) {
                    for (int i = 0; i < local; ++i) {
                        const int axis = pass.transposed ? corners_ - 1 - i : first_local_axis_ + i;
                        densecrf::blur(lanes, i % 2 ? to : from, pairs(axis), i % 2 ? from : to, blocks_[b],
                                       blocks_[b + 1]);
                    }
                    float *const spent = local % 2 ? from : to;
                    if (pass.clears)
                        std::fill(spent + (std::size_t(blocks_[b]) + 1) * lanes,
                                  spent + (std::size_t(blocks_[b + 1]) + 1) * lanes, 0.0f);
                }
            },
            1);
        if (local % 2) std::swap(pass.from, pass.to);
    }

    // Sets the rows of all vertices to zero.
    void clear(float *rows, int lanes, int threads) const {
        parallel_for(threads, (vertices_ + 1) * lanes,
                     [&](std::size_t begin, std::size_t end) { std::fill(rows + begin, rows + end, 0.0f); });
    }

    // The blur's factor along one path from a row: down the marked axes, or up the unmarked ones; 0 if a
    // vertex is missing.
    float path_factor(std::int32_t row, const std::vector<char> &marked, int up) const {
        float factor = 1;
        for (int axis = 0; axis < corners_; ++axis) {
            if (bool(marked[axis]) == bool(up)) continue;
            row = pairs(axis)[2 * (row - 1) + (up ? 0 : 1)];
            if (row == 0) return 0;
            factor *= 0.5f;
        }
        return factor;
    }

    // The simplexes of all points, and their barycentric weights.
    Simplexes locate_all(const float *features, int d, int halo, float *weight, int threads) const {
        Simplexes s{points_, d, halo, {}, {}, {}, {}};
        s.cell.resize(points_ * d);
        s.rank.resize(points_ * corners_);
        s.low.assign(d, std::numeric_limits<std::int32_t>::max());
        s.high.assign(d, std::numeric_limits<std::int32_t>::min());
        const std::vector<std::int32_t> empty_low = s.low, empty_high = s.high;
        std::mutex guard;
        parallel_for(threads, points_, [&](std::size_t begin, std::size_t end) {
            std::vector<std::int32_t> low = empty_low, high = empty_high;
            in_pieces(begin, end, 4096, [&](std::size_t i, std::size_t stop) {
                if (!locate(features, d, i, stop, s.cell.data(), s.rank.data(), weight, low.data(),
                            high.data()))
                    throw std::invalid_argument(
                        "features span more lattice cells than can be told apart; wanted |feature / std| "
                        "under about "
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
    int corners_;  // of a simplex: d + 1
    PointTiles tiles_;
    std::unique_ptr<AnySplatWeights> weights_;
    Buffer<std::int32_t>
        neighbours_;            // (d+1) x M x 2: rows of each vertex's neighbours up and down each axis
    int first_local_axis_ = 0;  // as in Vertices
    std::vector<std::int32_t> blocks_;  // as in Vertices
};

}  // namespace densecrf
