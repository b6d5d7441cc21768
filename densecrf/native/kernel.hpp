// A pairwise term of the CRF: a normalised Gaussian over the points of a lattice, and its strength for each
// label.
// Source: Kraehenbuehl and Koltun, 2011; the normalisations are those of their second program, 2013.
// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "lattice.hpp"

namespace densecrf {

// Per-pixel scaling of the kernel matrix K by its row sums: D^-1/2 K D^-1/2, D^-1 K, K D^-1, or K itself.
enum class Normalization { symmetric, after, before, none };

// A Gaussian over the points of a lattice; the normalisation is multiplied into the lattice's weights.
class Kernel {
public:
    Kernel(Lattice lattice, Normalization normalization, bool include_self, int threads)
        : lattice_(std::move(lattice)) {
        const std::size_t n = lattice_.points();
        if (!include_self) {
            self_weights_.resize(n);
            parallel_for(threads, n, [&](std::size_t begin, std::size_t end) {
                in_pieces(begin, end, 1,
                          [&](std::size_t i, std::size_t) { self_weights_[i] = lattice_.self_weight(i); });
            });
        }
        if (normalization != Normalization::none) normalize(normalization, threads);
    }

    const Lattice &lattice() const { return lattice_; }

    // N: the factor of a point's own value in its message, which is to be subtracted; null if it is to stay.
    const float *self_weights() const { return self_weights_.empty() ? nullptr : self_weights_.data(); }

private:
    void normalize(Normalization normalization, int threads) {
        const bool symmetric = normalization == Normalization::symmetric;
        const bool scale_before = symmetric || normalization == Normalization::before;
        const bool scale_after = symmetric || normalization == Normalization::after;
        const bool exclude_self = !self_weights_.empty();
        const std::size_t n = lattice_.points();
        Buffer<float> before(n, 1.0f), after(n, 0.0f), rows, scratch;
        lattice_.splat_and_blur(nullptr, before.data(), 1, rows, scratch, threads);
        parallel_for(threads, n, [&](std::size_t begin, std::size_t end) {
            const float one = 1;
            lattice_.slice(1, nullptr, rows.data(), &one, after.data() + begin, begin, end);
            for (std::size_t i = begin; i < end; ++i) {
                const float sum = after[i] - (exclude_self ? self_weights_[i] : 0.0f);
                // A point without another one nearby gets no message.
                const float scale = sum <= 1e-5f ? 0.0f : symmetric ? 1.0f / std::sqrt(sum) : 1.0f / sum;
                if (scale_before) before[i] = scale;
                after[i] = scale_after ? scale : 1.0f;
                if (exclude_self) self_weights_[i] *= before[i] * after[i];
            }
        });
        lattice_.scale(before, after, threads);
    }

    Lattice lattice_;
    Buffer<float> self_weights_;
};

// A kernel with its strengths. With K strengths, logit k of a pixel gains strengths[k] x message k; with a K
// x K matrix, it gains the sum over labels l of strengths[k, l] x message l.
struct PairwiseTerm {
    std::shared_ptr<const Kernel> kernel;
    std::vector<float> strengths;
    bool is_matrix(std::size_t labels) const { return strengths.size() != labels; }
};

}  // namespace densecrf
