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
// the log of the sum of exp(-energy + M x share); for small M its first terms in M, two cumulants, are enough.
class Pool {
public:
    bool empty() const { return labels_.empty(); }
    const std::vector<std::int32_t> &labels() const { return labels_; }
    void clear() { labels_.clear(); }

    void add(const std::vector<std::int32_t> &labels, const float *energies, std::size_t points, int threads) {
        labels_.insert(labels_.end(), labels.begin(), labels.end());
        for (Buffer<float> *array : {&energy_, &slope_, &curve_, &message_}) array->resize(points);
        std::fill(message_.begin(), message_.end(), 0.0f);
        parallel_for(threads, points, [&](std::size_t begin, std::size_t end) {
            pool_moments(energies, points, labels_.data(), labels_.size(), energy_.data(), slope_.data(), curve_.data(),
                         begin, end);
        });
    }

    // N: minus the log of the labels' exp(-energy) together.
    const float *energies() const { return energy_.data(); }

    // Takes note of the messages to points ids[n] (or n, where ids is null) for n in [begin, end), the first at
    // messages[0], and puts the pool's logits in their place.
    void take(const float *energies, std::size_t points, const std::int32_t *ids, float *messages, std::size_t begin,
              std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) message_[ids ? ids[n] : n] = messages[n - begin];
        pool_logits(energies, points, labels_.data(), labels_.size(), moments(), ids, messages, begin, end);
    }

    // Probabilities of its labels into planes of K x N, for points [begin, end); together[i x stride] is their sum.
    void spread(const float *energies, std::size_t points, const float *together, std::size_t stride, float *out,
                std::size_t begin, std::size_t end) const {
        std::vector<float> whole(message_.begin() + begin, message_.begin() + end);
        pool_logits(energies, points, labels_.data(), labels_.size(), moments(), nullptr, whole.data(), begin, end);
        for (const std::int32_t k : labels_)
            spread_pool(energies + k * points, energy_.data(), message_.data(), whole.data(), together, stride,
                        out + k * points, begin, end);
    }

private:
    PoolMoments moments() const { return {energy_.data(), slope_.data(), curve_.data()}; }

    std::vector<std::int32_t> labels_;
    Buffer<float> energy_, slope_, curve_, message_;  // N each
};

}  // namespace densecrf
