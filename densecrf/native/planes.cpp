// SPDX-License-Identifier: MIT
#include "planes.hpp"

#include <limits>

#include "exponential.hpp"

namespace densecrf {
namespace {

constexpr std::size_t block = 256;  // pixels whose sums fit into the nearest cache

}  // namespace

DENSECRF_CLONES void scan_planes(const float *energies, std::size_t labels, std::size_t points, float *norm, float *top,
                                 std::size_t begin, std::size_t end) {
    for (std::size_t first = begin; first < end; first += block) {
        const std::size_t count = std::min(block, end - first);
        float least[block], sum[block] = {};
        std::copy_n(energies + first, count, least);
        for (std::size_t k = 1; k < labels; ++k) {
            const float *plane = energies + k * points + first;
            for (std::size_t i = 0; i < count; ++i) least[i] = std::min(least[i], plane[i]);
        }
        for (std::size_t k = 0; k < labels; ++k) {
            const float *plane = energies + k * points + first;
            for (std::size_t i = 0; i < count; ++i) sum[i] += exp_of_negative(least[i] - plane[i]);
        }
        for (std::size_t i = 0; i < count; ++i) norm[first + i] = log_of_positive(sum[i]) - least[i];
        for (std::size_t k = 0; k < labels; ++k) {
            const float *plane = energies + k * points + first;
            float highest = -1e30f;  // of the exponent; the exponential is monotone
            for (std::size_t i = 0; i < count; ++i) highest = std::max(highest, -plane[i] - norm[first + i]);
            top[k] = std::max(top[k], exp_of_negative(highest));
        }
    }
}

DENSECRF_CLONES bool energies_of(const float *probabilities, float floor, float *energies, std::size_t begin,
                                 std::size_t end) {
    float least = 0, most = 0;
    std::int32_t unordered = 0;  // NaN compares with nothing
    for (std::size_t i = begin; i < end; ++i) {
        const float p = probabilities[i];
        least = std::min(least, p);
        most = std::max(most, p);
        unordered |= p != p;
        energies[i] = -log_of_positive(std::max(p, floor));
    }
    return least >= 0 && most <= std::numeric_limits<float>::max() && !unordered;
}

DENSECRF_CLONES void add_probabilities(const float *plane, const float *norm, float *out, std::size_t stride,
                                       std::size_t begin, std::size_t end) {
    for (std::size_t first = begin; first < end; first += block) {
        const std::size_t count = std::min(block, end - first);
        float power[block];
        for (std::size_t i = 0; i < count; ++i) power[i] = exp_of_negative(-plane[first + i] - norm[first + i]);
        for (std::size_t i = 0; i < count; ++i) out[(first + i) * stride] += power[i];
    }
}

DENSECRF_CLONES void pool_moments(const float *energies, std::size_t points, const std::int32_t *labels,
                                  std::size_t pooled, float *energy, float *slope, float *curve, std::size_t begin,
                                  std::size_t end) {
    for (std::size_t first = begin; first < end; first += block) {
        const std::size_t count = std::min(block, end - first);
        float least[block], sum[block] = {}, squares[block] = {}, cubes[block] = {};
        std::copy_n(energies + labels[0] * points + first, count, least);
        for (std::size_t n = 1; n < pooled; ++n) {
            const float *plane = energies + labels[n] * points + first;
            for (std::size_t i = 0; i < count; ++i) least[i] = std::min(least[i], plane[i]);
        }
        for (std::size_t n = 0; n < pooled; ++n) {
            const float *plane = energies + labels[n] * points + first;
            float power[block], square[block];
            for (std::size_t i = 0; i < count; ++i) power[i] = exp_of_negative(least[i] - plane[i]);
            for (std::size_t i = 0; i < count; ++i) square[i] = power[i] * power[i];
            for (std::size_t i = 0; i < count; ++i) sum[i] += power[i];
            for (std::size_t i = 0; i < count; ++i) squares[i] += square[i];
            for (std::size_t i = 0; i < count; ++i) cubes[i] += square[i] * power[i];
        }
        for (std::size_t i = 0; i < count; ++i) least[i] -= log_of_positive(sum[i]);
        for (std::size_t i = 0; i < count; ++i) {
            const float scale = 1 / sum[i];
            squares[i] *= scale * scale;
            cubes[i] = cubes[i] * scale * scale * scale - squares[i] * squares[i];
        }
        std::copy_n(least, count, energy + first);
        std::copy_n(squares, count, slope + first);
        std::copy_n(cubes, count, curve + first);
    }
}

namespace {

constexpr float small = 0.25f;  // message below which the third-order term is under 3e-4 of some hundredths

DENSECRF_INLINE float series(const PoolMoments &m, std::size_t i, float message) {
    return message * (m.slope[i] + 0.5f * message * m.curve[i]) - m.energy[i];
}

// The sum itself at one point, all its labels side by side.
DENSECRF_INLINE float whole(const float *energies, std::size_t points, const std::int32_t *labels, std::size_t count,
                            float energy, std::size_t i, float message) {
    float sum = 0;
    for (std::size_t start = 0; start < count; start += block) {
        const std::size_t some = std::min(block, count - start);
        float share[block];
        for (std::size_t l = 0; l < some; ++l) share[l] = energy - energies[labels[start + l] * points + i];
        for (std::size_t l = 0; l < some; ++l) share[l] = exp_of_negative(share[l]);
        for (std::size_t l = 0; l < some; ++l) share[l] *= exp_of_negative(message * (share[l] - 1));
        for (std::size_t l = 0; l < some; ++l) sum += share[l];
    }
    return message + log_of_positive(sum) - energy;
}

}  // namespace

DENSECRF_CLONES void pool_logits(const float *energies, std::size_t points, const std::int32_t *labels,
                                 std::size_t count, const PoolMoments &m, const std::int32_t *ids, float *messages,
                                 std::size_t begin, std::size_t end) {
    for (std::size_t first = begin; first < end; first += block) {
        const std::size_t rows = std::min(block, end - first);
        float *message = messages + (first - begin), logit[block];
        std::size_t large = 0;
        for (std::size_t n = 0; n < rows; ++n) large += message[n] >= small;
        if (ids || large <= rows / 8) {
            for (std::size_t n = 0; n < rows; ++n) logit[n] = series(m, ids ? ids[first + n] : first + n, message[n]);
            for (std::size_t n = 0; n < rows && large; ++n) {
                const std::size_t i = ids ? ids[first + n] : first + n;
                if (message[n] >= small) logit[n] = whole(energies, points, labels, count, m.energy[i], i, message[n]);
            }
        } else {  // at all points, label by label
            float sum[block] = {};
            for (std::size_t l = 0; l < count; ++l) {
                const float *plane = energies + labels[l] * points + first;
                for (std::size_t n = 0; n < rows; ++n) {
                    const float share = exp_of_negative(m.energy[first + n] - plane[n]);
                    sum[n] += share * exp_of_negative(message[n] * (share - 1));
                }
            }
            for (std::size_t n = 0; n < rows; ++n) logit[n] = message[n] + log_of_positive(sum[n]) - m.energy[first + n];
        }
        std::copy_n(logit, rows, message);
    }
}

DENSECRF_CLONES void spread_pool(const float *plane, const float *energy, const float *message, const float *whole,
                                 const float *together, std::size_t stride, float *plane_out, std::size_t begin,
                                 std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
        const float share = exp_of_negative(energy[i] - plane[i]);
        plane_out[i] = together[i * stride] * exp_of_negative(-plane[i] + message[i] * share - whole[i - begin]);
    }
}

}  // namespace densecrf
