// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include <numeric>

namespace densecrf {

MeanField::MeanField(const float *logits, std::size_t labels, std::size_t points, std::vector<Pull> pulls,
                     float pool_limit, int threads)
    : logits_(logits), labels_(labels), points_(points), pulls_(std::move(pulls)), pool_limit_(pool_limit), threads_(threads),
      rows_(pulls_.size()), mixed_(pulls_.size()) {
    for (const Pull &pull : pulls_)  // the labels of a pool must be pulled alike
        for (const float strength : pull.strength)
            if (pull.is_matrix(labels) || strength != pull.strength[0]) pool_limit_ = 0;
    give_all_lanes();
    load(logits_);
    normalize();
    adapt();
}

void MeanField::set_marginals(const float *marginals) {
    give_all_lanes();
    load(marginals);
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
            const float *lane = q_.data() + (a / lanes_) * points_ * lanes_ + a % lanes_;
            float *plane = out + std::size_t(lanes_of_[a]) * points_;
            for (std::size_t i = begin; i < end; ++i) plane[i] = lane[i * lanes_];
        }
        if (pooled_.empty()) return;
        const std::size_t last = lanes_of_.size();
        const float *lane = q_.data() + (last / lanes_) * points_ * lanes_ + last % lanes_;
        for (std::size_t i = begin; i < end; ++i) {
            const float together = lane[i * lanes_], whole = pooled_logit(i, pool_message_[i]);
            for (const std::int32_t k : pooled_) {
                const float logit = logits_[k * points_ + i];
                const float share = std::exp(logit - pool_start_[i]);
                out[k * points_ + i] = together * std::exp(logit + pool_message_[i] * share - whole);
            }
        }
    });
}

void MeanField::give_all_lanes() {
    lanes_of_.resize(labels_);
    std::iota(lanes_of_.begin(), lanes_of_.end(), 0);
    pooled_.clear();
    layout();
}

void MeanField::layout() {
    lanes_ = lanes_used() <= 4 ? 4 : 8;
    groups_ = (lanes_used() + lanes_ - 1) / lanes_;
    q_.resize(groups_ * points_ * lanes_);
    top_.assign(groups_ * lanes_, 0.0f);
}

// One group's rows from K x N planes; lanes without a label become zero.
void MeanField::load_group(const float *planes, std::size_t g, std::size_t begin, std::size_t end) {
    float *rows = group(q_, g);
    for (std::size_t k = 0; k < lanes_; ++k) {
        const std::size_t a = g * lanes_ + k;
        const float *plane = a < lanes_of_.size() ? planes + std::size_t(lanes_of_[a]) * points_ : nullptr;
        for (std::size_t i = begin; i < end; ++i) rows[i * lanes_ + k] = plane ? plane[i] : 0.0f;
    }
}

void MeanField::load(const float *planes) {
    each_block([&](std::size_t begin, std::size_t end) {
        for (std::size_t g = 0; g < groups_; ++g) load_group(planes, g, begin, end);
    });
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

// log of the sum over the pool of exp(logit + message x share).
float MeanField::pooled_logit(std::size_t point, float message) const {
    constexpr float small = 0.1f;  // below, the third-order term is under 2e-5
    const float start = pool_start_[point];
    if (message < small) return start + message * (pool_slope_[point] + 0.5f * message * pool_curve_[point]);
    float sum = 0;
    for (const std::int32_t k : pooled_) {
        const float share = std::exp(logits_[k * points_ + point] - start);
        sum += share * std::exp(message * share);
    }
    return start + std::log(sum);
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
                const float *source = group(q_, from / lanes_) + from % lanes_;
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
        for (std::size_t a = 0; a < lanes_of_.size(); ++a) strength[m][a] = pulls_[m].strength[lanes_of_[a]];
        if (!pooled_.empty()) strength[m][lanes_of_.size()] = pulls_[m].strength[0];
    }
    for (std::size_t g = 0; g < groups_; ++g) {
        std::vector<const float *> sources;
        bool own_left_out = false;
        for (std::size_t m = 0; m < pulls_.size(); ++m) {
            const Kernel &kernel = pulls_[m].kernel;
            sources.push_back(group(pulls_[m].is_matrix(labels_) ? mixed_[m] : q_, g));
            kernel.lattice().splat_and_blur(sources[m], kernel.before(), int(lanes_), rows_[m], spare_, threads_);
            own_left_out = own_left_out || kernel.own();
        }
        float *rows = group(q_, g);
        each_block([&](std::size_t begin, std::size_t end) {
            std::vector<float> before;  // the logits overwrite what some kernels still need
            if (own_left_out) before.assign(rows + begin * lanes_, rows + end * lanes_);
            load_group(logits_, g, begin, end);
            for (std::size_t m = 0; m < pulls_.size(); ++m) {
                const Kernel &kernel = pulls_[m].kernel;
                const float *pull = strength[m].data() + g * lanes_;
                kernel.lattice().slice(int(lanes_), rows_[m].data(), kernel.after(), pull, rows, begin, end);
                if (!kernel.own()) continue;
                const float *source = sources[m] == rows ? before.data() : sources[m] + begin * lanes_;
                for (std::size_t i = begin; i < end; ++i)
                    for (std::size_t k = 0; k < lanes_; ++k)
                        rows[i * lanes_ + k] -= kernel.own()[i] * pull[k] * source[(i - begin) * lanes_ + k];
            }
            if (pooled_.empty() || g + 1 < groups_) return;
            for (std::size_t i = begin; i < end; ++i) {
                float &logit = rows[i * lanes_ + lanes_of_.size() % lanes_];  // so far it holds the message
                pool_message_[i] = logit;
                logit = pooled_logit(i, logit);
            }
        });
    }
    normalize();
}

// Pools labels that hold little, if that saves a group or half a row; dissolves a pool that holds much.
void MeanField::adapt() {
    if (pool_limit_ <= 0) return;
    if (!pooled_.empty() && top_[lanes_of_.size()] > 10 * pool_limit_) {
        std::vector<float> all(labels_ * points_);
        marginals(all.data());
        set_marginals(all.data());
        pool_limit_ = 0;
        return;
    }
    std::vector<std::int32_t> places;
    for (std::size_t a = 0; a < lanes_of_.size(); ++a)
        if (top_[a] <= pool_limit_) places.push_back(std::int32_t(a));
    const std::size_t left = lanes_of_.size() - places.size() + 1;
    const std::size_t width = left <= 4 ? 4 : (left + 7) / 8 * 8;
    if (width < groups_ * lanes_) pool(places);
}

// places: of the labels to pool in lanes_of_, ascending; those that are pooled already stay so.
void MeanField::pool(const std::vector<std::int32_t> &places) {
    std::vector<float> old;
    old.swap(q_);
    const std::size_t old_lanes = lanes_, old_pool = lanes_of_.size();
    const bool first = pooled_.empty();
    std::vector<std::int32_t> kept, kept_labels;
    for (std::size_t a = 0; a < lanes_of_.size(); ++a) {
        if (std::binary_search(places.begin(), places.end(), std::int32_t(a))) {
            pooled_.push_back(lanes_of_[a]);
        } else {
            kept.push_back(std::int32_t(a));
            kept_labels.push_back(lanes_of_[a]);
        }
    }
    lanes_of_ = kept_labels;
    layout();
    pool_start_.resize(points_);
    pool_slope_.resize(points_);
    pool_curve_.resize(points_);
    pool_message_.assign(points_, 0.0f);
    const auto lane = [&](std::size_t a) { return old.data() + (a / old_lanes) * points_ * old_lanes + a % old_lanes; };
    each_block([&](std::size_t begin, std::size_t end) {
        for (std::size_t n = 0; n < groups_ * lanes_; ++n) {
            float *to = group(q_, n / lanes_) + n % lanes_;
            const float *from = n < kept.size() ? lane(kept[n]) : nullptr;
            for (std::size_t i = begin; i < end; ++i) to[i * lanes_] = from ? from[i * old_lanes] : 0.0f;
        }
        float *together = group(q_, kept.size() / lanes_) + kept.size() % lanes_;
        for (std::size_t i = begin; i < end; ++i) {
            for (const std::int32_t a : places) together[i * lanes_] += lane(a)[i * old_lanes];
            if (!first) together[i * lanes_] += lane(old_pool)[i * old_lanes];
            float highest = -1e30f, sum = 0, squares = 0, cubes = 0;
            for (const std::int32_t k : pooled_) highest = std::max(highest, logits_[k * points_ + i]);
            for (const std::int32_t k : pooled_) {
                const float power = std::exp(logits_[k * points_ + i] - highest);
                sum += power;
                squares += power * power;
                cubes += power * power * power;
            }
            pool_start_[i] = highest + std::log(sum);
            pool_slope_[i] = squares / (sum * sum);
            pool_curve_[i] = cubes / (sum * sum * sum) - pool_slope_[i] * pool_slope_[i];
        }
    });
}

}  // namespace densecrf
