// The barycentric weights between points and lattice vertices, stored twice: by point for the slice, and by
// vertex for the splat.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <variant>
#include <vector>

#include "buffer.hpp"
#include "parallel.hpp"
#include "rows.hpp"

namespace densecrf {

// The splat weights of each vertex, as a sparse matrix in compressed rows. A splat is then a gather, in which
// each vertex row has one writer.
template <class T>
struct VertexSplatWeights {
    Buffer<std::int32_t> offsets;  // vertices + 1: where the weights of each vertex begin
    Buffer<T> weights;             // indices are points, ascending for each vertex

    VertexSplatWeights() = default;

    // Transposes `by_point` (all points x corners, indices are vertex rows from 1). Weights are multiplied by
    // `factor` and, unless it is null, by scale[point]. ids: the points to take, which are renumbered from 0;
    // null for all. Parts of the points are counted and then written in parallel.
    VertexSplatWeights(const T *by_point, int corners, const std::int32_t *ids, std::size_t points,
                       std::size_t vertices, float factor, const float *scale, int threads) {
        const std::size_t parts = std::min<std::size_t>(std::min(threads, 8), 1 + points / 8192);
        std::vector<Buffer<std::int32_t>> positions(parts);  // of each part and vertex: counts, then offsets
        for (Buffer<std::int32_t> &counts : positions) counts.assign(vertices, 0);
        const auto point_of = [&](std::size_t n) { return std::size_t(ids ? ids[n] : n); };
        for_each_point(positions, points, [&](std::int32_t *counts, std::size_t n) {
            const std::size_t point = point_of(n);
            for (int c = 0; c < corners; ++c) ++counts[by_point[point * corners + c].index() - 1];
        });
        counts_to_offsets(positions, vertices);
        weights.resize(points * corners);
        for_each_point(positions, points, [&](std::int32_t *next, std::size_t n) {
            const std::size_t point = point_of(n);
            const float times = scale ? factor * scale[point] : factor;
            for (int c = 0; c < corners; ++c) {
                const T entry = by_point[point * corners + c];
                weights[next[entry.index() - 1]++] = T(std::uint32_t(n), times * entry.weight());
            }
        });
    }

private:
    // Calls work(positions of the part, n) for each of the points, one thread for each part.
    template <class Work>
    static void for_each_point(std::vector<Buffer<std::int32_t>> &positions, std::size_t points,
                               const Work &work) {
        const std::size_t parts = positions.size();
        parallel_for(
            int(parts), parts,
            [&](std::size_t begin, std::size_t end) {
                for (std::size_t part = begin; part < end; ++part)
                    in_pieces(points * part / parts, points * (part + 1) / parts, 4096,
                              [&](std::size_t i, std::size_t stop) {
                                  for (std::size_t n = i; n < stop; ++n) work(positions[part].data(), n);
                              });
            },
            1);
    }

    // Fills `offsets` from the counts, and turns each part's counts into where it writes its first weight.
    void counts_to_offsets(std::vector<Buffer<std::int32_t>> &counts, std::size_t vertices) {
        offsets.resize(vertices + 1);
        std::int32_t total = 0;
        for (std::size_t v = 0; v < vertices; ++v) {
            offsets[v] = total;
            for (Buffer<std::int32_t> &of_part : counts) {
                const std::int32_t count = of_part[v];
                of_part[v] = total;
                total += count;
            }
        }
        offsets[vertices] = total;
    }
};

// All splat and slice weights of a lattice.
template <class T>
struct SplatWeights {
    int corners = 0;
    Buffer<T> by_point;               // points x corners: the slice weight of each corner's vertex row
    VertexSplatWeights<T> by_vertex;  // the splat weights
    float splat_over_slice = 1;       // ratio of a point's splat weights to its slice weights ...
    Buffer<float> ratio;              // ... times this for each point, unless empty

    // row, weight: points x corners, the vertex row and the barycentric weight of each corner.
    // needs_vertices: whether splats are made vertex by vertex.
    SplatWeights(Buffer<std::int32_t> row, Buffer<float> weight, int corner_count, std::size_t vertices,
                 float slice_factor, bool needs_vertices, int threads)
        : corners(corner_count), by_point(row.size()), splat_over_slice(1 / slice_factor) {
        parallel_for(threads, by_point.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n)
                by_point[n] = T(std::uint32_t(row[n]), slice_factor * weight[n]);
        });
        row = {};  // frees two large arrays before the next ones are allocated
        weight = {};
        if (needs_vertices) by_vertex = select(nullptr, by_point.size() / corners, vertices, threads);
    }

    // The splat weights of the points `ids`, which are renumbered from 0; null for all points.
    VertexSplatWeights<T> select(const std::int32_t *ids, std::size_t points, std::size_t vertices,
                                 int threads) const {
        const float *scale = ratio.empty() ? nullptr : ratio.data();
        return {by_point.data(), corners, ids, points, vertices, splat_over_slice, scale, threads};
    }

    // Multiplies the splat weights of point i by before[i] and its slice weights by after[i].
    void scale(const Buffer<float> &before, const Buffer<float> &after, int threads) {
        const std::size_t points = by_point.size() / corners;
        const bool same = std::equal(before.begin(), before.end(), after.begin());
        if (!same) ratio.resize(points);
        parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                for (T *entry = &by_point[i * corners]; entry < &by_point[i * corners] + corners; ++entry)
                    *entry = T(entry->index(), entry->weight() * after[i]);
                if (!same) ratio[i] = after[i] > 0 ? before[i] / after[i] : 0.0f;
            }
        });
        parallel_for(threads, by_vertex.weights.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) {
                const T entry = by_vertex.weights[n];
                by_vertex.weights[n] = T(entry.index(), entry.weight() * before[entry.index()]);
            }
        });
    }
};

using AnySplatWeights = std::variant<SplatWeights<SplatWeight>, SplatWeights<CompactSplatWeight>>;
using AnyVertexSplatWeights =
    std::variant<VertexSplatWeights<SplatWeight>, VertexSplatWeights<CompactSplatWeight>>;

}  // namespace densecrf
