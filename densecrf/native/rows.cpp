// SPDX-License-Identifier: MIT
#include "rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "exponential.hpp"

namespace densecrf {
namespace {

template <int L>
DENSECRF_INLINE void splat_lanes(const std::int32_t *first, const Touch *touches, const float *before,
                                 const float *values, float *rows, std::size_t begin, std::size_t end) {
    for (std::size_t v = begin; v < end; ++v) {
        float sum[L] = {};
        for (std::int32_t t = first[v]; t < first[v + 1]; ++t) {
            const std::size_t point = touches[t].point;
            const float w = before ? touches[t].weight * before[point] : touches[t].weight;
            const float *value = values + point * L;
            for (int k = 0; k < L; ++k) sum[k] += w * value[k];
        }
        std::memcpy(rows + (v + 1) * L, sum, sizeof sum);
    }
}

template <int L>
DENSECRF_INLINE void blur_lanes(const float *rows, const std::int32_t *pairs, float *blurred, std::size_t begin,
                                std::size_t end) {
    for (std::size_t v = begin; v < end; ++v) {
        const float *own = rows + (v + 1) * L;
        const float *lower = rows + std::size_t(pairs[2 * v]) * L;
        const float *upper = rows + std::size_t(pairs[2 * v + 1]) * L;
        float *out = blurred + (v + 1) * L;
        for (int k = 0; k < L; ++k) out[k] = own[k] + 0.5f * (lower[k] + upper[k]);
    }
}

template <int L>
DENSECRF_INLINE void slice_lanes(int corners, const std::int32_t *vertex, const float *weight, const float *rows,
                                 const float *after, const float *strength, float *out, std::size_t begin,
                                 std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
        float sum[L] = {};
        for (int c = 0; c < corners; ++c) {
            const float w = weight[i * corners + c];
            const float *row = rows + std::size_t(vertex[i * corners + c]) * L;
            for (int k = 0; k < L; ++k) sum[k] += w * row[k];
        }
        const float scale = after ? after[i] : 1.0f;
        for (int k = 0; k < L; ++k) out[i * L + k] += scale * strength[k] * sum[k];
    }
}

// Folding halves keeps the order of additions fixed, whatever the width of the registers.
template <int L>
DENSECRF_INLINE float sum_of(const float *row) {
    float part[L];
    std::memcpy(part, row, sizeof part);
    for (int half = L / 2; half > 0; half /= 2)
        for (int k = 0; k < half; ++k) part[k] += part[k + half];
    return part[0];
}

template <int L>
DENSECRF_INLINE float top_of(const float *row) {
    float part[L];
    std::memcpy(part, row, sizeof part);
    for (int half = L / 2; half > 0; half /= 2)
        for (int k = 0; k < half; ++k) part[k] = std::max(part[k], part[k + half]);
    return part[0];
}

template <int L>
DENSECRF_INLINE void softmax_lanes(int groups, int labels, std::size_t stride, float *rows, float *top,
                                   std::size_t begin, std::size_t end) {
    float present[L], offset[L];  // lanes at the end of the last group may belong to no label
    for (int k = 0; k < L; ++k) {
        present[k] = (groups - 1) * L + k < labels ? 1.0f : 0.0f;
        offset[k] = present[k] > 0 ? 0.0f : -1e30f;
    }
    for (std::size_t i = begin; i < end; ++i) {
        float *last = rows + (groups - 1) * stride + i * L;
        float row[L], power[L];
        for (int k = 0; k < L; ++k) row[k] = last[k] + offset[k];
        float highest = top_of<L>(row);
        for (int g = 0; g + 1 < groups; ++g) highest = std::max(highest, top_of<L>(rows + g * stride + i * L));
        for (int k = 0; k < L; ++k) power[k] = exp_of_negative(row[k] - highest) * present[k];
        float total = sum_of<L>(power);
        for (int g = 0; g + 1 < groups; ++g) {
            float *other = rows + g * stride + i * L;
            float powers[L];
            for (int k = 0; k < L; ++k) powers[k] = exp_of_negative(other[k] - highest);
            std::memcpy(other, powers, sizeof powers);
            total += sum_of<L>(powers);
        }
        const float scale = 1.0f / total;
        float *most = top + (groups - 1) * L;
        for (int k = 0; k < L; ++k) power[k] *= scale;
        for (int k = 0; k < L; ++k) most[k] = std::max(most[k], power[k]);
        std::memcpy(last, power, sizeof power);
        for (int g = 0; g + 1 < groups; ++g) {
            float *other = rows + g * stride + i * L;
            for (int k = 0; k < L; ++k) other[k] *= scale;
            for (int k = 0; k < L; ++k) top[g * L + k] = std::max(top[g * L + k], other[k]);
        }
    }
}

}  // namespace

// A switch with one call for each number of lanes that rows come in.
#define DENSECRF_FOR_LANES(call)      \
    switch (lanes) {                  \
        case 1: call(1); break;       \
        case 4: call(4); break;       \
        case 8: call(8); break;       \
        default: call(16); break;     \
    }

DENSECRF_CLONES void splat(int lanes, const std::int32_t *first, const Touch *touches, const float *before,
                           const float *values, float *rows, std::size_t begin, std::size_t end) {
#define CALL(L) splat_lanes<L>(first, touches, before, values, rows, begin, end)
    DENSECRF_FOR_LANES(CALL)
#undef CALL
}

DENSECRF_CLONES void blur(int lanes, const float *rows, const std::int32_t *pairs, float *blurred, std::size_t begin,
                          std::size_t end) {
#define CALL(L) blur_lanes<L>(rows, pairs, blurred, begin, end)
    DENSECRF_FOR_LANES(CALL)
#undef CALL
}

DENSECRF_CLONES void slice_add(int lanes, int corners, const std::int32_t *vertex, const float *weight,
                               const float *rows, const float *after, const float *strength, float *out,
                               std::size_t begin, std::size_t end) {
#define CALL(L) slice_lanes<L>(corners, vertex, weight, rows, after, strength, out, begin, end)
    DENSECRF_FOR_LANES(CALL)
#undef CALL
}

DENSECRF_CLONES void softmax(int lanes, int groups, int labels, std::size_t stride, float *rows, float *top,
                             std::size_t begin, std::size_t end) {
#define CALL(L) softmax_lanes<L>(groups, labels, stride, rows, top, begin, end)
    DENSECRF_FOR_LANES(CALL)
#undef CALL
}

DENSECRF_CLONES void sigmoid(float *first, const float *second, std::size_t count, float *high, float *low) {
    for (std::size_t i = 0; i < count; ++i) {
        const float behind = second[i] - first[i];
        const float smaller = exp_of_negative(-std::fabs(behind));  // of the two, next to one
        first[i] = (behind > 0 ? smaller : 1.0f) / (1.0f + smaller);
    }
    for (std::size_t i = 0; i < count; ++i) {
        *high = std::max(*high, first[i]);
        *low = std::min(*low, first[i]);
    }
}

}  // namespace densecrf
