// SPDX-License-Identifier: MIT
#include "unaries.hpp"

#include <limits>

#include "exponential.hpp"

namespace densecrf {
namespace {

constexpr std::size_t block = 256;  // pixels whose sums fit into the nearest cache
constexpr float small = 0.25f;      // message below which the third-order term is under 3e-4 of some hundredths

// No lambdas around the loops: they would not be compiled for the instruction set of their caller.
#define DENSECRF_EACH_BLOCK(first, count, begin, end) \
    for (std::size_t first = begin, count; first < end && (count = std::min(block, end - first)); first += block)

// out[i] = likelihood x exp(shift[i]), for energies that shift is no less than.
template <bool Probabilities>
DENSECRF_INLINE void likelihoods(const float *plane, float floor, const float *shift, std::size_t count, float *out) {
    for (std::size_t i = 0; i < count; ++i)
        out[i] = Probabilities ? std::max(plane[i], floor) : exp_of_negative(shift[i] - plane[i]);
}

// The least energy at each point, so that exponentials do not underflow; 0 for probabilities, which need none.
template <bool Probabilities, class Plane>
DENSECRF_INLINE void find_shift(const Plane &plane, std::size_t labels, std::size_t count, float *shift) {
    std::fill_n(shift, count, Probabilities ? 0.0f : std::numeric_limits<float>::max());
    for (std::size_t k = 0; k < labels && !Probabilities; ++k) {
        const float *energies = plane(k);
        for (std::size_t i = 0; i < count; ++i) shift[i] = std::min(shift[i], energies[i]);
    }
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
DENSECRF_INLINE bool scan(const Unaries &u, float *norm, float *top, std::size_t begin, std::size_t end) {
    bool fine = true;
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        const auto plane = [&](std::size_t k) { return u.plane(k) + first; };
        float shift[block], sum[block] = {}, value[block];
        find_shift<Probabilities>(plane, u.labels, count, shift);
        for (std::size_t k = 0; k < u.labels; ++k) {
            if (Probabilities) fine = are_fine(plane(k), count) && fine;
            likelihoods<Probabilities>(plane(k), u.floor, shift, count, value);
            for (std::size_t i = 0; i < count; ++i) sum[i] += value[i];
        }
        for (std::size_t i = 0; i < count; ++i) norm[first + i] = log_of_positive(sum[i]) - shift[i];
        for (std::size_t i = 0; i < count; ++i) sum[i] = 1 / sum[i];
        for (std::size_t k = 0; k < u.labels; ++k) {
            likelihoods<Probabilities>(plane(k), u.floor, shift, count, value);
            float highest = 0;
            for (std::size_t i = 0; i < count; ++i) highest = std::max(highest, value[i] * sum[i]);
            top[k] = std::max(top[k], highest);
        }
    }
    return fine;
}

template <bool Probabilities>
DENSECRF_INLINE void moments(const Unaries &u, const std::int32_t *labels, std::size_t pooled, float *energy,
                             float *slope, float *curve, std::size_t begin, std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        const auto plane = [&](std::size_t n) { return u.plane(labels[n]) + first; };
        float shift[block], sum[block] = {}, squares[block] = {}, cubes[block] = {}, value[block], square[block];
        find_shift<Probabilities>(plane, pooled, count, shift);
        for (std::size_t n = 0; n < pooled; ++n) {
            likelihoods<Probabilities>(plane(n), u.floor, shift, count, value);
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

// The pool's logit at one point, all its labels side by side.
template <bool Probabilities>
DENSECRF_INLINE float logit_at(const Unaries &u, const PooledLabels &pool, std::size_t i, float message) {
    const float energy = pool.energy[i], whole = Probabilities ? exp_of(energy) : 1.0f;
    float sum = 0;
    for (std::size_t start = 0; start < pool.count; start += block) {
        const std::size_t some = std::min(block, pool.count - start);
        float share[block];
        for (std::size_t l = 0; l < some; ++l) share[l] = u.plane(pool.labels[start + l])[i];
        for (std::size_t l = 0; l < some; ++l)
            share[l] = Probabilities ? std::max(share[l], u.floor) * whole : exp_of_negative(energy - share[l]);
        for (std::size_t l = 0; l < some; ++l) share[l] *= exp_of_negative(message * (share[l] - 1));
        for (std::size_t l = 0; l < some; ++l) sum += share[l];
    }
    return message + log_of_positive(sum) - energy;
}

// The same at a block of points, label by label.
template <bool Probabilities>
DENSECRF_INLINE void logits_at(const Unaries &u, const PooledLabels &pool, std::size_t first, std::size_t count,
                               const float *message, float *logit) {
    const float *energy = pool.energy + first;
    float sum[block] = {}, share[block], whole[block];
    for (std::size_t i = 0; i < count; ++i) whole[i] = exp_of(energy[i]);
    for (std::size_t l = 0; l < pool.count; ++l) {
        likelihoods<Probabilities>(u.plane(pool.labels[l]) + first, u.floor, energy, count, share);
        for (std::size_t i = 0; i < count && Probabilities; ++i) share[i] *= whole[i];
        for (std::size_t i = 0; i < count; ++i) sum[i] += share[i] * exp_of_negative(message[i] * (share[i] - 1));
    }
    for (std::size_t i = 0; i < count; ++i) logit[i] = message[i] + log_of_positive(sum[i]) - energy[i];
}

template <bool Probabilities>
DENSECRF_INLINE void logits(const Unaries &u, const PooledLabels &pool, const std::int32_t *ids, float *messages,
                            std::size_t begin, std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        float *message = messages + (first - begin), logit[block];
        const auto id = [&](std::size_t n) { return ids ? std::size_t(ids[first + n]) : first + n; };
        std::size_t large = 0;
        for (std::size_t n = 0; n < count; ++n) large += message[n] >= small;
        if (!ids && large > count / 8) {
            logits_at<Probabilities>(u, pool, first, count, message, logit);
        } else {
            for (std::size_t n = 0; n < count; ++n)
                logit[n] = message[n] * (pool.slope[id(n)] + 0.5f * message[n] * pool.curve[id(n)]) - pool.energy[id(n)];
            for (std::size_t n = 0; n < count && large; ++n)
                if (message[n] >= small) logit[n] = logit_at<Probabilities>(u, pool, id(n), message[n]);
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
            likelihoods<Probabilities>(u.plane(pool.labels[l]) + first, u.floor, energy, count, share);
            for (std::size_t i = 0; i < count; ++i) share[i] *= whole[i];
            for (std::size_t i = 0; i < count; ++i) value[i] = all[i] * share[i];
            for (std::size_t i = 0; i < count; ++i) value[i] *= exp_of(message[first + i] * share[i] - logit[i]);
            std::copy_n(value, count, out + pool.labels[l] * u.points + first);
        }
    }
}

}  // namespace

DENSECRF_CLONES bool scan_unaries(const Unaries &u, float *norm, float *top, std::size_t begin, std::size_t end) {
    return u.are_probabilities() ? scan<true>(u, norm, top, begin, end) : scan<false>(u, norm, top, begin, end);
}

DENSECRF_CLONES void energies_of(const Unaries &u, std::size_t label, float *out, std::size_t begin, std::size_t end) {
    const float *plane = u.plane(label) + begin;
    if (u.are_probabilities())
        for (std::size_t i = 0; i < end - begin; ++i) out[i] = -log_of_positive(std::max(plane[i], u.floor));
    else
        std::copy_n(plane, end - begin, out);
}

DENSECRF_CLONES void start_lane(const float *energy, const float *norm, float *out, std::size_t stride,
                                std::size_t begin, std::size_t end) {
    DENSECRF_EACH_BLOCK(first, count, begin, end) {
        float value[block];
        for (std::size_t i = 0; i < count; ++i) value[i] = exp_of_negative(-energy[first + i] - norm[first + i]);
        for (std::size_t i = 0; i < count; ++i) out[(first + i) * stride] = value[i];
    }
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
