// Vertex rows for steps that splat as they go; see tiled_rows.hpp.
// SPDX-License-Identifier: MIT
#include "tiled_rows.hpp"

namespace densecrf {
namespace {

// Whether no two tiles of one color touch a vertex in common on another lattice than their own.
bool tiles_suit(const PointTiles &tiles, const Lattice &lattice) {
    Buffer<std::int32_t> owner(lattice.vertices() + 1, -1);  // the last tile that touched each vertex
    for (int color = 0; color < 4; ++color)
        for (std::int32_t tile = tiles.colors[color]; tile < tiles.colors[color + 1]; ++tile) {
            Team::check();
            for (std::int32_t r = tiles.tiles[tile]; r < tiles.tiles[tile + 1]; ++r)
                if (!lattice.claim(tiles.runs[r].begin, tiles.runs[r].end, tiles.colors[color], tile,
                                   owner.data()))
                    return false;
        }
    return true;
}

}  // namespace

TiledRows::TiledRows(const std::vector<PairwiseTerm> &terms) {
    for (const PairwiseTerm &term : terms) lattices_.push_back(&term.kernel->lattice());
}

std::unique_ptr<TiledRows> TiledRows::make(const std::vector<PairwiseTerm> &terms) {
    std::unique_ptr<TiledRows> made(new TiledRows(terms));
    std::vector<const Lattice *> candidates = made->lattices_;  // more dimensions go with larger tiles
    std::stable_sort(candidates.begin(), candidates.end(), [](const Lattice *a, const Lattice *b) {
        return a->tiles().runs.size() < b->tiles().runs.size();
    });
    for (const Lattice *candidate : candidates) {
        bool suits = !candidate->tiles().empty();
        for (const Lattice *other : made->lattices_)
            suits = suits && (other == candidate || tiles_suit(candidate->tiles(), *other));
        if (!suits) continue;
        made->tiles_ = &candidate->tiles();
        return made;
    }
    return nullptr;
}

void TiledRows::allocate(int lanes, std::size_t groups, int threads) {
    lanes_ = lanes;
    groups_ = groups;
    for (std::vector<Buffer<float>> *set : {&current_, &next_}) {
        set->resize(lattices_.size() * groups);
        for (std::size_t n = 0; n < set->size(); ++n) {
            Buffer<float> &rows = (*set)[n];
            rows = Buffer<float>();
            rows.resize((lattices_[n / groups]->vertices() + 1) * lanes);
        }
    }
    for (Buffer<float> &rows : current_) std::fill_n(rows.begin(), lanes, 0.0f);
    for (Buffer<float> &rows : next_)
        parallel_for(threads, rows.size(), [&](std::size_t begin, std::size_t end) {
            std::fill(rows.begin() + begin, rows.begin() + end, 0.0f);
        });
}

void TiledRows::blur(bool keeps, int threads) {
    for (std::size_t n = 0; n < next_.size(); ++n) {
        Buffer<float> &current = current_[n], &next = next_[n];
        const Lattice &lattice = *lattices_[n / groups_];
        if (!keeps) {
            lattice.blur(lanes_, next, current, threads, false, true);
            next.swap(current);
            continue;
        }
        parallel_for(threads, next.size(), [&](std::size_t begin, std::size_t end) {
            std::copy(next.begin() + begin, next.begin() + end, current.begin() + begin);
        });
        scratch_.resize(next.size());
        std::fill_n(scratch_.begin(), lanes_, 0.0f);
        lattice.blur(lanes_, current, scratch_, threads, false, false);
    }
}

}  // namespace densecrf
