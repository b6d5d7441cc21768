// Mean-field inference in a fully connected CRF with Gaussian kernels.
// Source: Kraehenbuehl and Koltun, 2011, algorithm 1; DeepLab, section 3.3.
// SPDX-License-Identifier: MIT
#pragma once

#include "kernel.hpp"

namespace densecrf {

// The state of one inference: one row of floats a pixel, in groups of 4 or 8 lanes, so that a group's vertex rows stay
// in the caches.
//
// Labels that hold little everywhere are pooled: one lane carries their sum S, one message M of that sum is computed, and
// each takes of M the share that its unary gives it among them. A message's error then is at most pull x the pool's
// highest S, and only changes probabilities that are at most S themselves: no marginal by more than S x (exp(pull x S) - 1)
// a step where kernels are normalised after (measured on noisy maps of 21 labels: 6e-4 at most, 1e-6 on the mean).
// A pool that grows too high is dissolved.
class MeanField {
public:
    // logits: K x N, minus the unary energies; the caller keeps them for as long as this lives.
    MeanField(const float *logits, std::size_t labels, std::size_t points, std::vector<Pull> pulls,
              float pool_limit, int threads);

    // Start from other marginals (K x N) than the softmax of the logits.
    void set_marginals(const float *marginals);

    void run(int iterations);

    // K x N, out.
    void marginals(float *out) const;

private:
    static constexpr std::size_t block_ = 256;  // pixels that are taken through several steps while in the caches

    template <class Work>
    void each_block(const Work &work) const {
        parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; i += block_) work(i, std::min(end, i + block_));
        });
    }

    float *group(std::vector<float> &rows, std::size_t g) const { return rows.data() + g * points_ * lanes_; }

    void give_all_lanes();
    void layout();
    void load_group(const float *planes, std::size_t g, std::size_t begin, std::size_t end);
    void load(const float *planes);
    float pooled_logit(std::size_t point, float message) const;
    void normalize();
    void mix(std::size_t m);
    void update();
    void adapt();
    void pool(const std::vector<std::int32_t> &places);
    std::size_t lanes_used() const { return lanes_of_.size() + !pooled_.empty(); }

    const float *logits_;
    std::size_t labels_, points_;
    std::vector<Pull> pulls_;
    float pool_limit_;
    int threads_;
    std::vector<std::int32_t> lanes_of_;      // labels that have a lane, in order; the pool's lane comes after them
    std::vector<std::int32_t> pooled_;        // labels without one
    std::size_t lanes_ = 0, groups_ = 0;
    std::vector<float> q_;                    // groups x N x lanes: probabilities, between steps
    std::vector<float> pool_start_;           // N: log of the sum of exp(logit) over the pool
    std::vector<float> pool_slope_;           // N: its first and second derivative by M
    std::vector<float> pool_curve_;
    std::vector<float> pool_message_;         // N: M of the last step
    std::vector<float> top_;                  // highest probability of each lane
    std::vector<std::vector<float>> rows_;    // vertex rows of each kernel, one group at a time
    std::vector<std::vector<float>> mixed_;   // of each kernel with a matrix: its sources, as q_
    std::vector<float> spare_;
};

}  // namespace densecrf
