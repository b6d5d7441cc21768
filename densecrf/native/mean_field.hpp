// Mean-field inference in a fully connected CRF with Gaussian kernels and Potts compatibility.
// Source: Kraehenbuehl and Koltun, 2011, algorithm 1; DeepLab, section 3.3. As in their programs, a pixel's own
// contribution to its message is kept, and only the attractive part of the Potts term is added.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstring>
#include <memory>

#include "lattice.hpp"

namespace densecrf {

// Per-pixel scaling of the kernel matrix K by its row sums: D^-1/2 K D^-1/2, D^-1 K, K D^-1, or K itself.
enum class Normalization { symmetric, after, before, none };

// One pairwise term: weight x (scaled) Gaussian over the points of a lattice.
class Kernel {
public:
    Kernel(std::shared_ptr<const Lattice> lattice, float weight, Normalization normalization, int threads)
        : lattice_(std::move(lattice)) {
        const std::size_t n = lattice_->points();
        std::vector<float> sums(n);
        const std::vector<float> ones(n, 1.0f);
        lattice_->filter(ones.data(), 1, sums.data(), threads);
        after_.assign(n, weight);
        const bool symmetric = normalization == Normalization::symmetric;
        if (symmetric || normalization == Normalization::before) before_.resize(n);
        for (std::size_t i = 0; i < n; ++i) {
            const float scale = symmetric ? 1.0f / std::sqrt(sums[i] + 1e-20f) : 1.0f / (sums[i] + 1e-20f);
            if (!before_.empty()) before_[i] = scale;
            if (symmetric || normalization == Normalization::after) after_[i] *= scale;
        }
    }

    const Lattice &lattice() const { return *lattice_; }
    const float *before() const { return before_.empty() ? nullptr : before_.data(); }
    float after(std::size_t point) const { return after_[point]; }

private:
    std::shared_ptr<const Lattice> lattice_;
    std::vector<float> before_, after_;
};

// exp(min(x, 0)), relative error under 2e-7; branch-free, so that loops over labels vectorise.
inline float exp_of_negative(float x) {
    x = std::min(std::max(x, -87.0f), 0.0f);
    const float magic = 12582912.0f;  // 1.5 x 2^23: adding it rounds to an integer
    const float steps = (x * 1.44269504f + magic) - magic;
    const float r = (x - steps * 0.693359375f) + steps * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const std::int32_t bits = (std::int32_t(steps) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return y * power;
}

// In place: logits of one pixel to probabilities. Lanes beyond `labels` are padding and become zero.
inline void softmax(float *row, std::size_t labels, std::size_t lanes) {
    float top = row[0];
    for (std::size_t k = 1; k < labels; ++k) top = std::max(top, row[k]);
    for (std::size_t k = 0; k < lanes; ++k) row[k] = exp_of_negative(row[k] - top);
    float sum = 0;
    for (std::size_t k = 0; k < labels; ++k) sum += row[k];
    const float scale = 1.0f / sum;
    for (std::size_t k = 0; k < labels; ++k) row[k] *= scale;
    for (std::size_t k = labels; k < lanes; ++k) row[k] = 0;
}

// logits: K x N, minus the unary energies. marginals: K x N, out.
inline void mean_field(const float *logits, std::size_t labels, std::size_t points, const std::vector<Kernel> &kernels,
                       int iterations, float *marginals, int threads) {
    const std::size_t lanes = (labels + 3) / 4 * 4;
    std::vector<float> start(points * lanes), q(points * lanes);  // one row a pixel
    parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = 0; k < labels; ++k)
            for (std::size_t i = begin; i < end; ++i) start[i * lanes + k] = logits[k * points + i];
        for (std::size_t i = begin; i < end; ++i) {
            std::copy_n(start.data() + i * lanes, lanes, q.data() + i * lanes);
            softmax(q.data() + i * lanes, labels, lanes);
        }
    });
    std::vector<std::vector<float>> rows(kernels.size());
    std::vector<float> spare;
    for (int step = 0; step < iterations; ++step) {
        for (std::size_t m = 0; m < kernels.size(); ++m)
            kernels[m].lattice().splat_and_blur(q.data(), kernels[m].before(), lanes, rows[m], spare, threads);
        parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                float *row = q.data() + i * lanes;
                std::copy_n(start.data() + i * lanes, lanes, row);
                for (std::size_t m = 0; m < kernels.size(); ++m)
                    kernels[m].lattice().slice_add(rows[m].data(), i, kernels[m].after(i), lanes, row);
                softmax(row, labels, lanes);
            }
        });
    }
    parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = 0; k < labels; ++k)
            for (std::size_t i = begin; i < end; ++i) marginals[k * points + i] = q[i * lanes + k];
    });
}

}  // namespace densecrf
