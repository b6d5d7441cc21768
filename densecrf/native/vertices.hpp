// The distinct lattice vertices that points touch, numbered in sorted order of their coordinates, and their
// neighbours.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.hpp"

namespace densecrf {

// The results of locate(): the simplexes of N points in d dimensions, and the range of their cells.
struct Simplexes {
    std::size_t points = 0;
    int dimensions = 0;
    int halo = 0;                         // layers of untouched vertices to add around the touched ones
    Buffer<std::int32_t> cell;            // N x d
    Buffer<std::uint8_t> rank;            // N x (d + 1)
    std::vector<std::int32_t> low, high;  // d
};

// Rows are numbered from 1; 0 stands for a vertex that does not exist.
struct Vertices {
    std::size_t count = 0;
    Buffer<std::int32_t> corner;      // N x (d + 1): the row of each corner
    Buffer<std::int32_t> neighbours;  // (d + 1) x count x 2: rows of the neighbours up and down each axis
    int first_local_axis = 0;  // on axes from this one on, a vertex and its neighbours are in the same block
    std::vector<std::int32_t> blocks;  // where each block of vertices begins, and the end of the last
};

// The result is the same for any number of threads.
Vertices number_vertices(Simplexes simplexes, int threads);

// The same for coordinates that do not fit into a key of 64 bits: slower, in order of first touch, without
// halo.
Vertices number_wide_vertices(const Simplexes &simplexes);

}  // namespace densecrf
