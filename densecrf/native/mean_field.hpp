// Mean-field inference in a fully connected CRF with Gaussian kernels.
// Source: Kraehenbuehl and Koltun, 2011, algorithm 1; DeepLab, section 3.3.
// SPDX-License-Identifier: MIT
#pragma once

#include "active_pixels.hpp"
#include "call_guard.hpp"
#include "kernel.hpp"
#include "merged_labels.hpp"
#include "phase_times.hpp"
#include "tiled_rows.hpp"

namespace densecrf {

// Two approximations that save work; 0 switches each of them off.
struct Approximations {
    float merge_threshold = 0;        // labels whose probability is nowhere higher than this are merged
    float convergence_tolerance = 0;  // pixels whose probabilities change by at most this skip some steps
};

// The state of one inference: marginals in rows of floats, one for each pixel and group of 4 or 8 labels, so
// that the vertex rows of a group stay in the cache. Each label takes one lane of a row. Four things save
// work:
//
// - Merged labels. Where all labels have the same strength, those that are unlikely everywhere are merged:
//   one lane carries the sum S of their probabilities, and one message M of that sum is computed. A merged
//   label's own message is at most strength x S, and so is its share of M. Its logit is therefore off by at
//   most M, and its probability by about S x M. If that becomes too much in a step, the inference restarts
//   without merging, so that the result is as if there had been none. (Measured on noisy maps of 21 labels:
//   no probability off by more than 5e-3, 1e-6 on average.)
// - Pairs. Where two lanes remain and labels have the same strength, one is enough: the second message is the
//   message of a constant one minus the first.
// - Active pixels. From the third step on, pixels whose probabilities changed by at most the convergence
//   tolerance in a full step skip two or three steps, until the next full one. The last step of a run is a
//   full one. (Measured with 1e-4 on 160 real score maps: probabilities off by 3e-7 on average, 166 pixels of
//   28.7 million by more than 1e-2, 98 labels changed.)
// - Softmax and the test for convergence are done while the messages of a block of pixels are in the
//   first-level cache.
class MeanField {
public:
    // unaries: the caller keeps the planes for the lifetime of this object. Throws std::domain_error for
    // invalid probabilities, and std::invalid_argument for terms that do not fit.
    MeanField(const Unaries &unaries, std::vector<PairwiseTerm> terms, Approximations approximations,
              int threads);

    // Starts from other marginals (K x N) than the softmax of the negative energies.
    void set_marginals(const float *marginals);

    void run(int iterations);

    int threads() const { return threads_; }

    // Processor time of the phases so far, for benchmarks.
    const PhaseTimes &phase_times() const { return phase_times_; }

    // Writes the marginals, K x N.
    void marginals(float *out);

    // The same as the last call: what only further steps need is freed first.
    void finish(float *out);

private:
    static constexpr float max_held_ = 0.1f;  // probability x message of a label that is merged nevertheless
    static constexpr std::size_t max_tile_held_ = 16;  // points of a tile where that may be higher
    static constexpr std::size_t block_ = 256;  // pixels that pass through several loops while in the cache

    // What a step finds out about marginals, of all points or of some.
    struct StepFindings {
        std::vector<float> max_probability;  // of each lane
        // For each lane, the points that merging it would change too much: of all tiles, of the one at work, and
        // the most of one.
        std::vector<std::size_t> held, tile_held, max_tile_held;
        std::size_t merge_errors = 0;  // points that merging may have changed too much
        std::size_t active = 0;        // points that have not converged

        void reset(std::size_t lanes) {
            max_probability.assign(lanes, 0.0f);
            for (std::vector<std::size_t> *counts : {&held, &tile_held, &max_tile_held})
                counts->assign(lanes, 0);
            merge_errors = active = 0;
        }
        void end_tile();
        void add(const StepFindings &part);
    };

    template <class Work>
    void for_each_block(std::size_t count, const Work &work) const {
        parallel_for(threads_, count,
                     [&](std::size_t begin, std::size_t end) { in_pieces(begin, end, block_, work); });
    }

    // Lanes: which labels have one of their own, which are merged, and what the lanes hold
    // (mean_field_layout.cpp).
    float *group(Buffer<float> &rows, std::size_t g) const { return rows.data() + g * points_ * lanes_; }
    const float *lane(std::size_t a) const {
        return q_.data() + (a / lanes_) * points_ * lanes_ + a % lanes_;
    }
    const float *lane_energy(std::size_t a) const;
    bool has_merged_lane(std::size_t g) const { return !merged_.empty() && g + 1 == groups_; }
    std::size_t lanes_used() const { return lane_labels_.size() + !merged_.empty(); }
    void load_unaries(std::size_t g, float *rows, std::size_t begin, std::size_t end) const;
    std::size_t width_for(std::size_t used) const;
    void allocate_lanes();
    void compute_constant_message();
    void choose_lanes();
    void separate_all_labels();
    void start_from_unaries();
    void start_from_marginals(const float *marginals);
    void restart_without_merging();
    bool merge_unlikely_labels();
    std::vector<std::int32_t> unlikely_lanes() const;
    std::size_t merge_point_limit() const;
    std::size_t merge_error_point_limit() const;
    void merge_lanes(const std::vector<std::int32_t> &lanes);

    // Steps (mean_field_steps.cpp).
    void full_step(bool collect_active);
    void update_group(std::size_t g, bool collect_active);
    ActivePixels update_range(std::size_t g, const std::vector<const float *> &sources, bool collect_active,
                              StepFindings &findings, std::size_t begin, std::size_t end);
    void take_active(std::vector<ActivePixels> parts);
    void active_step();
    void mix_labels(std::size_t m);
    std::vector<float> lane_strengths(std::size_t m, std::size_t g) const;
    void add_messages(std::size_t g, const std::vector<const float *> &sources, const std::int32_t *ids,
                      float *logits, std::size_t begin, std::size_t end) const;
    void subtract_self(std::size_t m, const std::vector<float> &strengths, const std::int32_t *ids,
                       const float *source, float *logits, std::size_t begin, std::size_t end) const;
    void finish_merged_lane(const std::int32_t *ids, float *logits, std::size_t begin, std::size_t end);
    void finish_pair(const std::int32_t *ids, float *logits, float *max_probability, std::size_t begin,
                     std::size_t end);
    void finish_logits(const std::int32_t *ids, float *logits, float *max_probability, std::size_t begin,
                       std::size_t end);
    void normalize();
    void normalize_tiles();
    bool counts_held() const;
    std::size_t merge_errors(const float *rows, std::size_t begin, std::size_t end) const;

    // Steps that splat the new marginals tile by tile, as soon as they are known (mean_field_tiled.cpp).
    bool uses_tiles() const;
    void store_unary_rows();
    void tiled_step(bool is_last, bool collect_active);
    void tiled_active_step();
    void update_active_run(float *rows, PointTiles::Run run);
    bool may_skip() const;
    void splat_marginals();
    void prefetch(PointTiles::Run run) const;
    void update_run(float *logits, bool splats, bool collect_active, StepFindings &findings,
                    std::size_t begin, std::size_t end);
    void collect_active_run(const float *rows, StepFindings &findings, std::size_t begin, std::size_t end);
    void load_messages(float *logits, std::size_t begin, std::size_t end);

    void check_terms() const;
    void take_steps(int iterations);
    void active_steps(std::int64_t count);
    std::size_t max_active() const;
    bool too_many_active() const;
    void write_marginals(float *out) const;

    Unaries unaries_;
    std::size_t labels_, points_;
    std::vector<PairwiseTerm> terms_;
    bool same_strengths_ = true;  // in each term, all labels have the same strength
    Approximations approximations_;
    int threads_;
    CallGuard guard_;
    PhaseTimes phase_times_;

    // Steps since the start, and what a restart goes back to: the unaries, or marginals (K x N) if there are
    // any.
    std::int64_t steps_ = 0, restart_step_ = 0;
    bool starts_from_unaries_ = true;
    Buffer<float> restart_marginals_;
    float merge_error_limit_ = 0;  // how much merging may change a probability in this step

    // Labels with a lane of their own, in order; the merged lane comes after them. Rows of one lane hold a
    // pair, whose second probability is one minus the first.
    std::vector<std::int32_t> lane_labels_;
    MergedLabels merged_;
    std::size_t lanes_ = 0, groups_ = 0;
    StepFindings findings_;  // of the last step

    Buffer<float> q_;                         // groups x N x lanes: the marginals between steps
    Buffer<float> min_energy_;                // N: the lowest energy at each point; empty for probabilities
    Buffer<float> energies_;                  // N for each label of a pair, if the unaries are probabilities
    Buffer<float> unary_rows_;                // as q_: negative energies, for steps on tiles; else empty
    Buffer<float> constant_message_;          // N: the message of a probability of one everywhere; for pairs
    std::vector<Buffer<float>> vertex_rows_;  // of each kernel, for one group at a time
    std::vector<Buffer<float>> mixed_sources_;  // of each term with a matrix, laid out as q_
    Buffer<float> scratch_;
    ActivePixels active_;
    std::unique_ptr<TiledRows> tiled_;  // null where terms do not allow it
    bool is_splatted_ = false;          // the marginals are in tiled_, and in q_ only where steps need them
    bool has_self_weights_ = false;     // steps subtract a point's own message
    Buffer<std::uint8_t> is_active_;    // N: for steps on tiles, whether a point has not converged
};

}  // namespace densecrf
