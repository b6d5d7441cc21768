// Labels that hold little everywhere, taken together: one lane and one message for all of them.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "buffer.hpp"
#include "parallel.hpp"
#include "unaries.hpp"

namespace densecrf {

// Of the message M to the pool, each label takes the share that its unary gives it among them. The pool's logit then is
// the log of the sum of exp(-energy + M x share); for small M its first terms in M, two cumulants, are enough.
class Pool {
public:
    bool empty() const { return labels_.empty(); }
    void clear() { labels_.clear(); }

    void add(const std::vector<std::int32_t> &labels, const Unaries &unaries, int threads) {
        labels_.insert(labels_.end(), labels.begin(), labels.end());
        for (Buffer<float> *array : {&energy_, &slope_, &curve_, &message_}) array->resize(unaries.points);
        std::fill(message_.begin(), message_.end(), 0.0f);
        parallel_for(threads, unaries.points, [&](std::size_t begin, std::size_t end) {
            pool_moments(unaries, labels_.data(), labels_.size(), energy_.data(), slope_.data(), curve_.data(), begin, end);
        });
    }

    // N: minus the log of the labels' likelihoods together.
    const float *energy() const { return energy_.data(); }

    // Takes note of the messages to points ids[n] (or n, where ids is null) for n in [begin, end), the first at
    // messages[0], and puts the pool's logits in their place.
    void take(const Unaries &unaries, const std::int32_t *ids, float *messages, std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) message_[ids ? ids[n] : n] = messages[n - begin];
        pool_logits(unaries, pooled(), ids, messages, begin, end);
    }

    // Probabilities of its labels into planes of K x N, for points [begin, end); together[i x stride] is their sum.
    void spread(const Unaries &unaries, const float *together, std::size_t stride, float *out, std::size_t begin,
                std::size_t end) const {
        spread_pool(unaries, pooled(), message_.data(), together, stride, out, begin, end);
    }

    // A bound on what pooling may have changed at points [begin, end), where together[n x stride] is the pool's probability
    // at point begin + n: the largest of that x message. (A label's own message and its part of the pool's differ by no
    // more than the pool's.) Infinite if a message is too large for what pool_logits() makes of it, or NaN.
    float doubt(const float *together, std::size_t stride, std::size_t begin, std::size_t end) const {
        float most = 0, largest = 0;
        bool is_number = true;
        for (std::size_t n = 0; n < end - begin; ++n) {
            const float size = std::fabs(message_[begin + n]), change = together[n * stride] * size;
            most = std::max(most, change);
            largest = std::max(largest, size);
            is_number &= change == change;
        }
        return is_number && largest <= largest_message ? most : std::numeric_limits<float>::infinity();
    }

private:
    static constexpr float largest_message = 30;  // exponentials reach from -87 to 87

    PooledLabels pooled() const { return {labels_.data(), labels_.size(), energy_.data(), slope_.data(), curve_.data()}; }

    std::vector<std::int32_t> labels_;
    Buffer<float> energy_, slope_, curve_, message_;  // N each
};

}  // namespace densecrf
