// SPDX-License-Identifier: MIT
#include "unaries.hpp"

#include <cmath>
#include <limits>

#include "exponential.hpp"

namespace densecrf {
namespace {

constexpr std::size_t block = 256;  // pixels whose sums fit into the nearest cache
constexpr float small = 0.25f;      // message below which the third-order term is under 3e-4 of some hundredths

// No lambdas around the loops: they would not be compiled for the instruction set of their caller.
#define DENSECRF_EACH_BLOCK(first, count, begin, end) \
    for (std::size_t first = begin, count; first < end && (count = std::min(block, end - first)); first += block)

// out[i] = likelihood of label k at point first + i, x exp(shift[i]) for energies, which shift must not be above.
template <bool Probabilities>
DENSECRF_INLINE void likelihoods(const Unaries &u, std::size_t k, std::size_t first, const float *shift,
                                 std::size_t count, float *out) {
    const float *plane = u.plane(k) + first, *least = Probabilities ? nullptr : u.least + first;
    for (std::size_t i = 0; i < count; ++i)
        out[i] = Probabilities ? std::max(plane[i], u.floor)
                               : exp_of_negative(shift[i] - above_least(plane[i], least[i]));
}

DENSECRF_INLINE bool are_fine(const float *probabilities, std::size_t count) {
    float least = 0, most = 0;
    std::int32_t unordered = 0;  // NaN compares with nothing
    for (std::size_t i = 0; i < count; ++i) {
        least = std::min(least, probabilities[i]);
        most = std::max(most, probabilities[i]);
        unordered |= probabilities[i] != probabilities[i];
    }
    return least >= 0 && most <= std::numeric_limits<float>::max() && !unordered;
}

template <bool Probabilities>
DENSECRF_INLINE bool scan(const Unaries &u, float *top, std::size_t begin, std::size_t end) {
    bool fine = true;
    const float none[block] = {};
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        float sum[block] = {}, value[block];
        for (std::size_t k = 0; k < u.labels; ++k) {
            if (Probabilities) fine = are_fine(u.plane(k) + first, count) && fine;
            likelihoods<Probabilities>(u, k, first, none, count, value);
            for (std::size_t i = 0; i < count; ++i) sum[i] += value[i];
        }
        for (std::size_t i = 0; i < count; ++i) sum[i] = 1 / sum[i];
        for (std::size_t k = 0; k < u.labels; ++k) {
            likelihoods<Probabilities>(u, k, first, none, count, value);
            float highest = 0;
            for (std::size_t i = 0; i < count; ++i) highest = std::max(highest, value[i] * sum[i]);
            top[k] = std::max(top[k], highest);
        }
    }
    return fine;
}

// Of energies, the least of the pooled labels at each point, so that exponentials do not underflow.
template <bool Probabilities>
DENSECRF_INLINE void find_shift(const Unaries &u, const std::int32_t *labels, std::size_t pooled, std::size_t first,
                                std::size_t count, float *shift) {
    std::fill_n(shift, count, Probabilities ? 0.0f : std::numeric_limits<float>::max());
    for (std::size_t n = 0; n < pooled && !Probabilities; ++n) {
        const float *energies = u.plane(labels[n]) + first, *least = u.least + first;
        for (std::size_t i = 0; i < count; ++i) shift[i] = std::min(shift[i], above_least(energies[i], least[i]));
    }
}

template <bool Probabilities>
DENSECRF_INLINE void moments(const Unaries &u, const std::int32_t *labels, std::size_t pooled, float *energy,
                             float *slope, float *curve, std::size_t begin, std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        float shift[block], sum[block] = {}, squares[block] = {}, cubes[block] = {}, value[block], square[block];
        find_shift<Probabilities>(u, labels, pooled, first, count, shift);
        for (std::size_t n = 0; n < pooled; ++n) {
            likelihoods<Probabilities>(u, labels[n], first, shift, count, value);
            for (std::size_t i = 0; i < count; ++i) square[i] = value[i] * value[i];
            for (std::size_t i = 0; i < count; ++i) sum[i] += value[i];
            for (std::size_t i = 0; i < count; ++i) squares[i] += square[i];
            for (std::size_t i = 0; i < count; ++i) cubes[i] += square[i] * value[i];
        }
        for (std::size_t i = 0; i < count; ++i) shift[i] -= log_of_positive(sum[i]);
        for (std::size_t i = 0; i < count; ++i) {
            const float scale = 1 / sum[i];
            squares[i] *= scale * scale;
            cubes[i] = cubes[i] * scale * scale * scale - squares[i] * squares[i];
        }
        std::copy_n(shift, count, energy + first);
        std::copy_n(squares, count, slope + first);
        std::copy_n(cubes, count, curve + first);
    }
}

// The pool's logit at one point, all its labels side by side. Exponents are counted from `top`, which none is above.
template <bool Probabilities>
DENSECRF_INLINE float logit_at(const Unaries &u, const PooledLabels &pool, std::size_t i, float message) {
    const float energy = pool.energy[i], whole = Probabilities ? exp_of(energy) : 1.0f, top = std::max(message, 0.0f);
    float sum = 0;
    for (std::size_t start = 0; start < pool.count; start += block) {
        const std::size_t some = std::min(block, pool.count - start);
        float share[block];
        for (std::size_t l = 0; l < some; ++l) share[l] = u.plane(pool.labels[start + l])[i];
        for (std::size_t l = 0; l < some; ++l)
            share[l] = Probabilities ? std::max(share[l], u.floor) * whole
                                     : exp_of_negative(energy - above_least(share[l], u.least[i]));
        for (std::size_t l = 0; l < some; ++l) share[l] *= exp_of_negative(message * share[l] - top);
        for (std::size_t l = 0; l < some; ++l) sum += share[l];
    }
    return top + log_of_positive(sum) - energy;
}

// The same at a block of points, label by label.
template <bool Probabilities>
DENSECRF_INLINE void logits_at(const Unaries &u, const PooledLabels &pool, std::size_t first, std::size_t count,
                               const float *message, float *logit) {
    const float *energy = pool.energy + first;
    float sum[block] = {}, share[block], whole[block], top[block];
    for (std::size_t i = 0; i < count; ++i) whole[i] = exp_of(energy[i]);
    for (std::size_t i = 0; i < count; ++i) top[i] = std::max(message[i], 0.0f);
    for (std::size_t l = 0; l < pool.count; ++l) {
        likelihoods<Probabilities>(u, pool.labels[l], first, energy, count, share);
        for (std::size_t i = 0; i < count && Probabilities; ++i) share[i] *= whole[i];
        for (std::size_t i = 0; i < count; ++i) sum[i] += share[i] * exp_of_negative(message[i] * share[i] - top[i]);
    }
    for (std::size_t i = 0; i < count; ++i) logit[i] = top[i] + log_of_positive(sum[i]) - energy[i];
}

template <bool Probabilities>
DENSECRF_INLINE void logits(const Unaries &u, const PooledLabels &pool, const std::int32_t *ids, float *messages,
                            std::size_t begin, std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        float *message = messages + (first - begin), logit[block];
        const auto id = [&](std::size_t n) { return ids ? std::size_t(ids[first + n]) : first + n; };
        std::size_t large = 0;
        for (std::size_t n = 0; n < count; ++n) large += std::fabs(message[n]) >= small;
        if (!ids && large > count / 8) {
            logits_at<Probabilities>(u, pool, first, count, message, logit);
        } else {
            for (std::size_t n = 0; n < count; ++n)
                logit[n] = message[n] * (pool.slope[id(n)] + 0.5f * message[n] * pool.curve[id(n)]) - pool.energy[id(n)];
            for (std::size_t n = 0; n < count && large; ++n)
                if (std::fabs(message[n]) >= small) logit[n] = logit_at<Probabilities>(u, pool, id(n), message[n]);
        }
        std::copy_n(logit, count, message);
    }
}

template <bool Probabilities>
DENSECRF_INLINE void spread(const Unaries &u, const PooledLabels &pool, const float *message, const float *together,
                            std::size_t stride, float *out, std::size_t begin, std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        const float *energy = pool.energy + first;
        float share[block], value[block], whole[block], logit[block], all[block];
        std::copy_n(message + first, count, logit);
        logits<Probabilities>(u, pool, nullptr, logit, first, first + count);
        for (std::size_t i = 0; i < count; ++i) whole[i] = Probabilities ? exp_of(energy[i]) : 1.0f;
        for (std::size_t i = 0; i < count; ++i) logit[i] += energy[i];
        for (std::size_t i = 0; i < count; ++i) all[i] = together[(first + i) * stride];
        for (std::size_t l = 0; l < pool.count; ++l) {
            likelihoods<Probabilities>(u, pool.labels[l], first, energy, count, share);
            for (std::size_t i = 0; i < count; ++i) share[i] *= whole[i];
            for (std::size_t i = 0; i < count; ++i) value[i] = all[i] * share[i];
            for (std::size_t i = 0; i < count; ++i) value[i] *= exp_of(message[first + i] * share[i] - logit[i]);
            std::copy_n(value, count, out + pool.labels[l] * u.points + first);
        }
    }
}

}  // namespace

DENSECRF_CLONES void least_energies(const Unaries &u, float *out, std::size_t begin, std::size_t end) {
    std::copy(u.plane(0) + begin, u.plane(0) + end, out + begin);
    for (std::size_t k = 1; k < u.labels; ++k) {
        const float *plane = u.plane(k);
        for (std::size_t i = begin; i < end; ++i) out[i] = std::min(out[i], plane[i]);
    }
}

DENSECRF_CLONES bool scan_unaries(const Unaries &u, float *top, std::size_t begin, std::size_t end) {
    return u.are_probabilities() ? scan<true>(u, top, begin, end) : scan<false>(u, top, begin, end);
}

DENSECRF_CLONES void energies_of(const Unaries &u, std::size_t label, float *out, std::size_t begin, std::size_t end) {
    const float *plane = u.plane(label) + begin;
    if (u.are_probabilities())
        for (std::size_t i = 0; i < end - begin; ++i) out[i] = -log_of_positive(std::max(plane[i], u.floor));
    else
        for (std::size_t i = 0; i < end - begin; ++i) out[i] = above_least(plane[i], u.least[begin + i]);
}

DENSECRF_CLONES void pool_moments(const Unaries &u, const std::int32_t *labels, std::size_t count, float *energy,
                                  float *slope, float *curve, std::size_t begin, std::size_t end) {
    u.are_probabilities() ? moments<true>(u, labels, count, energy, slope, curve, begin, end)
                          : moments<false>(u, labels, count, energy, slope, curve, begin, end);
}

DENSECRF_CLONES void pool_logits(const Unaries &u, const PooledLabels &pool, const std::int32_t *ids, float *messages,
                                 std::size_t begin, std::size_t end) {
    u.are_probabilities() ? logits<true>(u, pool, ids, messages, begin, end)
                          : logits<false>(u, pool, ids, messages, begin, end);
}

DENSECRF_CLONES void spread_pool(const Unaries &u, const PooledLabels &pool, const float *message,
                                 const float *together, std::size_t stride, float *out, std::size_t begin,
                                 std::size_t end) {
    u.are_probabilities() ? spread<true>(u, pool, message, together, stride, out, begin, end)
                          : spread<false>(u, pool, message, together, stride, out, begin, end);
}

}  // namespace densecrf
