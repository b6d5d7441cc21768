// SPDX-License-Identifier: MIT
#include "planes.hpp"

#include <cmath>

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
        for (std::size_t i = 0; i < count; ++i) norm[first + i] = std::log(sum[i]) - least[i];
        for (std::size_t k = 0; k < labels; ++k) {
            const float *plane = energies + k * points + first;
            float highest = -1e30f;  // of the exponent; the exponential is monotone
            for (std::size_t i = 0; i < count; ++i) highest = std::max(highest, -plane[i] - norm[first + i]);
            top[k] = std::max(top[k], exp_of_negative(highest));
        }
    }
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
                                  std::size_t pooled, float *start, float *slope, float *curve, std::size_t begin,
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
            for (std::size_t i = 0; i < count; ++i) {
                const float power = exp_of_negative(least[i] - plane[i]);
                sum[i] += power;
                squares[i] += power * power;
                cubes[i] += power * power * power;
            }
        }
        for (std::size_t i = 0; i < count; ++i) {
            start[first + i] = std::log(sum[i]) - least[i];
            slope[first + i] = squares[i] / (sum[i] * sum[i]);
            curve[first + i] = cubes[i] / (sum[i] * sum[i] * sum[i]) - slope[first + i] * slope[first + i];
        }
    }
}

DENSECRF_CLONES void spread_pool(const float *plane, const float *start, const float *message, const float *whole,
                                 const float *together, std::size_t stride, float *plane_out, std::size_t begin,
                                 std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
        const float share = exp_of_negative(-plane[i] - start[i]);
        plane_out[i] = together[i * stride] * exp_of_negative(-plane[i] + message[i] * share - whole[i - begin]);
    }
}

}  // namespace densecrf
