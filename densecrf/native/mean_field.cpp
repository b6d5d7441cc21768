// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include <map>
#include <numeric>
#include <stdexcept>

namespace densecrf {

MeanField::MeanField(const Unaries &unaries, std::vector<Pull> pulls, Savings savings, int threads)
    : unaries_(unaries), labels_(unaries.labels), points_(unaries.points), pulls_(std::move(pulls)), savings_(savings),
      threads_(threads), rows_(pulls_.size()), mixed_(pulls_.size()) {
    for (const Pull &pull : pulls_) {
        if (pull.is_matrix(labels_)) savings_.settled = 0;
        for (const float strength : pull.strength)
            if (pull.is_matrix(labels_) || strength != pull.strength[0]) alike_ = false;
    }
    if (!alike_) savings_.pool = 0;
    start();
    if (points_ >= std::size_t(1) << 20) BlockCache::release_all();
}

// The softmax of the negative energies, with labels pooled from the beginning.
void MeanField::start() {
    Buffer<float> norm(points_);
    std::vector<float> top(labels_, 0.0f);
    bool fine = true;
    std::mutex guard;
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        std::vector<float> mine(labels_, 0.0f);
        const bool these = scan_unaries(unaries_, norm.data(), mine.data(), begin, end);
        const std::lock_guard<std::mutex> lock(guard);
        fine = fine && these;
        for (std::size_t k = 0; k < labels_; ++k) top[k] = std::max(top[k], mine[k]);
    });
    if (!fine) throw std::domain_error("probabilities that are negative, NaN or infinite");
    std::vector<std::int32_t> little;
    for (std::size_t k = 0; k < labels_; ++k) (top[k] <= savings_.pool ? little : lanes_of_).push_back(std::int32_t(k));
    if (little.size() > 1 && width_for(lanes_of_.size() + 1) < width_for(labels_)) {
        pool_.add(little, unaries_, threads_);
    } else {
        lanes_of_.resize(labels_);
        std::iota(lanes_of_.begin(), lanes_of_.end(), 0);
    }
    layout();
    std::fill(q_.begin(), q_.end(), 0.0f);
    each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < std::min(lanes_used(), groups_ * lanes_); ++a) {
            const float *plane = a < lanes_of_.size() ? energy(a) : pool_.energy();
            start_lane(plane, norm.data(), group(q_, a / lanes_) + a % lanes_, lanes_, begin, end);
        }
    });
}

void MeanField::set_marginals(const float *marginals) {
    steps_ = 0;
    give_all_lanes();
    each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < groups_ * lanes_; ++a) {
            float *out = group(q_, a / lanes_) + a % lanes_;
            const float *plane = a < labels_ ? marginals + a * points_ : nullptr;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = plane ? plane[i] : 0.0f;
        }
    });
}

// Taking more through steps of their own gains nothing, or, for large images, takes too much memory.
std::size_t MeanField::most_unsettled() const { return std::min(points_ / 2, std::max<std::size_t>(points_ / 32, 3 << 15)); }

void MeanField::run(int iterations) {
    for (int left = iterations; left > 0;) {
        const bool look = savings_.settled > 0 && groups_ == 1 && steps_ >= 2 && left > 2;
        const int rest = std::min(steps_ == 2 ? 2 : 3, left - 2);
        update(look);
        const bool rearranged = adapt();
        --left;
        ++steps_;
        if (!look || rearranged || unsettled_.too_many) continue;
        unsettled_.touches.clear();
        for (const Pull &pull : pulls_)
            unsettled_.touches.push_back(pull.kernel->lattice().select(unsettled_.points, threads_));
        for (int step = 0; step < rest; ++step) update_unsettled();
        left -= rest;
        steps_ += rest;
        parallel_for(threads_, unsettled_.points.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n)
                std::copy_n(unsettled_.now.data() + n * lanes_, lanes_, q_.data() + unsettled_.points[n] * lanes_);
        });
    }
}

void MeanField::finish(float *out) {
    for (std::vector<Buffer<float>> *buffers : {&rows_, &mixed_}) buffers->clear();
    spare_ = {};
    energies_ = {};
    unsettled_ = {};
    pulls_.clear();
    marginals(out);
}

void MeanField::marginals(float *out) const {
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

void MeanField::give_all_lanes() {
    lanes_of_.resize(labels_);
    std::iota(lanes_of_.begin(), lanes_of_.end(), 0);
    pool_.clear();
    layout();
}

// Floats a pixel that so many lanes take.
std::size_t MeanField::width_for(std::size_t used) const {
    if (used == 2 && alike_) return 1;
    return used <= 4 ? 4 : (used + 7) / 8 * 8;
}

void MeanField::layout() {
    const std::size_t width = width_for(lanes_used());
    lanes_ = std::min<std::size_t>(width, 8);
    groups_ = width / lanes_;
    q_.resize(width * points_);
    top_.assign(std::max<std::size_t>(width, 2), 0.0f);
    if (unaries_.are_probabilities()) {
        energies_.resize(lanes_of_.size() * points_);
        parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
            for (std::size_t a = 0; a < lanes_of_.size(); ++a)
                energies_of(unaries_, lanes_of_[a], energies_.data() + a * points_ + begin, begin, end);
        });
    }
    if (lanes_ > 1 || !whole_message_.empty()) return;
    whole_message_.assign(points_, 0.0f);
    const Buffer<float> ones(points_, 1.0f);
    for (std::size_t m = 0; m < pulls_.size(); ++m) {
        const Kernel &kernel = *pulls_[m].kernel;
        const float strength = pulls_[m].strength[0];
        kernel.lattice().splat_and_blur(nullptr, ones.data(), 1, rows_[m], spare_, threads_);
        each_block(points_, [&](std::size_t begin, std::size_t end) {
            kernel.lattice().slice(1, nullptr, rows_[m].data(), &strength, whole_message_.data() + begin, begin, end);
            for (std::size_t i = begin; i < end && kernel.own(); ++i) whole_message_[i] -= strength * kernel.own()[i];
        });
    }
}

// Logits to probabilities, in place.
void MeanField::normalize() {
    std::mutex guard;
    std::fill(top_.begin(), top_.end(), 0.0f);
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        std::vector<float> top(top_.size(), 0.0f);
        softmax(int(lanes_), int(groups_), int(lanes_used()), points_ * lanes_, q_.data(), top.data(), begin, end);
        const std::lock_guard<std::mutex> lock(guard);
        for (std::size_t a = 0; a < top.size(); ++a) top_[a] = std::max(top_[a], top[a]);
    });
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
    const float *first = energy(0), *second = pool_.empty() ? energy(1) : nullptr;
    float other[block_], high = top[0], low = 1 - top[1];
    for (std::size_t n = begin; n < end; ++n) {
        const std::size_t i = ids ? ids[n] : n;
        other[n - begin] = whole_message_[i] - (logits[n - begin] + first[i]);
        if (second) other[n - begin] -= second[i];
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
    for (std::size_t g = 0; g < groups_; ++g) update_group(g, look);
    if (groups_ > 1) normalize();
}

void MeanField::update_group(std::size_t g, bool look) {
    std::vector<const float *> sources;
    for (std::size_t m = 0; m < pulls_.size(); ++m) {
        sources.push_back(group(pulls_[m].is_matrix(labels_) ? mixed_[m] : q_, g));
        pulls_[m].kernel->lattice().splat_and_blur(nullptr, sources[m], int(lanes_), rows_[m], spare_, threads_);
    }
    std::vector<const float *> planes;  // of the lanes with a label
    for (std::size_t a = g * lanes_; a < (g + 1) * lanes_; ++a)
        planes.push_back(a < lanes_of_.size() ? energy(a) : nullptr);
    const bool holds_pool = !pool_.empty() && g + 1 == groups_;
    float *rows = group(q_, g);
    std::mutex guard;
    std::map<std::size_t, Unsettled> found;  // by the beginning of each thread's range
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        std::vector<float> top(top_.size(), 0.0f), logits(block_ * lanes_), raw;
        Unsettled mine;
        const std::size_t most = most_unsettled();  // of all points: where one thread gives up, all would have
        if (look) mine.reserve(std::min(most, end - begin) + block_, lanes_);
        for (std::size_t i = begin; i < end; i += block_) {
            const std::size_t stop = std::min(end, i + block_);
            load_logits(int(lanes_), planes.data(), logits.data(), i, stop);
            add_messages(g, sources, nullptr, logits.data(), i, stop);
            if (look) raw = logits;
            if (groups_ == 1) complete(nullptr, logits.data(), top.data(), i, stop);
            else if (holds_pool) complete_pool(nullptr, logits.data(), i, stop);
            if (look)
                mine.look_at(i, stop, lanes_, raw.data(), rows + i * lanes_, logits.data(), savings_.settled, most);
            std::copy_n(logits.data(), (stop - i) * lanes_, rows + i * lanes_);
        }
        const std::lock_guard<std::mutex> lock(guard);
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

// Pools labels that hold little, if that saves lanes; dissolves a pool that holds much. True if lanes changed.
bool MeanField::adapt() {
    if (savings_.pool <= 0) return false;
    if (!pool_.empty() && top_[lanes_of_.size()] > 10 * savings_.pool) {
        Buffer<float> all(labels_ * points_);
        marginals(all.data());
        set_marginals(all.data());
        savings_.pool = 0;
        return true;
    }
    std::vector<std::int32_t> places;
    for (std::size_t a = 0; a < lanes_of_.size(); ++a)
        if (top_[a] <= savings_.pool) places.push_back(std::int32_t(a));
    if (places.empty() || width_for(lanes_of_.size() - places.size() + 1) >= groups_ * lanes_) return false;
    pool(places);
    return true;
}

// places: of the labels to pool in lanes_of_, ascending; those that are pooled already stay so.
void MeanField::pool(const std::vector<std::int32_t> &places) {
    const Buffer<float> old = std::move(q_);
    const std::size_t stride = lanes_, old_pool = lanes_of_.size();
    const auto old_lane = [&](std::size_t a) { return old.data() + (a / stride) * points_ * stride + a % stride; };
    std::vector<const float *> kept, joining;
    std::vector<std::int32_t> kept_labels, little;
    for (std::size_t a = 0; a < lanes_of_.size(); ++a) {
        const bool joins = std::binary_search(places.begin(), places.end(), std::int32_t(a));
        (joins ? little : kept_labels).push_back(lanes_of_[a]);
        (joins ? joining : kept).push_back(old_lane(a));
    }
    if (!pool_.empty()) joining.push_back(old_lane(old_pool));
    lanes_of_ = kept_labels;
    pool_.add(little, unaries_, threads_);
    q_ = Buffer<float>();
    layout();
    each_block(points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < groups_ * lanes_; ++a) {
            float *out = group(q_, a / lanes_) + a % lanes_;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = a < kept.size() ? kept[a][i * stride] : 0.0f;
            if (a != kept.size()) continue;
            for (const float *from : joining)
                for (std::size_t i = begin; i < end; ++i) out[i * lanes_] += from[i * stride];
        }
    });
}

}  // namespace densecrf
