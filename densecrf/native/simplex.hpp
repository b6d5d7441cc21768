// Where points lie in the permutohedral lattice: the simplex around each, and its barycentric coordinates
// there.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

namespace densecrf {

// For points [begin, end) of features (N x d, row-major), computes
//   cell (N x d): the remainder-0 vertex of the simplex, in steps along axes 1 ... d from a common origin. A
//     vertex has d + 1 coordinates that sum to zero and have the same remainder modulo d + 1; in steps along
//     axis i it lies at (coordinate i - coordinate 0) / (d + 1), and a step along axis 0 subtracts one from
//     all of these;
//   rank (N x (d + 1)): the rank of each coordinate when the offsets from that vertex are sorted, largest
//     first;
//   weight (N x (d + 1)): barycentric coordinates of the vertices of remainder 0 ... d; low, high (d):
//     extended to include every cell. Returns false if a coordinate is too large to be counted; the other
//     results are then invalid.
bool locate(const float *features, int dimensions, std::size_t begin, std::size_t end, std::int32_t *cell,
            std::uint8_t *rank, float *weight, std::int32_t *low, std::int32_t *high);

}  // namespace densecrf
