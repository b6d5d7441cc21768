// The summed messages of several kernels for K x N values, and the transpose of that map, which gradients
// need.
// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernel.hpp"

namespace densecrf {

// What messages() works on. F_m is the linear map of kernel m.
struct MessageTask {
    std::vector<std::shared_ptr<const Kernel>> kernels;
    std::vector<float> weights;  // one for each kernel
    const float *values;         // K x N
    const float *dot_with;       // K x N: what each F_m values is multiplied with, or null
    std::size_t labels, points;
    bool transposed;  // use F_m transposed
};

// Computes messages for one group of labels after another: values are packed to rows of `lanes` labels,
// splatted and blurred by each kernel, then sliced and added up in blocks of points. The blocks have a fixed
// size, so that the result does not depend on the number of threads.
class MessageSum {
public:
    MessageSum(MessageTask task, int threads)
        : task_(std::move(task)), threads_(threads), lanes_(lanes_for(task_.labels)),
          blocks_((task_.points + block - 1) / block), ones_(lanes_, 1.0f), rows_(task_.kernels.size()),
          source_(task_.points * lanes_),
          dot_parts_(task_.dot_with ? blocks_ * task_.kernels.size() : 0, 0.0) {}

    // out: K x N, the sum over kernels of weight x F_m values. dot_products: for each kernel, the inner
    // product of F_m values, without its weight, with dot_with; not used if that is null.
    void run(float *out, double *dot_products) {
        for (std::size_t first = 0; first < task_.labels; first += lanes_) {
            pack(first);
            for (std::size_t m = 0; m < task_.kernels.size(); ++m) filter(m);
            parallel_for(
                threads_, blocks_,
                [&](std::size_t begin, std::size_t end) {
                    for (std::size_t b = begin; b < end; ++b) add_up_block(b, first, out);
                },
                16);
        }
        for (std::size_t m = 0; task_.dot_with && m < task_.kernels.size(); ++m) {
            dot_products[m] = 0;
            for (std::size_t b = 0; b < blocks_; ++b)
                dot_products[m] += dot_parts_[b * task_.kernels.size() + m];
        }
    }

private:
    static constexpr std::size_t block = 128, max_lanes = 8;

    static int lanes_for(std::size_t labels) { return labels == 1 ? 1 : labels <= 4 ? 4 : int(max_lanes); }

    // The ratio by which a lattice's weights differ on its two sides, if the transpose has to exchange them.
    const float *ratio_of(std::size_t m) const {
        return task_.transposed ? task_.kernels[m]->lattice().before_over_after() : nullptr;
    }

    // Planes [first, first + lanes) of the values as rows; lanes from K on are zero.
    void pack(std::size_t first) {
        parallel_for(threads_, task_.points, [&](std::size_t begin, std::size_t end) {
            for (std::size_t k = 0; k < std::size_t(lanes_); ++k) {
                const float *plane =
                    first + k < task_.labels ? task_.values + (first + k) * task_.points : nullptr;
                for (std::size_t i = begin; i < end; ++i) source_[i * lanes_ + k] = plane ? plane[i] : 0.0f;
            }
        });
    }

    // Splats and blurs the packed values by kernel m.
    void filter(std::size_t m) {
        const float *ratio = ratio_of(m);
        if (ratio) {
            scaled_.resize(source_.size());
            parallel_for(threads_, task_.points, [&](std::size_t begin, std::size_t end) {
                for (std::size_t i = begin; i < end; ++i)
                    for (int k = 0; k < lanes_; ++k)
                        scaled_[i * lanes_ + k] = ratio[i] > 0 ? source_[i * lanes_ + k] / ratio[i] : 0.0f;
            });
        }
        task_.kernels[m]->lattice().splat_and_blur(nullptr, ratio ? scaled_.data() : source_.data(), lanes_,
                                                   rows_[m], scratch_, threads_, task_.transposed);
    }

    // The messages of all kernels to the points of block b, for the labels from `first` on.
    void add_up_block(std::size_t b, std::size_t first, float *out) {
        const std::size_t begin = b * block, end = std::min(task_.points, begin + block);
        const std::size_t count = std::min<std::size_t>(lanes_, task_.labels - first);
        float message[block * max_lanes], sum[block * max_lanes];
        std::fill_n(sum, (end - begin) * lanes_, 0.0f);
        for (std::size_t m = 0; m < task_.kernels.size(); ++m) {
            slice_block(m, begin, end, message);
            for (std::size_t n = 0; n < (end - begin) * lanes_; ++n) sum[n] += task_.weights[m] * message[n];
            for (std::size_t k = 0; task_.dot_with && k < count; ++k) {
                const float *plane = task_.dot_with + (first + k) * task_.points + begin;
                float product = 0;
                for (std::size_t n = 0; n < end - begin; ++n) product += message[n * lanes_ + k] * plane[n];
                dot_parts_[b * task_.kernels.size() + m] += product;
            }
        }
        for (std::size_t k = 0; k < count; ++k) {
            float *plane = out + (first + k) * task_.points + begin;
            for (std::size_t n = 0; n < end - begin; ++n) plane[n] = sum[n * lanes_ + k];
        }
    }

    // The message of kernel m to points [begin, end), without its weight.
    void slice_block(std::size_t m, std::size_t begin, std::size_t end, float *message) const {
        const float *ratio = ratio_of(m), *self = task_.kernels[m]->self_weights();
        std::fill_n(message, (end - begin) * lanes_, 0.0f);
        task_.kernels[m]->lattice().slice(lanes_, nullptr, rows_[m].data(), ones_.data(), message, begin,
                                          end);
        for (std::size_t i = begin; i < end && (ratio || self); ++i)
            for (int k = 0; k < lanes_; ++k) {
                float &value = message[(i - begin) * lanes_ + k];
                value =
                    (ratio ? ratio[i] * value : value) - (self ? self[i] * source_[i * lanes_ + k] : 0.0f);
            }
    }

    MessageTask task_;
    int threads_, lanes_;
    std::size_t blocks_;
    std::vector<float> ones_;
    std::vector<Buffer<float>> rows_;  // vertex rows of each kernel
    Buffer<float> source_;             // N x lanes: the packed values
    Buffer<float> scaled_, scratch_;
    std::vector<double> dot_parts_;  // blocks x kernels
};

}  // namespace densecrf
