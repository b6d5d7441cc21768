// A pairwise term: a Gaussian over the points of a lattice, normalised, and how strongly it pulls.
// Source: Kraehenbuehl and Koltun, 2011; the normalisations are those of their second program, 2013.
// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "lattice.hpp"

namespace densecrf {

// Per-pixel scaling of the kernel matrix K by its row sums: D^-1/2 K D^-1/2, D^-1 K, K D^-1, or K itself.
enum class Normalization { symmetric, after, before, none };

// A normalised Gaussian over the points of a lattice, whose weights carry the normalisation.
class Kernel {
public:
    Kernel(Lattice lattice, Normalization normalization, bool include_self, int threads) : lattice_(std::move(lattice)) {
        const bool symmetric = normalization == Normalization::symmetric;
        const bool scale_before = symmetric || normalization == Normalization::before;
        const bool scale_after = symmetric || normalization == Normalization::after;
        const std::size_t n = lattice_.points();
        if (!include_self) {
            own_.resize(n);
            parallel_for(threads, n, [&](std::size_t begin, std::size_t end) {
                in_pieces(begin, end, 1, [&](std::size_t i, std::size_t) { own_[i] = lattice_.own_share(i); });
            });
        }
        if (!scale_before && !scale_after) return;
        Buffer<float> before(n, 1.0f), after(n, 0.0f), rows, spare;
        lattice_.splat_and_blur(nullptr, before.data(), 1, rows, spare, threads);
        parallel_for(threads, n, [&](std::size_t begin, std::size_t end) {
            const float one = 1;
            lattice_.slice(1, nullptr, rows.data(), &one, after.data() + begin, begin, end);
            for (std::size_t i = begin; i < end; ++i) {
                const float sum = after[i] - (include_self ? 0.0f : own_[i]);
                // A point with no other near it gets no message.
                const float scale = sum <= 1e-5f ? 0.0f : symmetric ? 1.0f / std::sqrt(sum) : 1.0f / sum;
                if (scale_before) before[i] = scale;
                after[i] = scale_after ? scale : 1.0f;
                if (!include_self) own_[i] *= before[i] * after[i];
            }
        });
        lattice_.scale(before, after, threads);
    }

    const Lattice &lattice() const { return lattice_; }
    const float *own() const { return own_.empty() ? nullptr : own_.data(); }  // null where it is kept

private:
    Lattice lattice_;
    Buffer<float> own_;  // N: the part of its own value in a point's message, to be taken off
};

// How strongly a kernel pulls: logit k of a pixel gains strength[k] x message k; or, with a K x K matrix, the sum over
// labels l of strength[k, l] x message l.
struct Pull {
    std::shared_ptr<const Kernel> kernel;
    std::vector<float> strength;
    bool is_matrix(std::size_t labels) const { return strength.size() != labels; }
};

}  // namespace densecrf
