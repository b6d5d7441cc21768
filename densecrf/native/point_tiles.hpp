// Points divided into tiles, so that several threads can splat at once without meeting at a vertex.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "parallel.hpp"
#include "vertices.hpp"

namespace densecrf {

// A point's vertices have one of two successive coordinates on axis 1, and one of two on axis 2. The lower
// ones say which tile the point is in. Tiles whose numbers are both even touch no vertex in common, and
// neither do the other three kinds, or colors. So the tiles of one color can splat side by side, each in a
// fixed order: the result is the same for any number of threads. In an image, the first features of which are
// positions, a tile is a patch of about one standard deviation each way.
struct PointTiles {
    static constexpr std::uint32_t max_run = 256;

    struct Run {
        std::uint32_t begin, end;  // successive points of one tile, at most max_run
    };

    std::vector<Run> runs;               // tile by tile
    std::vector<std::int32_t> tiles;     // where the runs of each tile begin, and the end of the last
    std::array<std::int32_t, 5> colors;  // where the tiles of each color begin, and the end of the last

    bool empty() const { return runs.empty(); }

    // Calls work(worker, run, next run, is last) for each run of points; worker is below `threads` and tells apart
    // those that work at a time. The next run is what this worker probably takes next; the last one ends a tile.
    template <class Work>
    void for_each_run(int threads, const Work &work) const {
        for (int color = 0; color < 4; ++color) {
            std::atomic<std::int32_t> next{colors[color]};
            const auto take_tiles = [&](std::size_t worker, std::size_t) {
                for (std::int32_t tile; (tile = next.fetch_add(1)) < colors[color + 1];)
                    for (std::int32_t r = tiles[tile]; r < tiles[tile + 1]; ++r) {
                        if (r % 16 == 0) Team::check();
                        work(worker, runs[r], runs[std::min<std::size_t>(r + 1, runs.size() - 1)],
                             r + 1 == tiles[tile + 1]);
                    }
            };
            const bool is_small = !runs.empty() && tiles.size() <= 2;
            parallel_for(is_small ? 1 : threads, is_small ? 1 : std::size_t(threads), take_tiles, 1);
        }
    }
};

// Empty if tiles would not pay: if successive points are mostly not in the same tile, or tiles are too few to
// be shared by threads.
PointTiles make_point_tiles(const Simplexes &simplexes);

}  // namespace densecrf
