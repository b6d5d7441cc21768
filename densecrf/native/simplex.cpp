// SPDX-License-Identifier: MIT
#include "simplex.hpp"

#include <algorithm>
#include <cmath>

#include "simd.hpp"

namespace densecrf {
namespace {

constexpr int block = 16;           // points that are worked on side by side
constexpr int most_dimensions = 255;  // as in lattice.py; a rank is a byte
constexpr float most_cells = float(1 << 24);  // floats count whole numbers up to here

// D: dimensions if known when compiled (so that loops unroll), else 0. `count` points of the block exist.
template <int D>
DENSECRF_INLINE bool locate_block(const float *features, int dimensions, const float *scale, int count,
                                  std::int32_t *cell, std::uint8_t *rank, float *weight, std::int32_t *low,
                                  std::int32_t *high) {
    const int d = D ? D : dimensions, corners = d + 1;
    constexpr int room = (D ? D : most_dimensions) + 1;
    float elevated[room][block], sum[block] = {};
    for (int j = d; j > 0; --j) {  // to the hyperplane whose coordinates sum to zero
        float scaled[block];
        for (int l = 0; l < block; ++l) scaled[l] = features[std::min(l, count - 1) * d + j - 1] * scale[j - 1];
        for (int l = 0; l < block; ++l) {
            elevated[j][l] = sum[l] - j * scaled[l];
            sum[l] += scaled[l];
        }
    }
    for (int l = 0; l < block; ++l) elevated[0][l] = sum[l];
    const float per_cell = 1.0f / corners;
    float widest = 0;
    for (int i = 0; i < corners; ++i)
        for (int l = 0; l < block; ++l) widest = std::max(widest, std::fabs(elevated[i][l]) * per_cell);
    if (!(widest < most_cells)) return false;

    // The nearest point whose coordinates are multiples of d + 1; `excess` is by how many its sum is off.
    std::int32_t nearest[room][block], order[room][block] = {}, excess[block] = {};
    for (int i = 0; i < corners; ++i)
        for (int l = 0; l < block; ++l) {
            const float cells = elevated[i][l] * per_cell;
            nearest[i][l] = std::int32_t(cells + (cells < 0 ? -0.5f : 0.5f));
            excess[l] += nearest[i][l];
            elevated[i][l] -= float(nearest[i][l] * corners);  // from here on the offset
        }
    for (int i = 0; i < d; ++i)
        for (int j = i + 1; j < corners; ++j)
            for (int l = 0; l < block; ++l) {
                const std::int32_t less = elevated[i][l] < elevated[j][l];
                order[i][l] += less;
                order[j][l] += 1 - less;
            }
    for (int i = 0; i < corners; ++i)
        for (int l = 0; l < block; ++l) {
            std::int32_t place = order[i][l] + excess[l];
            const std::int32_t turn = place < 0 ? 1 : place > d ? -1 : 0;
            place += turn * corners;
            order[i][l] = std::min(std::max(place, 0), d);  // holds already, unless rounding ate the digits
            nearest[i][l] += turn;
            elevated[i][l] = elevated[i][l] * per_cell - float(turn);
        }
    for (int c = 0; c < corners; ++c) {  // offsets in sorted order; a weight is the gap between two of them
        float gap[block] = {};
        for (int i = 0; i < corners; ++i)
            for (int l = 0; l < block; ++l) {
                gap[l] += order[i][l] == d - c ? elevated[i][l] : 0.0f;
                gap[l] -= order[i][l] == (c ? corners - c : 0) ? elevated[i][l] : 0.0f;
            }
        for (int l = 0; l < count; ++l) weight[l * corners + c] = gap[l] + (c ? 0.0f : 1.0f);
    }
    for (int i = 0; i < corners; ++i)
        for (int l = 0; l < count; ++l) rank[l * corners + i] = std::uint8_t(order[i][l]);
    for (int i = 0; i < d; ++i)
        for (int l = 0; l < count; ++l) {
            const std::int32_t steps = nearest[i + 1][l] - nearest[0][l];
            cell[l * d + i] = steps;
            low[i] = std::min(low[i], steps);
            high[i] = std::max(high[i], steps);
        }
    return true;
}

template <int D>
DENSECRF_INLINE bool locate_range(const float *features, int d, std::size_t begin, std::size_t end, std::int32_t *cell,
                                  std::uint8_t *rank, float *weight, std::int32_t *low, std::int32_t *high) {
    float scale[D ? D : most_dimensions];  // makes the blur a unit Gaussian
    for (int i = 0; i < d; ++i) scale[i] = (d + 1) * std::sqrt(2.0f / 3.0f) / std::sqrt(float((i + 1) * (i + 2)));
    for (std::size_t p = begin; p < end; p += block) {
        const int count = int(std::min<std::size_t>(block, end - p));
        if (!locate_block<D>(features + p * d, d, scale, count, cell + p * d, rank + p * (d + 1), weight + p * (d + 1),
                             low, high))
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
