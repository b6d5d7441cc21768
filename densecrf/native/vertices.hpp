// The distinct vertices that points touch: numbered in sorted order of their coordinates, with their neighbours.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.hpp"

namespace densecrf {

// What locate() found: simplexes of N points in d dimensions, and the range of their cells.
struct Simplexes {
    std::size_t points = 0;
    int dimensions = 0;
    int rings = 0;  // of untouched vertices around the touched ones
    Buffer<std::int32_t> cell;       // N x d
    Buffer<std::uint8_t> rank;       // N x (d + 1)
    std::vector<std::int32_t> low, high;  // d
};

// Rows are numbered from 1; 0 stands for a vertex that no point touches.
struct Vertices {
    std::size_t count = 0;
    Buffer<std::int32_t> corner;      // N x (d + 1): the row of each corner
    Buffer<std::int32_t> neighbours;  // (d + 1) x count x 2: rows of the neighbours up and down each axis
    int first_local_axis = 0;              // on axes from this one on, vertices of a block have neighbours only there
    std::vector<std::int32_t> blocks;      // where blocks of vertices begin, and the end
};

// The result is the same for any number of threads.
Vertices number_vertices(Simplexes simplexes, int threads);

}  // namespace densecrf
