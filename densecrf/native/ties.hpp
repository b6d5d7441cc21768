// How points hang on the vertices of a lattice: each on the d + 1 corners of a simplex.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <variant>
#include <vector>

#include "buffer.hpp"
#include "parallel.hpp"
#include "rows.hpp"

namespace densecrf {

// The ties of some points from the vertices' side: a splat then is a gather, with one writer a row.
template <class T>
struct Touches {
    Buffer<std::int32_t> first;  // vertices + 1: where each vertex's ties begin
    Buffer<T> ties;              // to points, in order

    // The same ties as points x corners `slices`, whose weights are multiplied by the factor and by scale[point], if it is
    // not null. ids: which points, numbered anew from 0; null for all. Parts of the points are counted, then placed side
    // by side.
    Touches(const T *slices, int corners, const std::int32_t *ids, std::size_t points, std::size_t vertices, float factor,
            const float *scale, int threads) {
        const std::size_t parts = std::min<std::size_t>(std::min(threads, 8), 1 + points / 8192);
        std::vector<Buffer<std::int32_t>> next(parts);
        const auto each_part = [&](const auto &work) {
            parallel_for(int(parts), parts, [&](std::size_t begin, std::size_t end) {
                for (std::size_t part = begin; part < end; ++part)
                    in_pieces(points * part / parts, points * (part + 1) / parts, 4096, [&](std::size_t i, std::size_t stop) {
                        for (std::size_t n = i; n < stop; ++n) work(next[part].data(), n, std::size_t(ids ? ids[n] : n));
                    });
            }, 1);
        };
        for (Buffer<std::int32_t> &counts : next) counts.assign(vertices, 0);
        each_part([&](std::int32_t *counts, std::size_t, std::size_t point) {
            for (int c = 0; c < corners; ++c) ++counts[slices[point * corners + c].number() - 1];
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
        ties.resize(points * corners);
        each_part([&](std::int32_t *places, std::size_t n, std::size_t point) {
            const float times = scale ? factor * scale[point] : factor;
            for (int c = 0; c < corners; ++c) {
                const T tie = slices[point * corners + c];
                ties[places[tie.number() - 1]++] = T(std::uint32_t(n), times * tie.weight());
            }
        });
    }
    Touches() = default;
};

// All ties of a lattice.
template <class T>
struct Ties {
    int corners = 0;
    Buffer<T> slices;            // points x corners: row of the corner and what a slice multiplies it with
    Touches<T> touches;
    float splat_over_slice = 1;  // ratio of a point's weights on the two sides ...
    Buffer<float> ratio;         // ... times this, unless empty

    Ties(Buffer<std::int32_t> corner, Buffer<float> weight, int corner_count, std::size_t vertices, float slice_factor,
         int threads)
        : corners(corner_count), slices(corner.size()), splat_over_slice(1 / slice_factor) {
        parallel_for(threads, slices.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t place = begin; place < end; ++place)
                slices[place] = T(std::uint32_t(corner[place]), slice_factor * weight[place]);
        });
        corner = {};
        weight = {};  // two large arrays less at a time
        touches = select(nullptr, slices.size() / corners, vertices, threads);
    }

    Touches<T> select(const std::int32_t *ids, std::size_t points, std::size_t vertices, int threads) const {
        const float *scale = ratio.empty() ? nullptr : ratio.data();
        return {slices.data(), corners, ids, points, vertices, splat_over_slice, scale, threads};
    }

    // From here on point i's value counts before[i] times, and what it gets is multiplied by after[i].
    void scale(const Buffer<float> &before, const Buffer<float> &after, int threads) {
        const std::size_t points = slices.size() / corners;
        const bool alike = std::equal(before.begin(), before.end(), after.begin());
        if (!alike) ratio.resize(points);
        parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                for (T *tie = &slices[i * corners]; tie < &slices[i * corners] + corners; ++tie)
                    *tie = T(tie->number(), tie->weight() * after[i]);
                if (!alike) ratio[i] = after[i] > 0 ? before[i] / after[i] : 0.0f;
            }
        });
        parallel_for(threads, touches.ties.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t t = begin; t < end; ++t) {
                const T tie = touches.ties[t];
                touches.ties[t] = T(tie.number(), tie.weight() * before[tie.number()]);
            }
        });
    }
};

using AnyTies = std::variant<Ties<Tie>, Ties<ShortTie>>;
using AnyTouches = std::variant<Touches<Tie>, Touches<ShortTie>>;

}  // namespace densecrf
