// The simplex around each point, for blocks of points side by side; see simplex.hpp.
// SPDX-License-Identifier: MIT
#include "simplex.hpp"

#include <algorithm>
#include <cmath>

#include "simd.hpp"

namespace densecrf {
namespace {

constexpr int block = 16;                    // points that are processed side by side
constexpr int max_dimensions = 255;          // as in lattice.py; a rank is a byte
constexpr float max_cells = float(1 << 24);  // floats represent all integers up to here

// A block of points on their way to the lattice. D: dimensions if known when compiled (so that loops unroll),
// else 0.
template <int D>
struct Block {
    static constexpr int room = (D ? D : max_dimensions) + 1;
    float offset[room][block];          // coordinates in the hyperplane, later relative to the nearest vertex
    std::int32_t nearest[room][block];  // the remainder-0 vertex, in multiples of d + 1
    std::int32_t rank[room][block];
};

// Fills `offset` with the coordinates in the hyperplane whose coordinates sum to zero. False if one is too
// large.
template <int D>
DENSECRF_INLINE bool elevate(Block<D> &b, const float *features, int d, const float *scale, int count) {
    const int corners = d + 1;
    float sum[block] = {};
    for (int j = d; j > 0; --j) {
        float scaled[block];
        for (int l = 0; l < block; ++l)
            scaled[l] = features[std::min(l, count - 1) * d + j - 1] * scale[j - 1];
        for (int l = 0; l < block; ++l) {
            b.offset[j][l] = sum[l] - j * scaled[l];
            sum[l] += scaled[l];
        }
    }
    for (int l = 0; l < block; ++l) b.offset[0][l] = sum[l];
    const float per_cell = 1.0f / corners;
    float widest = 0;
    for (int i = 0; i < corners; ++i)
        for (int l = 0; l < block; ++l) widest = std::max(widest, std::fabs(b.offset[i][l]) * per_cell);
    return widest <
           std::min(max_cells, float((std::int64_t(1) << 31) / corners - 1));  // so that no product overflows
}

// Rounds to the nearest remainder-0 vertex, ranks the offsets from it, and corrects the vertex where the
// rounded coordinates do not sum to zero. Afterwards offsets are in cells.
template <int D>
DENSECRF_INLINE void round_and_rank(Block<D> &b, int d) {
    const int corners = d + 1;
    const float per_cell = 1.0f / corners;
    std::int32_t excess[block] = {};  // the sum of the rounded coordinates, in cells
    for (int i = 0; i < corners; ++i)
        for (int l = 0; l < block; ++l) {
            const float cells = b.offset[i][l] * per_cell;
            b.nearest[i][l] = std::int32_t(cells + (cells < 0 ? -0.5f : 0.5f));
            excess[l] += b.nearest[i][l];
            b.offset[i][l] -= float(b.nearest[i][l] * corners);
            b.rank[i][l] = 0;
        }
    for (int i = 0; i < d; ++i)
        for (int j = i + 1; j < corners; ++j)
            for (int l = 0; l < block; ++l) {
                const std::int32_t less = b.offset[i][l] < b.offset[j][l];
                b.rank[i][l] += less;
                b.rank[j][l] += 1 - less;
            }
    for (int i = 0; i < corners; ++i)
        for (int l = 0; l < block; ++l) {
            std::int32_t rank = b.rank[i][l] + excess[l];
            const std::int32_t turn = rank < 0 ? 1 : rank > d ? -1 : 0;
            rank += turn * corners;
            b.rank[i][l] = std::min(std::max(rank, 0), d);  // changes nothing unless rounding lost digits
            b.nearest[i][l] += turn;
            b.offset[i][l] = b.offset[i][l] * per_cell - float(turn);
        }
}

// weight: the gaps between the sorted offsets.
template <int D>
DENSECRF_INLINE void write_weights(const Block<D> &b, int d, int count, float *weight) {
    const int corners = d + 1;
    for (int c = 0; c < corners; ++c) {
        float gap[block] = {};
        for (int i = 0; i < corners; ++i)
            for (int l = 0; l < block; ++l) {
                gap[l] += b.rank[i][l] == d - c ? b.offset[i][l] : 0.0f;
                gap[l] -= b.rank[i][l] == (c ? corners - c : 0) ? b.offset[i][l] : 0.0f;
            }
        for (int l = 0; l < count; ++l) weight[l * corners + c] = gap[l] + (c ? 0.0f : 1.0f);
    }
}

// The first `count` points of a block; see locate().
template <int D>
DENSECRF_INLINE bool locate_block(const float *features, int dimensions, const float *scale, int count,
                                  std::int32_t *cell, std::uint8_t *rank, float *weight, std::int32_t *low,
                                  std::int32_t *high) {
    const int d = D ? D : dimensions, corners = d + 1;
    Block<D> b;
    if (!elevate<D>(b, features, d, scale, count)) return false;
    round_and_rank<D>(b, d);
    write_weights<D>(b, d, count, weight);
    for (int i = 0; i < corners; ++i)
        for (int l = 0; l < count; ++l) rank[l * corners + i] = std::uint8_t(b.rank[i][l]);
    for (int i = 0; i < d; ++i)
        for (int l = 0; l < count; ++l) {
            const std::int32_t steps = b.nearest[i + 1][l] - b.nearest[0][l];
            cell[l * d + i] = steps;
            low[i] = std::min(low[i], steps);
            high[i] = std::max(high[i], steps);
        }
    return true;
}

template <int D>
DENSECRF_INLINE bool locate_range(const float *features, int d, std::size_t begin, std::size_t end,
                                  std::int32_t *cell, std::uint8_t *rank, float *weight, std::int32_t *low,
                                  std::int32_t *high) {
    float scale[D ? D : max_dimensions];  // so that the blur is a Gaussian of variance one
    for (int i = 0; i < d; ++i)
        scale[i] = (d + 1) * std::sqrt(2.0f / 3.0f) / std::sqrt(float((i + 1) * (i + 2)));
    for (std::size_t p = begin; p < end; p += block) {
        const int count = int(std::min<std::size_t>(block, end - p));
        if (!locate_block<D>(features + p * d, d, scale, count, cell + p * d, rank + p * (d + 1),
                             weight + p * (d + 1), low, high))
            return false;
    }
    return true;
}

}  // namespace

DENSECRF_CLONES bool locate(const float *features, int dimensions, std::size_t begin, std::size_t end,
                            std::int32_t *cell, std::uint8_t *rank, float *weight, std::int32_t *low,
                            std::int32_t *high) {
    switch (dimensions) {
        case 2: return locate_range<2>(features, 2, begin, end, cell, rank, weight, low, high);
        case 3: return locate_range<3>(features, 3, begin, end, cell, rank, weight, low, high);
        case 5: return locate_range<5>(features, 5, begin, end, cell, rank, weight, low, high);
        default: return locate_range<0>(features, dimensions, begin, end, cell, rank, weight, low, high);
    }
}

}  // namespace densecrf
