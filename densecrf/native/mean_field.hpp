// Mean-field inference in a fully connected CRF with Gaussian kernels.
// Source: Kraehenbuehl and Koltun, 2011, algorithm 1; DeepLab, section 3.3.
// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <stdexcept>

#include "kernel.hpp"
#include "pool.hpp"
#include "unsettled.hpp"

namespace densecrf {

// The state of one inference: one row of floats a pixel, in groups of 4 or 8 lanes, so that a group's vertex rows stay
// in the caches. Four things save work:
//
// - Where all labels are pulled alike, those that hold little everywhere are pooled. One lane carries their sum S, and
//   one message M of that sum is computed. A pooled label's own message is at most pull x S and so is its part of M, so
//   its logit is off by no more than M, and its probability by about S x M. Where that is much after a step, all begins
//   again without a pool, so that the result is as if there had been none. (Measured on noisy maps of 21 labels: no
//   probability off by more than 5e-3, 1e-6 on the mean.)
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

// One call at a time: a call while another one runs, or after one that did not come to its end, throws std::runtime_error.
class Turns {
public:
    template <class Work>
    void take(const Work &work) {
        State found = State::ready;
        if (!state_.compare_exchange_strong(found, State::busy))
            throw std::runtime_error(
                found == State::busy ? "this mean field is at work in another thread; wanted one mean field for each thread"
                : found == State::stopped ? "this mean field was stopped in the middle of a step; wanted a new one"
                                          : "this mean field is finished; wanted a new one");
        struct Leave {
            Turns &turns;
            State then = State::stopped;
            ~Leave() { turns.state_.store(then); }
        } leave{*this};
        work();
        leave.then = finished_ ? State::finished : State::ready;
    }

    void finish() { finished_ = true; }  // by what is at work

private:
    enum class State { ready, busy, stopped, finished };
    std::atomic<State> state_{State::ready};
    bool finished_ = false;
};

class MeanField {
public:
    // unaries: the caller keeps them for as long as this lives. std::domain_error for what is no probability,
    // std::invalid_argument for pulls that do not fit.
    MeanField(const Unaries &unaries, std::vector<Pull> pulls, Savings savings, int threads);

    // Start from other marginals (K x N) than the softmax of the negative energies.
    void set_marginals(const float *marginals);

    void run(int iterations);

    int threads() const { return threads_; }

    // K x N, out.
    void marginals(float *out);

    // The same as the last thing: what only further steps need is given up before.
    void finish(float *out);

private:
    static constexpr std::size_t block_ = 256;  // pixels that are taken through several steps while in the caches

    template <class Work>
    void each_block(std::size_t count, const Work &work) const {
        parallel_for(threads_, count, [&](std::size_t begin, std::size_t end) { in_pieces(begin, end, block_, work); });
    }

    float *group(Buffer<float> &rows, std::size_t g) const { return rows.data() + g * points_ * lanes_; }
    const float *lane(std::size_t a) const { return q_.data() + (a / lanes_) * points_ * lanes_ + a % lanes_; }
    // Lane a's energies at all points, counted from least_ where that is not empty.
    const float *energy(std::size_t a) const {
        return unaries_.are_probabilities() ? energies_.data() + a * points_ : unaries_.plane(lanes_of_[a]);
    }
    std::vector<const float *> planes(std::size_t g) const;
    bool holds_pool(std::size_t g) const { return !pool_.empty() && g + 1 == groups_; }
    std::size_t lanes_used() const { return lanes_of_.size() + !pool_.empty(); }

    std::size_t width_for(std::size_t used) const;
    void layout();
    void choose_lanes();
    void start();
    void set_lanes(const float *marginals);
    void advance(int iterations);
    void write(float *out) const;
    void give_all_lanes();
    void begin_again();
    void normalize();
    void mix(std::size_t m);
    std::vector<float> strengths(std::size_t m, std::size_t g) const;
    void check_pulls() const;
    float doubt(const float *rows, std::size_t begin, std::size_t end) const;
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
    Turns turns_;
    std::int64_t steps_ = 0;                 // since the start
    Buffer<float> given_;                    // K x N: what to begin again from; empty: the unaries
    std::int64_t given_steps_ = 0;           // steps_ there
    bool from_unaries_ = true;               // what steps began from
    float doubt_ = 0;                        // what pooling may have changed in the last step
    Buffer<float> least_;                    // N: the least energy at each point; empty if unaries are probabilities
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
