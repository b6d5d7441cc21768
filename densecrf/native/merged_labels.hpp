// Labels that are unlikely everywhere, merged into one: they share one lane and one message.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "buffer.hpp"
#include "parallel.hpp"
#include "unaries.hpp"

namespace densecrf {

// Each merged label takes a share of the message M to the merged label, in proportion to its likelihood. The
// logit of the merged label is the log of the sum of exp(-energy + M x share); for small M its first three
// terms in M are enough.
class MergedLabels {
public:
    bool empty() const { return labels_.empty(); }
    void clear() { labels_.clear(); }

    // Merges further labels.
    void add(const std::vector<std::int32_t> &labels, const Unaries &unaries, int threads) {
        labels_.insert(labels_.end(), labels.begin(), labels.end());
        for (Buffer<float> *array : {&energy_, &mean_share_, &share_variance_, &share_skew_, &message_})
            array->resize(unaries.points);
        std::fill(message_.begin(), message_.end(), 0.0f);
        parallel_for(threads, unaries.points, [&](std::size_t begin, std::size_t end) {
            merged_moments(unaries, labels_.data(), labels_.size(), energy_.data(), mean_share_.data(),
                           share_variance_.data(), share_skew_.data(), begin, end);
        });
    }

    // N: minus the log of the sum of the labels' likelihoods.
    const float *energy() const { return energy_.data(); }

    // Fetches into the cache what messages_to_logits() reads and writes of points [begin, end).
    void prefetch(std::size_t begin, std::size_t end) const {
        if (empty()) return;
        for (const Buffer<float> *array : {&energy_, &mean_share_, &share_variance_, &share_skew_, &message_})
            prefetch_range(array->data() + begin, end - begin);
    }

    // Stores the messages to points ids[n] (or n, where ids is null) for n in [begin, end), of which the
    // first is messages[0], and replaces them by the merged logits.
    void messages_to_logits(const Unaries &unaries, const std::int32_t *ids, float *messages,
                            std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) message_[ids ? ids[n] : n] = messages[n - begin];
        merged_logits(unaries, view(), ids, messages, begin, end);
    }

    // Writes the labels' probabilities to planes of K x N, for points [begin, end); sum[i x stride] is the
    // merged probability of point i.
    void split(const Unaries &unaries, const float *sum, std::size_t stride, float *out, std::size_t begin,
               std::size_t end) const {
        split_merged(unaries, view(), message_.data(), sum, stride, out, begin, end);
    }

    // The number of points in [begin, end) where merging may have changed a probability by more than `limit`;
    // sum[n x stride] is the merged probability of point begin + n. The bound is sum x message, as a label's
    // own message and its share of the merged message differ by at most the merged message. A message that is
    // NaN, or too large for merged_logits(), counts as far too many points.
    std::size_t errors_over(float limit, const float *sum, std::size_t stride, std::size_t begin,
                            std::size_t end) const {
        std::size_t errors = 0;
        float largest = 0;
        for (std::size_t n = 0; n < end - begin; ++n) {
            const float size = std::fabs(message_[begin + n]);
            errors += !(sum[n * stride] * size <= limit);
            largest = std::max(largest, size);
        }
        return largest <= max_message ? errors : far_too_many;
    }

private:
    static constexpr std::size_t far_too_many = std::size_t(1) << 40;
    static constexpr float max_message = 30;  // the range of fast_exp() is -87 to 87

    MergedView view() const {
        return {labels_.data(),     labels_.size(),         energy_.data(),
                mean_share_.data(), share_variance_.data(), share_skew_.data()};
    }

    std::vector<std::int32_t> labels_;
    Buffer<float> energy_, mean_share_, share_variance_, share_skew_, message_;  // N each
};

}  // namespace densecrf
