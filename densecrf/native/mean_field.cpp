// Mean-field inference: the public calls and the sequence of steps; see mean_field.hpp.
// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include <stdexcept>

namespace densecrf {

namespace {

constexpr float max_strength = 1e20f;  // sums of messages over all points of an image stay finite

// The limit of what merging may change in a step. It falls, as unlikely labels may still lose much in the
// first steps.
float max_merge_error(std::int64_t step, bool is_last) {
    return is_last || step > 1 ? 0.25f : step == 1 ? 0.5f : 1.0f;
}

}  // namespace

MeanField::MeanField(const Unaries &unaries, std::vector<PairwiseTerm> terms, Approximations approximations,
                     int threads)
    : unaries_(unaries), labels_(unaries.labels), points_(unaries.points), terms_(std::move(terms)),
      approximations_(approximations), threads_(threads), vertex_rows_(terms_.size()),
      mixed_sources_(terms_.size()) {
    phase_times_.begin();
    check_terms();
    for (const PairwiseTerm &term : terms_) {
        if (term.is_matrix(labels_)) approximations_.convergence_tolerance = 0;
        for (const float strength : term.strengths)
            if (term.is_matrix(labels_) || strength != term.strengths[0]) same_strengths_ = false;
    }
    if (!same_strengths_) approximations_.merge_threshold = 0;
    if (!unaries_.are_probabilities()) {
        min_energy_.resize(points_);
        unaries_.min_energy = min_energy_.data();
        parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
            min_energies(unaries_, min_energy_.data(), begin, end);
        });
    }
    const auto is_matrix = [&](const PairwiseTerm &term) { return term.is_matrix(labels_); };
    if (std::none_of(terms_.begin(), terms_.end(), is_matrix)) tiled_ = TiledRows::make(terms_);
    for (const PairwiseTerm &term : terms_) has_self_weights_ |= term.kernel->self_weights() != nullptr;
    choose_lanes();
    start_from_unaries();
    phase_times_.add(&PhaseTimes::start);
    if (points_ >= std::size_t(1) << 20) BlockCache::release_all();
}

void MeanField::check_terms() const {
    for (const PairwiseTerm &term : terms_) {
        if (!term.kernel || term.kernel->lattice().points() != points_)
            throw std::invalid_argument(
                "got a kernel over another number of points than the unaries, wanted the same");
        if (term.strengths.size() != labels_ && term.strengths.size() != labels_ * labels_)
            throw std::invalid_argument(
                "got another number of strengths than labels, wanted that or its square");
        for (const float strength : term.strengths)
            if (!(std::fabs(strength) <= max_strength))
                throw std::invalid_argument(
                    "got a weight, or a weight times a compatibility, over 1e20; wanted at most that");
    }
}

void MeanField::set_marginals(const float *marginals) {
    guard_.run([&] {
        steps_ = 0;
        starts_from_unaries_ = false;
        restart_marginals_ = {};
        start_from_marginals(marginals);
    });
}

void MeanField::run(int iterations) {
    guard_.run([&] { take_steps(iterations); });
}

void MeanField::marginals(float *out) {
    guard_.run([&] {
        phase_times_.begin();
        write_marginals(out);
        phase_times_.add(&PhaseTimes::output);
    });
}

void MeanField::finish(float *out) {
    guard_.run([&] {
        for (std::vector<Buffer<float>> *buffers : {&vertex_rows_, &mixed_sources_}) buffers->clear();
        scratch_ = {};
        energies_ = {};
        unary_rows_ = {};
        restart_marginals_ = {};
        active_ = {};
        tiled_ = {};
        terms_.clear();
        guard_.finish();
        phase_times_.begin();
        write_marginals(out);
        phase_times_.add(&PhaseTimes::output);
    });
}

// The number of active pixels above which steps of their own save nothing, or, for large images, take too
// much memory.
std::size_t MeanField::max_active() const {
    return std::min(points_ / 2, std::max<std::size_t>(points_ / 32, 3 << 15));
}

void MeanField::take_steps(int iterations) {
    phase_times_.begin();
    const std::int64_t steps_before = steps_;  // steps that are repeated after a restart are full ones
    if (iterations > 0) merge_unlikely_labels();
    phase_times_.add(&PhaseTimes::start);
    for (std::int64_t left = iterations; left > 0;) {
        const bool tiled = uses_tiles();
        const bool collect_active = may_skip() && steps_ >= 2 && steps_ >= steps_before && left > 2;
        const std::int64_t skipped = std::min<std::int64_t>(steps_ == 2 ? 2 : 3, left - 2);
        merge_error_limit_ = max_merge_error(steps_, left == 1);
        tiled ? tiled_step(left == 1, collect_active) : full_step(collect_active);
        phase_times_.add(tiled ? &PhaseTimes::update : &PhaseTimes::other);
        if (findings_.merge_errors > merge_error_point_limit()) {
            left += steps_;
            restart_without_merging();
            left -= steps_;
            continue;
        }
        --left;
        ++steps_;
        const bool lanes_changed = left > 0 && merge_unlikely_labels();  // not after the last step
        phase_times_.add(&PhaseTimes::start);
        if (!collect_active || lanes_changed || too_many_active()) continue;
        active_steps(skipped);
        phase_times_.add(uses_tiles() ? &PhaseTimes::active_update : &PhaseTimes::other);
        left -= skipped;
    }
}

// Whether steps may be taken by some of the pixels.
bool MeanField::may_skip() const { return approximations_.convergence_tolerance > 0 && groups_ == 1; }

// Whether the pixels that have not converged cannot take steps of their own.
bool MeanField::too_many_active() const {
    return uses_tiles() ? !is_splatted_ || findings_.active > max_active() : active_.too_many;
}

// Takes `count` steps of the active pixels alone.
void MeanField::active_steps(std::int64_t count) {
    steps_ += count;
    if (uses_tiles()) {
        for (std::int64_t step = 0; step < count; ++step) tiled_active_step();
        return;
    }
    active_.weights.clear();
    for (const PairwiseTerm &term : terms_)
        active_.weights.push_back(term.kernel->lattice().select(active_.points, threads_));
    for (std::int64_t step = 0; step < count; ++step) active_step();
    parallel_for(threads_, active_.points.size(), [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n)
            std::copy_n(active_.now.data() + n * lanes_, lanes_, q_.data() + active_.points[n] * lanes_);
    });
}

void MeanField::write_marginals(float *out) const {
    for_each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < lane_labels_.size(); ++a) {
            float *plane = out + std::size_t(lane_labels_[a]) * points_;
            const float *from = lane(lanes_ == 1 ? 0 : a);
            const bool is_complement = lanes_ == 1 && a == 1;
            for (std::size_t i = begin; i < end; ++i)
                plane[i] = is_complement ? 1.0f - from[i] : from[i * lanes_];
        }
        if (merged_.empty()) return;
        if (lanes_ > 1) {
            merged_.split(unaries_, lane(lane_labels_.size()), lanes_, out, begin, end);
            return;
        }
        std::vector<float> complement(end - begin);
        for (std::size_t i = begin; i < end; ++i) complement[i - begin] = 1.0f - q_[i];
        merged_.split(unaries_, complement.data() - begin, 1, out, begin, end);
    });
}

}  // namespace densecrf
