// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include <map>
#include <stdexcept>

namespace densecrf {

namespace {

constexpr float most_pull = 1e20f;  // sums of messages over all points of an image stay finite

// What pooling may change in a step. Early steps may still find much in the pool, as later ones take it away.
float most_doubt(std::int64_t step, bool is_last) { return is_last || step > 1 ? 0.25f : step == 1 ? 0.5f : 1.0f; }

}  // namespace

MeanField::MeanField(const Unaries &unaries, std::vector<Pull> pulls, Savings savings, int threads)
    : unaries_(unaries), labels_(unaries.labels), points_(unaries.points), pulls_(std::move(pulls)), savings_(savings),
      threads_(threads), rows_(pulls_.size()), mixed_(pulls_.size()) {
    check_pulls();
    for (const Pull &pull : pulls_) {
        if (pull.is_matrix(labels_)) savings_.settled = 0;
        for (const float strength : pull.strength)
            if (pull.is_matrix(labels_) || strength != pull.strength[0]) alike_ = false;
    }
    if (!alike_) savings_.pool = 0;
    if (!unaries_.are_probabilities()) {
        least_.resize(points_);
        unaries_.least = least_.data();
        parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
            least_energies(unaries_, least_.data(), begin, end);
        });
    }
    choose_lanes();
    start();
    if (points_ >= std::size_t(1) << 20) BlockCache::release_all();
}

void MeanField::check_pulls() const {
    for (const Pull &pull : pulls_) {
        if (!pull.kernel || pull.kernel->lattice().points() != points_)
            throw std::invalid_argument("got a kernel over another number of points than the unaries, wanted the same");
        if (pull.strength.size() != labels_ && pull.strength.size() != labels_ * labels_)
            throw std::invalid_argument("got a pull of another size than the number of labels or its square");
        for (const float strength : pull.strength)
            if (!(std::fabs(strength) <= most_pull))
                throw std::invalid_argument("got a weight, or a weight times a compatibility, over 1e20; wanted at most that");
    }
}

void MeanField::set_marginals(const float *marginals) {
    turns_.take([&] {
        steps_ = 0;
        from_unaries_ = false;
        given_ = {};
        set_lanes(marginals);
    });
}

// Taking more through steps of their own gains nothing, or, for large images, takes too much memory.
std::size_t MeanField::most_unsettled() const { return std::min(points_ / 2, std::max<std::size_t>(points_ / 32, 3 << 15)); }

void MeanField::run(int iterations) {
    turns_.take([&] { advance(iterations); });
}

void MeanField::advance(int iterations) {
    const std::int64_t steps_before = steps_;  // steps that are repeated are full ones
    if (iterations > 0) adapt();
    for (std::int64_t left = iterations; left > 0;) {
        const bool look = savings_.settled > 0 && groups_ == 1 && steps_ >= 2 && steps_ >= steps_before && left > 2;
        const std::int64_t rest = std::min<std::int64_t>(steps_ == 2 ? 2 : 3, left - 2);
        update(look);
        if (!(doubt_ <= most_doubt(steps_, left == 1))) {
            left += steps_;
            begin_again();
            left -= steps_;
            continue;
        }
        --left;
        ++steps_;
        const bool rearranged = left > 0 && adapt();  // for further steps alone: the last one's results stay as they are
        if (!look || rearranged || unsettled_.too_many) continue;
        unsettled_.touches.clear();
        for (const Pull &pull : pulls_)
            unsettled_.touches.push_back(pull.kernel->lattice().select(unsettled_.points, threads_));
        for (std::int64_t step = 0; step < rest; ++step) update_unsettled();
        left -= rest;
        steps_ += rest;
        parallel_for(threads_, unsettled_.points.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n)
                std::copy_n(unsettled_.now.data() + n * lanes_, lanes_, q_.data() + unsettled_.points[n] * lanes_);
        });
    }
}

void MeanField::finish(float *out) {
    turns_.take([&] {
        for (std::vector<Buffer<float>> *buffers : {&rows_, &mixed_}) buffers->clear();
        spare_ = {};
        energies_ = {};
        given_ = {};
        unsettled_ = {};
        pulls_.clear();
        turns_.finish();
        write(out);
    });
}

void MeanField::marginals(float *out) {
    turns_.take([&] { write(out); });
}

void MeanField::write(float *out) const {
    each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < lanes_of_.size(); ++a) {
            float *plane = out + std::size_t(lanes_of_[a]) * points_;
            const float *from = lane(lanes_ == 1 ? 0 : a);
            const bool is_rest = lanes_ == 1 && a == 1;
            for (std::size_t i = begin; i < end; ++i) plane[i] = is_rest ? 1.0f - from[i] : from[i * lanes_];
        }
        if (pool_.empty()) return;
        if (lanes_ > 1) {
            pool_.spread(unaries_, lane(lanes_of_.size()), lanes_, out, begin, end);
            return;
        }
        std::vector<float> rest(end - begin);
        for (std::size_t i = begin; i < end; ++i) rest[i - begin] = 1.0f - q_[i];
        pool_.spread(unaries_, rest.data() - begin, 1, out, begin, end);
    });
}

// Logits to probabilities, in place.
void MeanField::normalize() {
    std::mutex guard;
    std::fill(top_.begin(), top_.end(), 0.0f);
    doubt_ = 0;
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        std::vector<float> top(top_.size(), 0.0f);
        softmax(int(lanes_), int(groups_), int(lanes_used()), points_ * lanes_, q_.data(), top.data(), begin, end);
        const float mine = doubt(group(q_, groups_ - 1) + begin * lanes_, begin, end);
        const std::lock_guard<std::mutex> lock(guard);
        doubt_ = std::max(doubt_, mine);
        for (std::size_t a = 0; a < top.size(); ++a) top_[a] = std::max(top_[a], top[a]);
    });
}

// What pooling may have changed at points [begin, end), whose probabilities lie at `rows`, those of the last group.
float MeanField::doubt(const float *rows, std::size_t begin, std::size_t end) const {
    if (pool_.empty()) return 0;
    if (lanes_ > 1) return pool_.doubt(rows + lanes_of_.size() % lanes_, lanes_, begin, end);
    float rest[block_], most = 0;
    for (std::size_t i = begin; i < end; i += block_) {
        const std::size_t stop = std::min(end, i + block_);
        for (std::size_t n = i; n < stop; ++n) rest[n - i] = 1.0f - rows[n - begin];
        most = std::max(most, pool_.doubt(rest, 1, i, stop));
    }
    return most;
}

// In what follows, the points are ids[n] for n in [begin, end), or n themselves where ids is null; the rows of the first
// lie at `logits`.

// Adds all messages to group g's logits. sources: what each kernel's vertex rows were made from, a row a point.
void MeanField::add_messages(std::size_t g, const std::vector<const float *> &sources, const std::int32_t *ids,
                             float *logits, std::size_t begin, std::size_t end) const {
    for (std::size_t m = 0; m < pulls_.size(); ++m) {
        const std::vector<float> pull = strengths(m, g);
        pulls_[m].kernel->lattice().slice(int(lanes_), ids, rows_[m].data(), pull.data(), logits, begin, end);
        const float *own = pulls_[m].kernel->own();
        for (std::size_t n = begin; own && n < end; ++n)
            for (std::size_t k = 0; k < lanes_; ++k)
                logits[(n - begin) * lanes_ + k] -= own[ids ? ids[n] : n] * pull[k] * sources[m][n * lanes_ + k];
    }
}

// The pool's lane holds its message; it becomes its logit.
void MeanField::complete_pool(const std::int32_t *ids, float *logits, std::size_t begin, std::size_t end) {
    float *pooled = logits + lanes_of_.size() % lanes_, messages[block_];
    for (std::size_t n = begin; n < end; ++n) messages[n - begin] = pooled[(n - begin) * lanes_];
    pool_.take(unaries_, ids, messages, begin, end);
    for (std::size_t n = begin; n < end; ++n) pooled[(n - begin) * lanes_] = messages[n - begin];
}

// Only the first logit was computed; the second follows from the message of both.
void MeanField::complete_pair(const std::int32_t *ids, float *logits, float *top, std::size_t begin, std::size_t end) {
    const float *first = energy(0), *second = pool_.empty() ? energy(1) : nullptr, *least = unaries_.least;
    float other[block_], high = top[0], low = 1 - top[1];
    for (std::size_t n = begin; n < end; ++n) {
        const std::size_t i = ids ? ids[n] : n;
        other[n - begin] = whole_message_[i] - (logits[n - begin] + (least ? above_least(first[i], least[i]) : first[i]));
        if (second) other[n - begin] -= least ? above_least(second[i], least[i]) : second[i];
    }
    if (!second) pool_.take(unaries_, ids, other, begin, end);
    sigmoid(logits, other, end - begin, &high, &low);
    top[0] = high;
    top[1] = 1 - low;
}

// From all messages to probabilities, where there is one group.
void MeanField::complete(const std::int32_t *ids, float *logits, float *top, std::size_t begin, std::size_t end) {
    if (lanes_ == 1) return complete_pair(ids, logits, top, begin, end);
    if (!pool_.empty()) complete_pool(ids, logits, begin, end);
    softmax(int(lanes_), 1, int(lanes_used()), 0, logits, top, 0, end - begin);
}

// The sources of kernel m where its pull is a matrix: labels are mixed before the filter, which is linear.
void MeanField::mix(std::size_t m) {
    mixed_[m].resize(q_.size());
    const float *matrix = pulls_[m].strength.data();
    each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t to = 0; to < groups_ * lanes_; ++to) {
            float *out = group(mixed_[m], to / lanes_) + to % lanes_;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = 0;
            for (std::size_t from = 0; from < labels_ && to < labels_; ++from) {
                const float strength = matrix[to * labels_ + from];
                const float *source = lane(from);
                for (std::size_t i = begin; i < end; ++i) out[i * lanes_] += strength * source[i * lanes_];
            }
        }
    });
}

// How strongly kernel m pulls group g's lanes; a matrix's strengths are in its sources already.
std::vector<float> MeanField::strengths(std::size_t m, std::size_t g) const {
    std::vector<float> pull(lanes_, 1.0f);
    if (pulls_[m].is_matrix(labels_)) return pull;
    for (std::size_t k = 0; k < lanes_; ++k) {
        const std::size_t a = g * lanes_ + k;
        pull[k] = pulls_[m].strength[a < lanes_of_.size() ? lanes_of_[a] : 0];
    }
    return pull;
}

// look: whether to take note of the points that move.
void MeanField::update(bool look) {
    for (std::size_t m = 0; m < pulls_.size(); ++m)
        if (pulls_[m].is_matrix(labels_)) mix(m);
    std::fill(top_.begin(), top_.end(), 0.0f);
    doubt_ = 0;
    for (std::size_t g = 0; g < groups_; ++g) update_group(g, look);
    if (groups_ > 1) normalize();
}

void MeanField::update_group(std::size_t g, bool look) {
    std::vector<const float *> sources;
    for (std::size_t m = 0; m < pulls_.size(); ++m) {
        sources.push_back(group(pulls_[m].is_matrix(labels_) ? mixed_[m] : q_, g));
        pulls_[m].kernel->lattice().splat_and_blur(nullptr, sources[m], int(lanes_), rows_[m], spare_, threads_);
    }
    const std::vector<const float *> energies = planes(g);
    const bool with_pool = holds_pool(g);
    float *rows = group(q_, g);
    std::mutex guard;
    std::map<std::size_t, Unsettled> found;  // by the beginning of each thread's range
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        std::vector<float> top(top_.size(), 0.0f), logits(block_ * lanes_), raw;
        Unsettled mine;
        float unsure = 0;
        const std::size_t most = most_unsettled();  // of all points: where one thread gives up, all would have
        if (look) mine.reserve(std::min(most, end - begin) + block_, lanes_);
        in_pieces(begin, end, block_, [&](std::size_t i, std::size_t stop) {
            load_logits(int(lanes_), energies.data(), unaries_.least, logits.data(), i, stop);
            add_messages(g, sources, nullptr, logits.data(), i, stop);
            if (look) raw = logits;
            if (groups_ == 1) {
                complete(nullptr, logits.data(), top.data(), i, stop);
                unsure = std::max(unsure, doubt(logits.data(), i, stop));
            } else if (with_pool) {
                complete_pool(nullptr, logits.data(), i, stop);
            }
            if (look)
                mine.look_at(i, stop, lanes_, raw.data(), rows + i * lanes_, logits.data(), savings_.settled, most);
            std::copy_n(logits.data(), (stop - i) * lanes_, rows + i * lanes_);
        });
        const std::lock_guard<std::mutex> lock(guard);
        doubt_ = std::max(doubt_, unsure);
        for (std::size_t a = 0; a < top.size(); ++a) top_[a] = std::max(top_[a], top[a]);
        if (look) found[begin] = std::move(mine);
    });
    if (!look) return;
    std::vector<Unsettled> parts;
    for (auto &[begin, part] : found) parts.push_back(std::move(part));
    unsettled_.gather(parts, lanes_, most_unsettled(), threads_);
    parallel_for(threads_, unsettled_.points.size(), [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n)
            std::copy_n(rows + unsettled_.points[n] * lanes_, lanes_, unsettled_.now.data() + n * lanes_);
    });
}

// One step of the unsettled points, the others as they were.
void MeanField::update_unsettled() {
    const std::size_t count = unsettled_.points.size();
    Buffer<float> moved(count * lanes_);
    parallel_for(threads_, moved.size(), [&](std::size_t begin, std::size_t end) {
        for (std::size_t e = begin; e < end; ++e) moved[e] = unsettled_.now[e] - unsettled_.before[e];
    });
    for (std::size_t m = 0; m < pulls_.size(); ++m)
        pulls_[m].kernel->lattice().splat_and_blur(&unsettled_.touches[m], moved.data(), int(lanes_), rows_[m], spare_,
                                                   threads_);
    const std::vector<const float *> sources(pulls_.size(), moved.data());
    const std::int32_t *ids = unsettled_.points.data();
    each_block(count, [&](std::size_t begin, std::size_t end) {
        std::vector<float> top(top_.size(), 0.0f);  // not of all points, so of no use
        float *now = unsettled_.now.data() + begin * lanes_;
        std::copy_n(unsettled_.logits.data() + begin * lanes_, (end - begin) * lanes_, now);
        add_messages(0, sources, ids, now, begin, end);
        complete(ids, now, top.data(), begin, end);
    });
}

}  // namespace densecrf
