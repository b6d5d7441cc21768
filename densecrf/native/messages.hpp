// What kernels make of K x N values together, and the transpose of that, which gradients take on their way back.
// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <vector>

#include "kernel.hpp"

namespace densecrf {

// Planes [first, first + lanes) of K x N values to rows of lanes; lanes beyond K are zero.
inline void pack(const float *planes, std::size_t labels, std::size_t points, std::size_t first, int lanes, float *rows,
                 int threads) {
    parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = 0; k < std::size_t(lanes); ++k) {
            const float *plane = first + k < labels ? planes + (first + k) * points : nullptr;
            for (std::size_t i = begin; i < end; ++i) rows[i * lanes + k] = plane ? plane[i] : 0.0f;
        }
    });
}

// out (K x N) = sum over kernels m of weights[m] x F_m values, with F_m transposed if asked for. If `beside` (K x N) is
// not null, products[m] becomes the inner product of F_m values, without its weight, and `beside`. Lanes are taken in
// groups, and points in blocks of fixed size, so that the result does not depend on the number of threads.
inline void messages(const std::vector<std::shared_ptr<const Kernel>> &kernels, const std::vector<float> &weights,
                     const float *values, const float *beside, std::size_t labels, std::size_t points, bool transposed,
                     float *out, double *products, int threads) {
    constexpr std::size_t block = 128, widest = 8;
    const int lanes = labels == 1 ? 1 : labels <= 4 ? 4 : int(widest);
    const std::size_t blocks = (points + block - 1) / block;
    const std::vector<float> ones(lanes, 1.0f);
    std::vector<Buffer<float>> rows(kernels.size());
    Buffer<float> source(points * lanes), spare, scaled;
    std::vector<double> parts(beside ? blocks * kernels.size() : 0, 0.0);
    for (std::size_t first = 0; first < labels; first += lanes) {
        pack(values, labels, points, first, lanes, source.data(), threads);
        for (std::size_t m = 0; m < kernels.size(); ++m) {
            // A lattice's weights carry `before` on the one side and `after` on the other; the transpose has them
            // changed over.
            const float *ratio = transposed ? kernels[m]->lattice().before_over_after() : nullptr;
            if (ratio) {
                scaled.resize(source.size());
                parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
                    for (std::size_t i = begin; i < end; ++i)
                        for (int k = 0; k < lanes; ++k)
                            scaled[i * lanes + k] = ratio[i] > 0 ? source[i * lanes + k] / ratio[i] : 0.0f;
                });
            }
            kernels[m]->lattice().splat_and_blur(nullptr, ratio ? scaled.data() : source.data(), lanes, rows[m], spare,
                                                 threads, transposed);
        }
        const std::size_t count = std::min<std::size_t>(lanes, labels - first);
        parallel_for(threads, blocks, [&](std::size_t begin_block, std::size_t end_block) {
            float message[block * widest], sum[block * widest];
            for (std::size_t b = begin_block; b < end_block; ++b) {
                const std::size_t begin = b * block, end = std::min(points, begin + block);
                std::fill_n(sum, (end - begin) * lanes, 0.0f);
                for (std::size_t m = 0; m < kernels.size(); ++m) {
                    const Lattice &lattice = kernels[m]->lattice();
                    const float *ratio = transposed ? lattice.before_over_after() : nullptr, *own = kernels[m]->own();
                    std::fill_n(message, (end - begin) * lanes, 0.0f);
                    lattice.slice(lanes, nullptr, rows[m].data(), ones.data(), message, begin, end);
                    for (std::size_t i = begin; i < end && (ratio || own); ++i)
                        for (int k = 0; k < lanes; ++k) {
                            float &one = message[(i - begin) * lanes + k];
                            one = (ratio ? ratio[i] * one : one) - (own ? own[i] * source[i * lanes + k] : 0.0f);
                        }
                    for (std::size_t n = 0; n < (end - begin) * lanes; ++n) sum[n] += weights[m] * message[n];
                    for (std::size_t k = 0; beside && k < count; ++k) {
                        const float *plane = beside + (first + k) * points + begin;
                        float product = 0;
                        for (std::size_t n = 0; n < end - begin; ++n) product += message[n * lanes + k] * plane[n];
                        parts[b * kernels.size() + m] += product;
                    }
                }
                for (std::size_t k = 0; k < count; ++k) {
                    float *plane = out + (first + k) * points + begin;
                    for (std::size_t n = 0; n < end - begin; ++n) plane[n] = sum[n * lanes + k];
                }
            }
        }, 16);
    }
    for (std::size_t m = 0; beside && m < kernels.size(); ++m) {
        products[m] = 0;
        for (std::size_t b = 0; b < blocks; ++b) products[m] += parts[b * kernels.size() + m];
    }
}

}  // namespace densecrf
