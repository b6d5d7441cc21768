// Dividing points into tiles; see point_tiles.hpp.
// SPDX-License-Identifier: MIT
#include "point_tiles.hpp"

#include <algorithm>
#include <map>
#include <tuple>

namespace densecrf {
namespace {

constexpr std::size_t wanted_run = 40;    // points, on average; shorter runs cost more than they save
constexpr int max_shift = 7;              // of up to 2^7 x 2^7 of the smallest tiles one is made
constexpr std::size_t small = 1 << 13;    // points that one thread may take alone
constexpr std::size_t wanted_tiles = 12;  // for more points than that

using Tile = std::pair<std::int32_t, std::int32_t>;

// The lower of the two coordinates of a point's vertices on an axis: from the vertex of remainder 0, the
// steps down this axis and up it (down axis 0) come in the order of ranks, the highest first.
std::int32_t lower_coordinate(const Simplexes &s, std::size_t point, int axis) {
    if (axis > s.dimensions) return 0;
    const std::uint8_t *rank = s.rank.data() + point * (s.dimensions + 1);
    return s.cell[point * s.dimensions + axis - 1] - (rank[axis] > rank[0]);
}

// Coordinates of tiles of 2^shift x 2^shift smallest ones.
Tile tile_of(const Simplexes &s, std::size_t point, int shift) {
    return {lower_coordinate(s, point, 1) >> shift, lower_coordinate(s, point, 2) >> shift};
}

struct TiledRun {
    std::int32_t color;
    Tile tile;
    PointTiles::Run run;
    std::size_t tile_size = 0;  // points

    // In the order of work: color by color, and large tiles first, so that threads finish together.
    bool operator<(const TiledRun &other) const {
        return std::tie(color, other.tile_size, tile, run.begin) <
               std::tie(other.color, tile_size, other.tile, other.run.begin);
    }
};

// Gives up, with an empty result, where runs are too short.
std::vector<TiledRun> find_runs(const Simplexes &s, int shift) {
    std::vector<TiledRun> runs;
    const std::size_t most = s.points / wanted_run + 1;
    in_pieces(0, s.points, 4096, [&](std::size_t begin, std::size_t end) {
        for (std::size_t p = begin; p < end && runs.size() <= most; ++p) {
            const Tile tile = tile_of(s, p, shift);
            if (runs.empty() || runs.back().tile != tile ||
                runs.back().run.end - runs.back().run.begin == PointTiles::max_run)
                runs.push_back({2 * (tile.first & 1) + (tile.second & 1), tile, {std::uint32_t(p), 0}, 0});
            runs.back().run.end = std::uint32_t(p + 1);
        }
    });
    if (runs.size() > most) runs.clear();
    return runs;
}

}  // namespace

PointTiles make_point_tiles(const Simplexes &s) {
    PointTiles result;
    std::vector<TiledRun> runs;
    for (int shift = 0; shift <= max_shift && runs.empty() && s.points > 0; ++shift)
        runs = find_runs(s, shift);
    std::map<Tile, std::size_t> sizes;
    for (const TiledRun &run : runs) sizes[run.tile] += run.run.end - run.run.begin;
    for (TiledRun &run : runs) run.tile_size = sizes[run.tile];
    std::sort(runs.begin(), runs.end());
    result.colors.fill(0);
    for (std::size_t n = 0; n < runs.size(); ++n) {
        if (n == 0 || runs[n].tile != runs[n - 1].tile) {
            result.tiles.push_back(std::int32_t(n));
            for (int color = runs[n].color + 1; color < 5; ++color) ++result.colors[color];
        }
        result.runs.push_back(runs[n].run);
    }
    if (s.points > small && result.tiles.size() < wanted_tiles) return {};
    if (!runs.empty()) result.tiles.push_back(std::int32_t(runs.size()));
    return result;
}

}  // namespace densecrf
