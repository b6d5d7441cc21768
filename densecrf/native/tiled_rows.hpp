// The vertex rows of an inference that splats each run of points as soon as it has updated it.
// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <vector>

#include "kernel.hpp"

namespace densecrf {

// Two sets of rows, one for each term and group of lanes: a step slices its messages from the one, while it
// splats the new marginals to the other; then blur() makes the other one ready. All terms are splatted in the
// tiles of one of their lattices.
class TiledRows {
public:
    // Null where no lattice has tiles that suit all others, too.
    static std::unique_ptr<TiledRows> make(const std::vector<PairwiseTerm> &terms);

    // Starts with rows of so many lanes and groups, to be splatted to.
    void allocate(int lanes, std::size_t groups, int threads);
    bool has_size(int lanes, std::size_t groups) const { return lanes == lanes_ && groups == groups_; }

    // Adds a group's marginals, or what they have changed by: rows of points ids[n] (or n, where ids is null)
    // for n in [begin, end), the first of which is at `values`.
    void splat(std::size_t group, const std::int32_t *ids, const float *values, std::size_t begin,
               std::size_t end) {
        for (std::size_t m = 0; m < lattices_.size(); ++m)
            lattices_[m]->splat(lanes_, ids, values, next_[m * groups_ + group].data(), begin, end);
    }

    // Fetches into the cache what a step reads of a run's points, beside rows.
    void prefetch(PointTiles::Run run) const {
        for (const Lattice *lattice : lattices_) lattice->prefetch(run.begin, run.end);
    }

    // Makes what was splatted ready to be sliced from. Next splats add to it if it is kept, else to zeros.
    void blur(bool keeps, int threads);

    // Of term m and a group, to be sliced from.
    const float *rows(std::size_t m, std::size_t group) const { return current_[m * groups_ + group].data(); }

    const PointTiles &tiles() const { return *tiles_; }

private:
    explicit TiledRows(const std::vector<PairwiseTerm> &terms);

    std::vector<const Lattice *> lattices_;
    const PointTiles *tiles_ = nullptr;
    int lanes_ = 0;
    std::size_t groups_ = 0;
    std::vector<Buffer<float>> current_, next_;  // terms x groups
    Buffer<float> scratch_;
};

}  // namespace densecrf
