// Likelihoods, energies and merged labels, a block of pixels at a time; see unaries.hpp.
// SPDX-License-Identifier: MIT
#include "unaries.hpp"

#include <cmath>
#include <limits>

#include "exponential.hpp"

namespace densecrf {
namespace {

constexpr std::size_t block = 256;  // pixels whose sums fit into the first-level cache
// Below it three cumulants are enough: the next term is at most 5e-3, where two labels share evenly, and some
// 1e-4 where one label or many of them do.
constexpr float small_message = 1.0f;

// Loops over blocks of [begin, end). A macro, because lambdas would not be compiled for the instruction set
// of their caller.
#define DENSECRF_EACH_BLOCK(first, count, begin, end)                                             \
    for (std::size_t first = begin, count; first < end && (count = std::min(block, end - first)); \
         first += block)

// out[i] = likelihood of label k at point first + i. Energies: times exp(shift[i]), where the shift must not
// be above the relative energy.
template <bool Probabilities>
DENSECRF_INLINE void likelihoods(const Unaries &u, std::size_t k, std::size_t first, const float *shift,
                                 std::size_t count, float *out) {
    const float *plane = u.plane(k) + first, *min_energy = Probabilities ? nullptr : u.min_energy + first;
    for (std::size_t i = 0; i < count; ++i)
        out[i] = Probabilities ? std::max(plane[i], u.floor)
                               : fast_exp_nonpositive(shift[i] - relative_energy(plane[i], min_energy[i]));
}

// No NaN, which compares with nothing. A sum of integers vectorises, a maximum of floats does not.
DENSECRF_INLINE bool are_valid(const float *probabilities, std::size_t count) {
    std::int32_t invalid = 0;
    for (std::size_t i = 0; i < count; ++i) {
        invalid += !(probabilities[i] >= 0);
        invalid += !(probabilities[i] <= std::numeric_limits<float>::max());
    }
    return !invalid;
}

// The largest product of two values at one place, or 0. Several maxima side by side vectorise, one does not.
DENSECRF_INLINE float max_product(const float *a, const float *b, std::size_t count) {
    constexpr std::size_t width = 16;
    float highest[width] = {};
    std::size_t i = 0;
    for (; i + width <= count; i += width)
        for (std::size_t j = 0; j < width; ++j) {
            const float product = a[i + j] * b[i + j];
            highest[j] = product > highest[j] ? product : highest[j];
        }
    for (; i < count; ++i) highest[0] = std::max(highest[0], a[i] * b[i]);
    return *std::max_element(highest, highest + width);
}

template <bool Probabilities>
DENSECRF_INLINE bool scan(const Unaries &u, float *max_probability, std::size_t begin, std::size_t end) {
    bool valid = true;
    const float no_shift[block] = {};
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        float sum[block] = {}, value[block];
        for (std::size_t k = 0; k < u.labels; ++k) {
            if (Probabilities) valid = are_valid(u.plane(k) + first, count) && valid;
            likelihoods<Probabilities>(u, k, first, no_shift, count, value);
            for (std::size_t i = 0; i < count; ++i) sum[i] += value[i];
        }
        for (std::size_t i = 0; i < count; ++i) sum[i] = 1 / sum[i];
        for (std::size_t k = 0; k < u.labels; ++k) {
            likelihoods<Probabilities>(u, k, first, no_shift, count, value);
            max_probability[k] = std::max(max_probability[k], max_product(value, sum, count));
        }
    }
    return valid;
}

// shift[i] = the lowest relative energy of the merged labels, so that exponentials do not underflow; 0 for
// probabilities.
template <bool Probabilities>
DENSECRF_INLINE void find_shift(const Unaries &u, const std::int32_t *labels, std::size_t merged,
                                std::size_t first, std::size_t count, float *shift) {
    std::fill_n(shift, count, Probabilities ? 0.0f : std::numeric_limits<float>::max());
    for (std::size_t n = 0; n < merged && !Probabilities; ++n) {
        const float *energies = u.plane(labels[n]) + first, *min_energy = u.min_energy + first;
        for (std::size_t i = 0; i < count; ++i)
            shift[i] = std::min(shift[i], relative_energy(energies[i], min_energy[i]));
    }
}

template <bool Probabilities>
DENSECRF_INLINE void moments(const Unaries &u, const std::int32_t *labels, std::size_t merged, float *energy,
                             float *mean_share, float *share_variance, float *share_skew, std::size_t begin,
                             std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        float shift[block], sum[block] = {}, squares[block] = {}, cubes[block] = {}, fourths[block] = {};
        float value[block], square[block];
        find_shift<Probabilities>(u, labels, merged, first, count, shift);
        for (std::size_t n = 0; n < merged; ++n) {
            likelihoods<Probabilities>(u, labels[n], first, shift, count, value);
            for (std::size_t i = 0; i < count; ++i) square[i] = value[i] * value[i];
            for (std::size_t i = 0; i < count; ++i) sum[i] += value[i];
            for (std::size_t i = 0; i < count; ++i) squares[i] += square[i];
            for (std::size_t i = 0; i < count; ++i) cubes[i] += square[i] * value[i];
            for (std::size_t i = 0; i < count; ++i) fourths[i] += square[i] * square[i];
        }
        for (std::size_t i = 0; i < count; ++i) shift[i] -= fast_log(sum[i]);
        for (std::size_t i = 0; i < count; ++i) {
            const float scale = 1 / sum[i];
            const float mean = squares[i] * scale * scale, second = cubes[i] * scale * scale * scale;
            const float third = fourths[i] * scale * scale * scale * scale;
            squares[i] = mean;
            cubes[i] = second - mean * mean;
            fourths[i] = third - 3 * mean * second + 2 * mean * mean * mean;
        }
        std::copy_n(shift, count, energy + first);
        std::copy_n(squares, count, mean_share + first);
        std::copy_n(cubes, count, share_variance + first);
        std::copy_n(fourths, count, share_skew + first);
    }
}

// The merged logit at one point, with all labels side by side. Exponents are relative to `top`, which none
// exceeds.
template <bool Probabilities>
DENSECRF_INLINE float logit_at(const Unaries &u, const MergedView &merged, std::size_t i, float message) {
    const float energy = merged.energy[i];
    const float scale = Probabilities ? fast_exp(energy) : 1.0f;
    const float top = std::max(message, 0.0f);
    float sum = 0;
    for (std::size_t start = 0; start < merged.count; start += block) {
        const std::size_t count = std::min(block, merged.count - start);
        float share[block];
        for (std::size_t l = 0; l < count; ++l) share[l] = u.plane(merged.labels[start + l])[i];
        for (std::size_t l = 0; l < count; ++l)
            share[l] = Probabilities
                           ? std::max(share[l], u.floor) * scale
                           : fast_exp_nonpositive(energy - relative_energy(share[l], u.min_energy[i]));
        for (std::size_t l = 0; l < count; ++l) share[l] *= fast_exp_nonpositive(message * share[l] - top);
        for (std::size_t l = 0; l < count; ++l) sum += share[l];
    }
    return top + fast_log(sum) - energy;
}

// The merged logits of a block of points, label by label.
template <bool Probabilities>
DENSECRF_INLINE void logits_at(const Unaries &u, const MergedView &merged, std::size_t first,
                               std::size_t count, const float *message, float *logit) {
    const float *energy = merged.energy + first;
    float sum[block] = {}, share[block], scale[block], top[block];
    for (std::size_t i = 0; i < count; ++i) scale[i] = fast_exp(energy[i]);
    for (std::size_t i = 0; i < count; ++i) top[i] = std::max(message[i], 0.0f);
    for (std::size_t l = 0; l < merged.count; ++l) {
        likelihoods<Probabilities>(u, merged.labels[l], first, energy, count, share);
        for (std::size_t i = 0; i < count && Probabilities; ++i) share[i] *= scale[i];
        for (std::size_t i = 0; i < count; ++i)
            sum[i] += share[i] * fast_exp_nonpositive(message[i] * share[i] - top[i]);
    }
    for (std::size_t i = 0; i < count; ++i) logit[i] = top[i] + fast_log(sum[i]) - energy[i];
}

// The merged logit at point i for a small message, by cumulants.
DENSECRF_INLINE float small_logit(const MergedView &merged, std::size_t i, float message) {
    const float second = 0.5f * merged.share_variance[i] + (1.0f / 6) * message * merged.share_skew[i];
    return message * (merged.mean_share[i] + message * second) - merged.energy[i];
}

// Small messages take the first two cumulants of the log-sum; large ones the sum itself.
template <bool Probabilities>
DENSECRF_INLINE void logits(const Unaries &u, const MergedView &merged, const std::int32_t *ids,
                            float *messages, std::size_t begin, std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        float *message = messages + (first - begin), logit[block];
        const auto id = [&](std::size_t n) { return ids ? std::size_t(ids[first + n]) : first + n; };
        std::size_t large = 0;
        for (std::size_t n = 0; n < count; ++n) large += std::fabs(message[n]) >= small_message;
        if (!ids && large > count / 8) {
            logits_at<Probabilities>(u, merged, first, count, message, logit);
        } else {
            if (ids)
                for (std::size_t n = 0; n < count; ++n)
                    logit[n] = small_logit(merged, ids[first + n], message[n]);
            else
                for (std::size_t n = 0; n < count; ++n) logit[n] = small_logit(merged, first + n, message[n]);
            for (std::size_t n = 0; n < count && large; ++n)
                if (std::fabs(message[n]) >= small_message)
                    logit[n] = logit_at<Probabilities>(u, merged, id(n), message[n]);
        }
        std::copy_n(logit, count, message);
    }
}

template <bool Probabilities>
DENSECRF_INLINE void split(const Unaries &u, const MergedView &merged, const float *message, const float *sum,
                           std::size_t stride, float *out, std::size_t begin, std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        const float *energy = merged.energy + first;
        float share[block], value[block], scale[block], logit[block], total[block];
        std::copy_n(message + first, count, logit);
        logits<Probabilities>(u, merged, nullptr, logit, first, first + count);
        for (std::size_t i = 0; i < count; ++i) scale[i] = Probabilities ? fast_exp(energy[i]) : 1.0f;
        for (std::size_t i = 0; i < count; ++i) logit[i] += energy[i];
        for (std::size_t i = 0; i < count; ++i) total[i] = sum[(first + i) * stride];
        for (std::size_t l = 0; l < merged.count; ++l) {
            likelihoods<Probabilities>(u, merged.labels[l], first, energy, count, share);
            for (std::size_t i = 0; i < count; ++i) share[i] *= scale[i];
            for (std::size_t i = 0; i < count; ++i) value[i] = total[i] * share[i];
            for (std::size_t i = 0; i < count; ++i)
                value[i] *= fast_exp(message[first + i] * share[i] - logit[i]);
            std::copy_n(value, count, out + merged.labels[l] * u.points + first);
        }
    }
}

}  // namespace

DENSECRF_CLONES void min_energies(const Unaries &u, float *out, std::size_t begin, std::size_t end) {
    std::copy(u.plane(0) + begin, u.plane(0) + end, out + begin);
    for (std::size_t k = 1; k < u.labels; ++k) {
        const float *plane = u.plane(k);
        for (std::size_t i = begin; i < end; ++i) out[i] = std::min(out[i], plane[i]);
    }
}

DENSECRF_CLONES bool scan_unaries(const Unaries &u, float *max_probability, std::size_t begin,
                                  std::size_t end) {
    return u.are_probabilities() ? scan<true>(u, max_probability, begin, end)
                                 : scan<false>(u, max_probability, begin, end);
}

DENSECRF_CLONES void label_energies(const Unaries &u, std::size_t label, float *out, std::size_t begin,
                                    std::size_t end) {
    const float *plane = u.plane(label) + begin, floor = u.floor;  // a copy, as `out` might overwrite u.floor
    if (u.are_probabilities())
        for (std::size_t i = 0; i < end - begin; ++i) out[i] = -fast_log(std::max(plane[i], floor));
    else
        for (std::size_t i = 0; i < end - begin; ++i)
            out[i] = relative_energy(plane[i], u.min_energy[begin + i]);
}

DENSECRF_CLONES void merged_moments(const Unaries &u, const std::int32_t *labels, std::size_t count,
                                    float *energy, float *mean_share, float *share_variance,
                                    float *share_skew, std::size_t begin, std::size_t end) {
    if (u.are_probabilities())
        moments<true>(u, labels, count, energy, mean_share, share_variance, share_skew, begin, end);
    else
        moments<false>(u, labels, count, energy, mean_share, share_variance, share_skew, begin, end);
}

DENSECRF_CLONES void merged_logits(const Unaries &u, const MergedView &merged, const std::int32_t *ids,
                                   float *messages, std::size_t begin, std::size_t end) {
    u.are_probabilities() ? logits<true>(u, merged, ids, messages, begin, end)
                          : logits<false>(u, merged, ids, messages, begin, end);
}

DENSECRF_CLONES void split_merged(const Unaries &u, const MergedView &merged, const float *message,
                                  const float *sum, std::size_t stride, float *out, std::size_t begin,
                                  std::size_t end) {
    u.are_probabilities() ? split<true>(u, merged, message, sum, stride, out, begin, end)
                          : split<false>(u, merged, message, sum, stride, out, begin, end);
}

}  // namespace densecrf
