// Labels that hold little everywhere, taken together: one lane and one message for all of them.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <vector>

#include "buffer.hpp"
#include "parallel.hpp"
#include "planes.hpp"

namespace densecrf {

// Of the message M to the pool, each label takes the share that its unary gives it among them. The pool's logit then is
// log of the sum of exp(-energy + M x share); for small M its first terms in M are enough.
class Pool {
public:
    bool empty() const { return labels_.empty(); }
    const std::vector<std::int32_t> &labels() const { return labels_; }
    void clear() { labels_.clear(); }

    void add(const std::vector<std::int32_t> &labels, const float *energies, std::size_t points, int threads) {
        labels_.insert(labels_.end(), labels.begin(), labels.end());
        for (Buffer<float> *array : {&start_, &slope_, &curve_, &message_}) array->resize(points);
        std::fill(message_.begin(), message_.end(), 0.0f);
        parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            pool_moments(energies, points, labels_.data(), labels_.size(), start_.data(), slope_.data(), curve_.data(),
                         begin, end);
        });
    }

    // Takes note of the message to a point and returns the pool's logit there.
    float take(const float *energies, std::size_t points, std::size_t point, float message) {
        message_[point] = message;
        return logit(energies, points, point);
    }

    // Probabilities of its labels into planes of K x N, for points [begin, end); together[i x stride] is their sum.
    void spread(const float *energies, std::size_t points, const float *together, std::size_t stride, float *out,
                std::size_t begin, std::size_t end) const {
        std::vector<float> whole(end - begin);
        for (std::size_t i = begin; i < end; ++i) whole[i - begin] = logit(energies, points, i);
        for (const std::int32_t k : labels_)
            spread_pool(energies + k * points, start_.data(), message_.data(), whole.data(), together, stride,
                        out + k * points, begin, end);
    }

private:
    float logit(const float *energies, std::size_t points, std::size_t point) const {
        constexpr float small = 0.25f;  // below, the third-order term is under 3e-4 of a probability of some hundredths
        const float start = start_[point], message = message_[point];
        if (message < small) return start + message * (slope_[point] + 0.5f * message * curve_[point]);
        float sum = 0;
        for (const std::int32_t k : labels_) {
            const float share = std::exp(-energies[k * points + point] - start);
            sum += share * std::exp(message * share);
        }
        return start + std::log(sum);
    }

    std::vector<std::int32_t> labels_;
    Buffer<float> start_, slope_, curve_, message_;  // N each
};

}  // namespace densecrf
