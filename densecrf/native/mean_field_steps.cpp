// One step of mean-field inference, for all pixels or for the active ones; see mean_field.hpp.
// SPDX-License-Identifier: MIT
#include <map>

#include "mean_field.hpp"

namespace densecrf {

void MeanField::StepFindings::end_tile() {
    for (std::size_t a = 0; a < held.size(); ++a) {
        held[a] += tile_held[a];
        max_tile_held[a] = std::max(max_tile_held[a], tile_held[a]);
        tile_held[a] = 0;
    }
}

void MeanField::StepFindings::add(const StepFindings &part) {
    for (std::size_t a = 0; a < max_probability.size(); ++a) {
        max_probability[a] = std::max(max_probability[a], part.max_probability[a]);
        held[a] += part.held[a];
        max_tile_held[a] = std::max(max_tile_held[a], part.max_tile_held[a]);
    }
    merge_errors += part.merge_errors;
    active += part.active;
}

// Whether a step counts what merging lanes would change: where that may save a group.
bool MeanField::counts_held() const {
    return approximations_.merge_threshold > 0 && groups_ > 1 && tiled_ && merge_point_limit() > 0;
}

// collect_active: whether to collect the pixels that have not converged.
void MeanField::full_step(bool collect_active) {
    for (std::size_t m = 0; m < terms_.size(); ++m)
        if (terms_[m].is_matrix(labels_)) mix_labels(m);
    findings_.reset(findings_.max_probability.size());
    for (std::size_t g = 0; g < groups_; ++g) update_group(g, collect_active);
    if (groups_ > 1) counts_held() ? normalize_tiles() : normalize();
}

// Replaces the marginals of a group by its next logits, or by its next marginals if there is no other group.
void MeanField::update_group(std::size_t g, bool collect_active) {
    std::vector<const float *> sources;
    for (std::size_t m = 0; m < terms_.size(); ++m) {
        sources.push_back(group(terms_[m].is_matrix(labels_) ? mixed_sources_[m] : q_, g));
        terms_[m].kernel->lattice().splat_and_blur(nullptr, sources[m], int(lanes_), vertex_rows_[m],
                                                   scratch_, threads_);
    }
    std::mutex mutex;
    std::map<std::size_t, ActivePixels> active;  // by the beginning of each range
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        StepFindings part;
        part.reset(findings_.max_probability.size());
        ActivePixels found = update_range(g, sources, collect_active, part, begin, end);
        const std::lock_guard<std::mutex> lock(mutex);
        findings_.add(part);
        if (collect_active) active[begin] = std::move(found);
    });
    if (!collect_active) return;
    std::vector<ActivePixels> parts;
    for (auto &[begin, part] : active) parts.push_back(std::move(part));
    take_active(std::move(parts));
}

// update_group() for points [begin, end). sources: for each term, the rows that its vertex rows were computed
// from.
ActivePixels MeanField::update_range(std::size_t g, const std::vector<const float *> &sources,
                                     bool collect_active, StepFindings &findings, std::size_t begin,
                                     std::size_t end) {
    ActivePixels active;
    const bool with_merged = has_merged_lane(g);
    const std::size_t limit = max_active();  // for all points: if one thread exceeds it, all together do
    float *rows = group(q_, g);
    std::vector<float> logits(block_ * lanes_), unfinished;
    if (collect_active) active.reserve(std::min(limit, end - begin) + block_, lanes_);
    in_pieces(begin, end, block_, [&](std::size_t i, std::size_t stop) {
        load_unaries(g, logits.data(), i, stop);
        add_messages(g, sources, nullptr, logits.data(), i, stop);
        if (collect_active) unfinished = logits;
        if (groups_ == 1) {
            finish_logits(nullptr, logits.data(), findings.max_probability.data(), i, stop);
            findings.merge_errors += merge_errors(logits.data(), i, stop);
        } else if (with_merged) {
            finish_merged_lane(nullptr, logits.data(), i, stop);
        }
        if (collect_active)
            active.collect(i, stop, lanes_, unfinished.data(), rows + i * lanes_, logits.data(),
                           approximations_.convergence_tolerance, limit);
        std::copy_n(logits.data(), (stop - i) * lanes_, rows + i * lanes_);
    });
    return active;
}

// Merges the active pixels of all ranges and copies their marginals.
void MeanField::take_active(std::vector<ActivePixels> parts) {
    active_.merge(parts, lanes_, max_active(), threads_);
    parallel_for(threads_, active_.points.size(), [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n)
            std::copy_n(q_.data() + active_.points[n] * lanes_, lanes_, active_.now.data() + n * lanes_);
    });
}

// One step of the active pixels, while the others stay as they are.
void MeanField::active_step() {
    const std::size_t count = active_.points.size();
    Buffer<float> change(count * lanes_);
    parallel_for(threads_, change.size(), [&](std::size_t begin, std::size_t end) {
        for (std::size_t e = begin; e < end; ++e) change[e] = active_.now[e] - active_.before[e];
    });
    for (std::size_t m = 0; m < terms_.size(); ++m)
        terms_[m].kernel->lattice().splat_and_blur(&active_.weights[m], change.data(), int(lanes_),
                                                   vertex_rows_[m], scratch_, threads_);
    const std::vector<const float *> sources(terms_.size(), change.data());
    const std::int32_t *ids = active_.points.data();
    for_each_block(count, [&](std::size_t begin, std::size_t end) {
        std::vector<float> unused(findings_.max_probability.size(),
                                  0.0f);  // the maxima are not over all points
        float *now = active_.now.data() + begin * lanes_;
        std::copy_n(active_.logits.data() + begin * lanes_, (end - begin) * lanes_, now);
        add_messages(0, sources, ids, now, begin, end);
        finish_logits(ids, now, unused.data(), begin, end);
    });
}

// The sources of term m where its strengths are a matrix: labels are mixed before the filter, which is
// linear.
void MeanField::mix_labels(std::size_t m) {
    mixed_sources_[m].resize(q_.size());
    const float *matrix = terms_[m].strengths.data();
    for_each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t to = 0; to < groups_ * lanes_; ++to) {
            float *out = group(mixed_sources_[m], to / lanes_) + to % lanes_;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = 0;
            for (std::size_t from = 0; from < labels_ && to < labels_; ++from) {
                const float strength = matrix[to * labels_ + from];
                const float *source = lane(from);
                for (std::size_t i = begin; i < end; ++i) out[i * lanes_] += strength * source[i * lanes_];
            }
        }
    });
}

// Term m's strength for each lane of group g; ones for a matrix, whose strengths are part of the mixed
// sources.
std::vector<float> MeanField::lane_strengths(std::size_t m, std::size_t g) const {
    std::vector<float> strengths(lanes_, 1.0f);
    if (terms_[m].is_matrix(labels_)) return strengths;
    for (std::size_t k = 0; k < lanes_; ++k) {
        const std::size_t a = g * lanes_ + k;
        strengths[k] = terms_[m].strengths[a < lane_labels_.size() ? lane_labels_[a] : 0];
    }
    return strengths;
}

// In the following functions, the points are ids[n] for n in [begin, end), or n themselves where ids is null,
// and the row of the first one is at `logits`.

// Adds the messages of all terms to the logits of group g. sources: as in update_range(), with a row for each
// n.
void MeanField::add_messages(std::size_t g, const std::vector<const float *> &sources,
                             const std::int32_t *ids, float *logits, std::size_t begin,
                             std::size_t end) const {
    for (std::size_t m = 0; m < terms_.size(); ++m) {
        const Kernel &kernel = *terms_[m].kernel;
        const std::vector<float> strengths = lane_strengths(m, g);
        kernel.lattice().slice(int(lanes_), ids, vertex_rows_[m].data(), strengths.data(), logits, begin,
                               end);
        subtract_self(m, strengths, ids, sources[m] + begin * lanes_, logits, begin, end);
    }
}

// Subtracts the part of a point's own marginals from its message of term m. source: the rows of marginals.
void MeanField::subtract_self(std::size_t m, const std::vector<float> &strengths, const std::int32_t *ids,
                              const float *source, float *logits, std::size_t begin, std::size_t end) const {
    const float *self = terms_[m].kernel->self_weights();
    for (std::size_t n = begin; self && n < end; ++n)
        for (std::size_t k = 0; k < lanes_; ++k)
            logits[(n - begin) * lanes_ + k] -=
                self[ids ? ids[n] : n] * strengths[k] * source[(n - begin) * lanes_ + k];
}

// Turns the message in the merged lane into its logit.
void MeanField::finish_merged_lane(const std::int32_t *ids, float *logits, std::size_t begin,
                                   std::size_t end) {
    float *lane = logits + lane_labels_.size() % lanes_, messages[block_];
    for (std::size_t n = begin; n < end; ++n) messages[n - begin] = lane[(n - begin) * lanes_];
    merged_.messages_to_logits(unaries_, ids, messages, begin, end);
    for (std::size_t n = begin; n < end; ++n) lane[(n - begin) * lanes_] = messages[n - begin];
}

// From the logit of a pair's first lane to its probability. The second logit follows from the constant
// message.
void MeanField::finish_pair(const std::int32_t *ids, float *logits, float *max_probability, std::size_t begin,
                            std::size_t end) {
    const float *first = lane_energy(0), *second = merged_.empty() ? lane_energy(1) : nullptr;
    const float *min_energy = unaries_.min_energy;
    float other[block_], high = max_probability[0], low = 1 - max_probability[1];
    for (std::size_t n = begin; n < end; ++n) {
        const std::size_t i = ids ? ids[n] : n;
        const float energy = min_energy ? relative_energy(first[i], min_energy[i]) : first[i];
        other[n - begin] = constant_message_[i] - (logits[n - begin] + energy);
        if (second) other[n - begin] -= min_energy ? relative_energy(second[i], min_energy[i]) : second[i];
    }
    if (!second) merged_.messages_to_logits(unaries_, ids, other, begin, end);
    sigmoid(logits, other, end - begin, &high, &low);
    max_probability[0] = high;
    max_probability[1] = 1 - low;
}

// From logits with all messages to probabilities, where there is one group.
void MeanField::finish_logits(const std::int32_t *ids, float *logits, float *max_probability,
                              std::size_t begin, std::size_t end) {
    if (lanes_ == 1) return finish_pair(ids, logits, max_probability, begin, end);
    if (!merged_.empty()) finish_merged_lane(ids, logits, begin, end);
    softmax(int(lanes_), 1, int(lanes_used()), 0, logits, max_probability, 0, end - begin);
}

// Turns the logits of all groups into probabilities, in place.
void MeanField::normalize() {
    findings_.reset(findings_.max_probability.size());
    std::mutex mutex;
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        StepFindings part;
        part.reset(findings_.max_probability.size());
        softmax(int(lanes_), int(groups_), int(lanes_used()), points_ * lanes_, q_.data(),
                part.max_probability.data(), begin, end);
        part.merge_errors = merge_errors(group(q_, groups_ - 1) + begin * lanes_, begin, end);
        const std::lock_guard<std::mutex> lock(mutex);
        findings_.add(part);
    });
}

// The same, and counts what merging lanes would change.
void MeanField::normalize_tiles() {
    const std::size_t stride = block_ * lanes_;
    std::vector<StepFindings> parts(threads_);
    for (StepFindings &part : parts) part.reset(findings_.max_probability.size());
    tiled_->tiles().for_each_run(threads_, [&](std::size_t worker, PointTiles::Run run, PointTiles::Run,
                                               bool is_last_run) {
        StepFindings &part = parts[worker];
        std::vector<float> unaries(stride), logits(groups_ * stride);
        for (std::size_t g = 0; g < groups_; ++g)
            std::copy(group(q_, g) + run.begin * lanes_, group(q_, g) + run.end * lanes_,
                      logits.data() + g * stride);
        softmax(int(lanes_), int(groups_), int(lanes_used()), points_ * lanes_, q_.data(),
                part.max_probability.data(), run.begin, run.end);
        for (std::size_t g = 0; g < groups_; ++g) {
            load_unaries(g, unaries.data(), run.begin, run.end);
            count_held(int(lanes_), group(q_, g) + run.begin * lanes_, logits.data() + g * stride,
                       unaries.data(), max_held_, part.tile_held.data() + g * lanes_, run.end - run.begin);
        }
        part.merge_errors += merge_errors(group(q_, groups_ - 1) + run.begin * lanes_, run.begin, run.end);
        if (is_last_run) part.end_tile();
    });
    findings_.reset(findings_.max_probability.size());
    for (const StepFindings &part : parts) findings_.add(part);
}

// The number of points in [begin, end) that merging may have changed too much. rows: their probabilities in
// the last group.
std::size_t MeanField::merge_errors(const float *rows, std::size_t begin, std::size_t end) const {
    if (merged_.empty()) return 0;
    if (lanes_ > 1)
        return merged_.errors_over(merge_error_limit_, rows + lane_labels_.size() % lanes_, lanes_, begin,
                                   end);
    float complement[block_];
    std::size_t errors = 0;
    for (std::size_t i = begin; i < end; i += block_) {
        const std::size_t stop = std::min(end, i + block_);
        for (std::size_t n = i; n < stop; ++n) complement[n - i] = 1.0f - rows[n - begin];
        errors += merged_.errors_over(merge_error_limit_, complement, 1, i, stop);
    }
    return errors;
}

}  // namespace densecrf
