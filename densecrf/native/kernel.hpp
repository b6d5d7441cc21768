// A pairwise term: a Gaussian over the points of a lattice, normalised, and how strongly it pulls.
// Source: Kraehenbuehl and Koltun, 2011; the normalisations are those of their second program, 2013.
// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "lattice.hpp"

namespace densecrf {

// Per-pixel scaling of the kernel matrix K by its row sums: D^-1/2 K D^-1/2, D^-1 K, K D^-1, or K itself.
enum class Normalization { symmetric, after, before, none };

// A normalised Gaussian over the points of a lattice.
class Kernel {
public:
    Kernel(std::shared_ptr<const Lattice> lattice, Normalization normalization, bool include_self, int threads)
        : lattice_(std::move(lattice)) {
        const std::size_t n = lattice_->points();
        const float one = 1;
        Buffer<float> ones(n, 1.0f), sums(n, 0.0f), rows, spare;
        lattice_->splat_and_blur(ones.data(), nullptr, 1, rows, spare, threads);
        parallel_for(threads, n, [&](std::size_t begin, std::size_t end) {
            lattice_->slice(1, rows.data(), nullptr, &one, sums.data(), begin, end);
        });
        const bool symmetric = normalization == Normalization::symmetric;
        const bool scale_before = symmetric || normalization == Normalization::before;
        const bool scale_after = symmetric || normalization == Normalization::after;
        if (!include_self) own_.resize(n);
        parallel_for(threads, n, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                const float own = include_self ? 0.0f : lattice_->own_share(i);
                const float sum = sums[i] - own;
                const float scale = symmetric ? 1.0f / std::sqrt(sum) : 1.0f / sum;
                ones[i] = sum > 1e-5f ? scale : 0.0f;  // a point with no other near it gets no message
                if (!include_self) own_[i] = own * (scale_before ? ones[i] : 1.0f) * (scale_after ? ones[i] : 1.0f);
            }
        });
        if (scale_before) before_ = ones;
        if (scale_after) after_ = std::move(ones);
    }

    const Lattice &lattice() const { return *lattice_; }
    const float *before() const { return before_.empty() ? nullptr : before_.data(); }
    const float *after() const { return after_.empty() ? nullptr : after_.data(); }
    const float *own() const { return own_.empty() ? nullptr : own_.data(); }  // null where it is kept

private:
    std::shared_ptr<const Lattice> lattice_;
    Buffer<float> before_, after_, own_;
};

// How strongly a kernel pulls: logit k of a pixel gains strength[k] x message k; or, with a K x K matrix, the sum over
// labels l of strength[k, l] x message l.
struct Pull {
    std::shared_ptr<const Kernel> kernel;
    std::vector<float> strength;
    bool is_matrix(std::size_t labels) const { return strength.size() != labels; }
};

}  // namespace densecrf
