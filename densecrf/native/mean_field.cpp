// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include <numeric>

#include "exponential.hpp"

namespace densecrf {

MeanField::MeanField(const float *energies, std::size_t labels, std::size_t points, std::vector<Pull> pulls,
                     float pool_limit, int threads)
    : energies_(energies), labels_(labels), points_(points), pulls_(std::move(pulls)), pool_limit_(pool_limit),
      threads_(threads), rows_(pulls_.size()), mixed_(pulls_.size()) {
    for (const Pull &pull : pulls_)
        for (const float strength : pull.strength)
            if (pull.is_matrix(labels) || strength != pull.strength[0]) alike_ = false;
    if (!alike_) pool_limit_ = 0;
    start();
}

// The softmax of the negative energies, with labels pooled from the beginning.
void MeanField::start() {
    Buffer<float> norm(points_);
    std::vector<float> top(labels_, 0.0f);
    std::mutex guard;
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        std::vector<float> mine(labels_, 0.0f);
        scan_planes(energies_, labels_, points_, norm.data(), mine.data(), begin, end);
        const std::lock_guard<std::mutex> lock(guard);
        for (std::size_t k = 0; k < labels_; ++k) top[k] = std::max(top[k], mine[k]);
    });
    std::vector<std::int32_t> little;
    for (std::size_t k = 0; k < labels_; ++k) (top[k] <= pool_limit_ ? little : lanes_of_).push_back(std::int32_t(k));
    if (little.size() > 1 && width_for(lanes_of_.size() + 1) < width_for(labels_)) {
        pool_.add(little, energies_, points_, threads_);
    } else {
        lanes_of_.resize(labels_);
        std::iota(lanes_of_.begin(), lanes_of_.end(), 0);
    }
    layout();
    std::fill(q_.begin(), q_.end(), 0.0f);
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < std::min(lanes_of_.size(), groups_ * lanes_); ++a)
            add_probabilities(energies_ + lanes_of_[a] * points_, norm.data(), q_.data() + (lane(a) - q_.data()), lanes_,
                              begin, end);
        if (lanes_ == 1) return;
        for (const std::int32_t k : pool_.labels())
            add_probabilities(energies_ + k * points_, norm.data(), q_.data() + (lane(lanes_of_.size()) - q_.data()),
                              lanes_, begin, end);
    });
}

void MeanField::set_marginals(const float *marginals) {
    give_all_lanes();
    each_block([&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < groups_ * lanes_; ++a) {
            float *out = group(q_, a / lanes_) + a % lanes_;
            const float *plane = a < labels_ ? marginals + a * points_ : nullptr;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = plane ? plane[i] : 0.0f;
        }
    });
}

void MeanField::run(int iterations) {
    for (int step = 0; step < iterations; ++step) {
        update();
        adapt();
    }
}

void MeanField::marginals(float *out) const {
    each_block([&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < lanes_of_.size(); ++a) {
            float *plane = out + std::size_t(lanes_of_[a]) * points_;
            const float *from = lane(lanes_ == 1 ? 0 : a);
            const bool is_rest = lanes_ == 1 && a == 1;
            for (std::size_t i = begin; i < end; ++i) plane[i] = is_rest ? 1.0f - from[i] : from[i * lanes_];
        }
        if (pool_.empty()) return;
        if (lanes_ > 1) {
            pool_.spread(energies_, points_, lane(lanes_of_.size()), lanes_, out, begin, end);
            return;
        }
        std::vector<float> rest(end - begin);
        for (std::size_t i = begin; i < end; ++i) rest[i - begin] = 1.0f - q_[i];
        pool_.spread(energies_, points_, rest.data() - begin, 1, out, begin, end);
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
    if (lanes_ > 1 || !whole_message_.empty()) return;
    whole_message_.assign(points_, 0.0f);
    const Buffer<float> ones(points_, 1.0f);
    for (std::size_t m = 0; m < pulls_.size(); ++m) {
        const Kernel &kernel = *pulls_[m].kernel;
        const float strength = pulls_[m].strength[0];
        kernel.lattice().splat_and_blur(ones.data(), kernel.before(), 1, rows_[m], spare_, threads_);
        each_block([&](std::size_t begin, std::size_t end) {
            kernel.lattice().slice(1, rows_[m].data(), kernel.after(), &strength, whole_message_.data(), begin, end);
            for (std::size_t i = begin; i < end && kernel.own(); ++i) whole_message_[i] -= strength * kernel.own()[i];
        });
    }
}

// One group's rows become the unaries' logits; lanes without a label become zero.
void MeanField::load_group(std::size_t g, std::size_t begin, std::size_t end) {
    float *rows = group(q_, g);
    for (std::size_t k = 0; k < lanes_; ++k) {
        const std::size_t a = g * lanes_ + k;
        const float *plane = a < lanes_of_.size() ? energies_ + std::size_t(lanes_of_[a]) * points_ : nullptr;
        for (std::size_t i = begin; i < end; ++i) rows[i * lanes_ + k] = plane ? -plane[i] : 0.0f;
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

// The same for a pair: only the first logit was computed, the second follows from the message of both.
void MeanField::normalize_pair() {
    const float *first = energies_ + std::size_t(lanes_of_[0]) * points_;
    const float *second = pool_.empty() ? energies_ + std::size_t(lanes_of_[1]) * points_ : nullptr;
    std::mutex guard;
    float most = 0, least = 1;
    parallel_for(threads_, points_, [&](std::size_t begin, std::size_t end) {
        float high = 0, low = 1, other[block_];
        for (std::size_t start = begin; start < end; start += block_) {
            const std::size_t count = std::min(block_, end - start);
            float *logit = q_.data() + start;
            for (std::size_t i = 0; i < count; ++i) {
                const float message = whole_message_[start + i] - (logit[i] + first[start + i]);
                other[i] = second ? message - second[start + i] : pool_.take(energies_, points_, start + i, message);
            }
            sigmoid(logit, other, count, &high, &low);
        }
        const std::lock_guard<std::mutex> lock(guard);
        most = std::max(most, high);
        least = std::min(least, low);
    });
    top_[0] = most;
    top_[1] = 1.0f - least;
}

// The sources of kernel m where its pull is a matrix: labels are mixed before the filter, which is linear.
void MeanField::mix(std::size_t m) {
    mixed_[m].resize(q_.size());
    const float *matrix = pulls_[m].strength.data();
    each_block([&](std::size_t begin, std::size_t end) {
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

void MeanField::update() {
    std::vector<std::vector<float>> strength(pulls_.size(), std::vector<float>(groups_ * lanes_, 1.0f));
    for (std::size_t m = 0; m < pulls_.size(); ++m) {
        if (pulls_[m].is_matrix(labels_)) {
            mix(m);
            continue;
        }
        for (std::size_t a = 0; a < strength[m].size(); ++a)
            strength[m][a] = a < lanes_of_.size() ? pulls_[m].strength[lanes_of_[a]] : pulls_[m].strength[0];
    }
    for (std::size_t g = 0; g < groups_; ++g) {
        std::vector<const float *> sources;
        bool own_left_out = false;
        for (std::size_t m = 0; m < pulls_.size(); ++m) {
            const Kernel &kernel = *pulls_[m].kernel;
            sources.push_back(group(pulls_[m].is_matrix(labels_) ? mixed_[m] : q_, g));
            kernel.lattice().splat_and_blur(sources[m], kernel.before(), int(lanes_), rows_[m], spare_, threads_);
            own_left_out = own_left_out || kernel.own();
        }
        float *rows = group(q_, g);
        each_block([&](std::size_t begin, std::size_t end) {
            std::vector<float> before;  // the logits overwrite what some kernels still need
            if (own_left_out) before.assign(rows + begin * lanes_, rows + end * lanes_);
            load_group(g, begin, end);
            for (std::size_t m = 0; m < pulls_.size(); ++m) {
                const Kernel &kernel = *pulls_[m].kernel;
                const float *pull = strength[m].data() + g * lanes_;
                kernel.lattice().slice(int(lanes_), rows_[m].data(), kernel.after(), pull, rows, begin, end);
                if (!kernel.own()) continue;
                const float *source = sources[m] == rows ? before.data() : sources[m] + begin * lanes_;
                for (std::size_t i = begin; i < end; ++i)
                    for (std::size_t k = 0; k < lanes_; ++k)
                        rows[i * lanes_ + k] -= kernel.own()[i] * pull[k] * source[(i - begin) * lanes_ + k];
            }
            if (pool_.empty() || g + 1 < groups_ || lanes_ == 1) return;
            float *pooled = rows + lanes_of_.size() % lanes_;  // so far its message
            for (std::size_t i = begin; i < end; ++i)
                pooled[i * lanes_] = pool_.take(energies_, points_, i, pooled[i * lanes_]);
        });
    }
    lanes_ == 1 ? normalize_pair() : normalize();
}

// Pools labels that hold little, if that saves lanes; dissolves a pool that holds much.
void MeanField::adapt() {
    if (pool_limit_ <= 0) return;
    if (!pool_.empty() && top_[lanes_of_.size()] > 10 * pool_limit_) {
        Buffer<float> all(labels_ * points_);
        marginals(all.data());
        set_marginals(all.data());
        pool_limit_ = 0;
        return;
    }
    std::vector<std::int32_t> places;
    for (std::size_t a = 0; a < lanes_of_.size(); ++a)
        if (top_[a] <= pool_limit_) places.push_back(std::int32_t(a));
    if (!places.empty() && width_for(lanes_of_.size() - places.size() + 1) < groups_ * lanes_) pool(places);
}

// places: of the labels to pool in lanes_of_, ascending; those that are pooled already stay so.
void MeanField::pool(const std::vector<std::int32_t> &places) {
    Buffer<float> all(labels_ * points_);
    marginals(all.data());
    std::vector<std::int32_t> kept, little;
    for (std::size_t a = 0; a < lanes_of_.size(); ++a) {
        const bool goes = std::binary_search(places.begin(), places.end(), std::int32_t(a));
        (goes ? little : kept).push_back(lanes_of_[a]);
    }
    lanes_of_ = kept;
    pool_.add(little, energies_, points_, threads_);
    layout();
    each_block([&](std::size_t begin, std::size_t end) {
        for (std::size_t a = 0; a < groups_ * lanes_; ++a) {
            float *out = group(q_, a / lanes_) + a % lanes_;
            const float *plane = a < lanes_of_.size() ? all.data() + std::size_t(lanes_of_[a]) * points_ : nullptr;
            for (std::size_t i = begin; i < end; ++i) out[i * lanes_] = plane ? plane[i] : 0.0f;
            if (a != lanes_of_.size()) continue;
            for (const std::int32_t k : pool_.labels())
                for (std::size_t i = begin; i < end; ++i) out[i * lanes_] += all[k * points_ + i];
        }
    });
}

}  // namespace densecrf
