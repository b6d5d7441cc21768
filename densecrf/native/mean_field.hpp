// Mean-field inference in a fully connected CRF with Gaussian kernels.
// Source: Kraehenbuehl and Koltun, 2011, algorithm 1; DeepLab, section 3.3.
// SPDX-License-Identifier: MIT
#pragma once

#include "kernel.hpp"
#include "pool.hpp"
#include "unsettled.hpp"

namespace densecrf {

// The state of one inference: one row of floats a pixel, in groups of 4 or 8 lanes, so that a group's vertex rows stay
// in the caches. Four things save work:
//
// - Where all labels are pulled alike, those that hold little everywhere are pooled. One lane carries their sum S, and
//   one message M of that sum is computed. A pooled label's own message is at most pull x S and so is its part of M, so
//   its logit is off by no more than pull x S's maximum, and its probability, itself under the pool's limit, by a factor
//   no larger than the exponential of that. (Measured on noisy maps of 21 labels: no probability off by more than 2e-3,
//   1e-6 on the mean.) A pool that comes to hold much is dissolved.
// - Where two lanes are left and labels are pulled alike, one is enough: the second message is that of all probability
//   less the first.
// - From the third step on, pixels whose probabilities moved by no more than `settled` in a full step rest for two or
//   three steps, until the next full one; the last step of a run is a full one. (Measured with 1e-4 on 160 real score
//   maps: probabilities off by 3e-7 on the mean, 166 pixels of 28.7 million by more than 1e-2, 98 labels changed.)
// - Softmax and the test for rest are done while a block's messages are in the nearest cache.
struct Savings {
    float pool = 0;     // labels are pooled whose probability is nowhere higher; 0: none
    float settled = 0;  // pixels rest that move by no more; 0: none
};

class MeanField {
public:
    // unaries: the caller keeps them for as long as this lives. std::domain_error for what is no probability.
    MeanField(const Unaries &unaries, std::vector<Pull> pulls, Savings savings, int threads);

    // Start from other marginals (K x N) than the softmax of the negative energies.
    void set_marginals(const float *marginals);

    void run(int iterations);

    int threads() const { return threads_; }

    // K x N, out.
    void marginals(float *out) const;

    // The same as the last thing: what only further steps need is given up before.
    void finish(float *out);

private:
    static constexpr std::size_t block_ = 256;  // pixels that are taken through several steps while in the caches

    template <class Work>
    void each_block(std::size_t count, const Work &work) const {
        parallel_for(threads_, count, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; i += block_) work(i, std::min(end, i + block_));
        });
    }

    float *group(Buffer<float> &rows, std::size_t g) const { return rows.data() + g * points_ * lanes_; }
    const float *lane(std::size_t a) const { return q_.data() + (a / lanes_) * points_ * lanes_ + a % lanes_; }
    const float *energy(std::size_t a) const {
        return unaries_.are_probabilities() ? energies_.data() + a * points_ : unaries_.plane(lanes_of_[a]);
    }
    std::size_t lanes_used() const { return lanes_of_.size() + !pool_.empty(); }

    std::size_t width_for(std::size_t used) const;
    void layout();
    void start();
    void give_all_lanes();
    void normalize();
    void mix(std::size_t m);
    std::vector<float> strengths(std::size_t m, std::size_t g) const;
    void add_messages(std::size_t g, const std::vector<const float *> &sources, const std::int32_t *ids, float *logits,
                      std::size_t begin, std::size_t end) const;
    void complete_pool(const std::int32_t *ids, float *logits, std::size_t begin, std::size_t end);
    void complete_pair(const std::int32_t *ids, float *logits, float *top, std::size_t begin, std::size_t end);
    void complete(const std::int32_t *ids, float *logits, float *top, std::size_t begin, std::size_t end);
    void update(bool look);
    void update_group(std::size_t g, bool look);
    void update_unsettled();
    bool adapt();
    std::size_t most_unsettled() const;
    void pool(const std::vector<std::int32_t> &places);

    Unaries unaries_;
    std::size_t labels_, points_;
    std::vector<Pull> pulls_;
    bool alike_ = true;                      // all labels are pulled alike
    Savings savings_;
    int threads_;
    int steps_ = 0;                          // since the start
    std::vector<std::int32_t> lanes_of_;     // labels that have a lane, in order; the pool's lane comes after them
    Pool pool_;
    std::size_t lanes_ = 0, groups_ = 0;     // one lane: of a pair, whose second is what is left of the first
    Buffer<float> q_;                   // groups x N x lanes: probabilities, between steps
    Buffer<float> energies_;            // lanes' labels x N, where the unaries are probabilities
    Buffer<float> whole_message_;       // N: message of a probability of one everywhere, where there is a pair
    std::vector<float> top_;                 // highest probability of each lane
    std::vector<Buffer<float>> rows_;   // vertex rows of each kernel, one group at a time
    std::vector<Buffer<float>> mixed_;  // of each kernel with a matrix: its sources, as q_
    Buffer<float> spare_;
    Unsettled unsettled_;
};

}  // namespace densecrf
