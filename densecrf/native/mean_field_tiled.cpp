// Steps that splat the new marginals of each run of points at once, so that they need not be stored between
// steps; see mean_field.hpp.
// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

namespace densecrf {

namespace {

constexpr std::size_t max_row_bytes = std::size_t(1) << 27;  // of vertex rows, or ...
constexpr std::size_t max_row_bytes_per_point = 64;          // ... if that is more

}  // namespace

// Whether the vertex rows of all groups may be held at a time.
bool MeanField::uses_tiles() const {
    if (!tiled_) return false;
    std::size_t vertices = 0;
    for (const PairwiseTerm &term : terms_) vertices += term.kernel->lattice().vertices();
    const std::size_t bytes = 2 * vertices * lanes_ * groups_ * sizeof(float);
    return bytes <= std::max(max_row_bytes, max_row_bytes_per_point * points_);
}

// For steps on tiles, energies are turned into rows once: the planes of all labels would be read in pieces too short.
void MeanField::store_unary_rows() {
    if (lanes_ == 1 || !uses_tiles()) return;
    Buffer<float> rows(q_.size());
    for_each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t g = 0; g < groups_; ++g)
            load_unaries(g, rows.data() + (g * points_ + begin) * lanes_, begin, end);
    });
    unary_rows_.swap(rows);
}

// Marginals are stored after the last step, and whenever lanes may be merged next.
void MeanField::tiled_step(bool is_last, bool collect_active) {
    const bool is_first = steps_ == restart_step_;
    const bool may_merge =
        is_first ? approximations_.merge_threshold > 0 && groups_ > 1 : !unlikely_lanes().empty();
    const bool splats = !is_last && !may_merge;
    if (!is_splatted_) splat_marginals();
    phase_times_.add(&PhaseTimes::first_splat);
    tiled_->blur(false, threads_);
    phase_times_.add(&PhaseTimes::blur);
    if (collect_active) is_active_.resize(points_);
    std::vector<StepFindings> parts(threads_);
    for (StepFindings &part : parts) part.reset(findings_.max_probability.size());
    std::vector<std::vector<float>> logits(threads_);
    using Run = PointTiles::Run;
    tiled_->tiles().for_each_run(threads_, [&](std::size_t worker, Run run, Run next, bool is_last_run) {
        logits[worker].resize(2 * groups_ * block_ * lanes_);
        prefetch(next);
        update_run(logits[worker].data(), splats, collect_active, parts[worker], run.begin, run.end);
        if (is_last_run) parts[worker].end_tile();
    });
    findings_.reset(findings_.max_probability.size());
    for (const StepFindings &part : parts) findings_.add(part);
    is_splatted_ = splats;
}

// Splats the stored marginals.
void MeanField::splat_marginals() {
    tiled_->allocate(int(lanes_), groups_, threads_);
    using Run = PointTiles::Run;
    tiled_->tiles().for_each_run(threads_, [&](std::size_t, Run run, Run next, bool) {
        tiled_->prefetch(next);
        for (std::size_t g = 0; g < groups_; ++g)
            tiled_->splat(g, nullptr, group(q_, g) + run.begin * lanes_, run.begin, run.end);
    });
}

// Fetches into the cache what a step reads of a run's points.
void MeanField::prefetch(PointTiles::Run run) const {
    tiled_->prefetch(run);
    merged_.prefetch(run.begin, run.end);
    for (std::size_t g = 0; g < groups_ && !unary_rows_.empty(); ++g)
        prefetch_range(unary_rows_.data() + (g * points_ + run.begin) * lanes_,
                       (run.end - run.begin) * lanes_);
}

// The next marginals of points [begin, end). logits: room for their rows, block_ x lanes_ floats a group, and
// for as many again.
void MeanField::update_run(float *logits, bool splats, bool collect_active, StepFindings &findings,
                           std::size_t begin, std::size_t end) {
    const std::size_t stride = block_ * lanes_, count = end - begin;
    float *const unfinished = logits + groups_ * stride;
    load_messages(logits, begin, end);
    if (groups_ == 1) {
        finish_logits(nullptr, logits, findings.max_probability.data(), begin, end);
    } else {
        if (!merged_.empty()) finish_merged_lane(nullptr, logits + (groups_ - 1) * stride, begin, end);
        if (counts_held()) std::copy_n(logits, groups_ * stride, unfinished);
        softmax(int(lanes_), int(groups_), int(lanes_used()), stride, logits, findings.max_probability.data(),
                0, count);
        for (std::size_t g = 0; g < groups_ && counts_held(); ++g)
            count_held(int(lanes_), logits + g * stride, unfinished + g * stride,
                       unary_rows_.data() + (g * points_ + begin) * lanes_, max_held_,
                       findings.tile_held.data() + g * lanes_, count);
    }
    findings.merge_errors += merge_errors(logits + (groups_ - 1) * stride, begin, end);
    if (collect_active) collect_active_run(logits, findings, begin, end);
    for (std::size_t g = 0; g < groups_; ++g) {
        if (splats) tiled_->splat(g, nullptr, logits + g * stride, begin, end);
        if (!splats || has_self_weights_ || may_skip())
            std::copy_n(logits + g * stride, count * lanes_, group(q_, g) + begin * lanes_);
    }
}

// Marks those of the points [begin, end) of which a probability has changed by more than the tolerance. rows:
// their new marginals.
void MeanField::collect_active_run(const float *rows, StepFindings &findings, std::size_t begin,
                                   std::size_t end) {
    const float *before = q_.data() + begin * lanes_;
    for (std::size_t i = begin; i < end; ++i) {
        float change = 0;
        for (std::size_t k = (i - begin) * lanes_; k < (i + 1 - begin) * lanes_; ++k)
            change = std::max(change, std::fabs(rows[k] - before[k]));
        is_active_[i] = change > approximations_.convergence_tolerance;
        findings.active += is_active_[i];
    }
}

// One step of the points that have not converged: what their marginals change by is added to what is
// splatted.
void MeanField::tiled_active_step() {
    tiled_->blur(true, threads_);
    phase_times_.add(&PhaseTimes::blur);
    std::vector<std::vector<float>> rows(threads_);
    using Run = PointTiles::Run;
    tiled_->tiles().for_each_run(threads_, [&](std::size_t worker, Run run, Run, bool) {
        rows[worker].resize(block_ * lanes_);
        update_active_run(rows[worker].data(), run);
    });
    phase_times_.add(&PhaseTimes::active_update);
}

// tiled_active_step() for a run. rows: room for those of its points.
void MeanField::update_active_run(float *rows, PointTiles::Run run) {
    std::int32_t ids[block_];
    std::size_t count = 0;
    for (std::uint32_t i = run.begin; i < run.end; ++i) {
        ids[count] = std::int32_t(i);
        count += is_active_[i];
    }
    if (count == 0) return;
    for (std::size_t n = 0; n < count; ++n) load_unaries(0, rows + n * lanes_, ids[n], ids[n] + 1);
    for (std::size_t m = 0; m < terms_.size(); ++m) {
        const std::vector<float> strengths = lane_strengths(m, 0);
        terms_[m].kernel->lattice().slice(int(lanes_), ids, tiled_->rows(m, 0), strengths.data(), rows, 0,
                                          count);
        for (std::size_t n = 0; n < count && has_self_weights_; ++n)
            subtract_self(m, strengths, nullptr, q_.data() + ids[n] * lanes_, rows + n * lanes_, ids[n],
                          ids[n] + 1);
    }
    float unused[8] = {};  // the maxima are not over all points
    finish_logits(ids, rows, unused, 0, count);
    for (std::size_t n = 0; n < count; ++n)
        for (std::size_t k = 0; k < lanes_; ++k) {
            float &marginal = q_[ids[n] * lanes_ + k], &next = rows[n * lanes_ + k];
            const float change = next - marginal;
            marginal = next;
            next = change;
        }
    tiled_->splat(0, ids, rows, 0, count);
}

// Negative energies and all messages of points [begin, end).
void MeanField::load_messages(float *logits, std::size_t begin, std::size_t end) {
    for (std::size_t g = 0; g < groups_; ++g) {
        float *rows = logits + g * block_ * lanes_;
        const float *base = rows;
        if (!unary_rows_.empty())
            base = unary_rows_.data() + (g * points_ + begin) * lanes_;
        else
            load_unaries(g, rows, begin, end);
        for (std::size_t m = 0; m < terms_.size(); ++m, base = rows) {
            const std::vector<float> strengths = lane_strengths(m, g);
            terms_[m].kernel->lattice().slice(int(lanes_), nullptr, tiled_->rows(m, g), strengths.data(),
                                              base, rows, begin, end);
            subtract_self(m, strengths, nullptr, group(q_, g) + begin * lanes_, rows, begin, end);
        }
        if (terms_.empty() && base != rows) std::copy_n(base, (end - begin) * lanes_, rows);
    }
}

}  // namespace densecrf
