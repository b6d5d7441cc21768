// The inner loops on rows of lanes; see rows.hpp.
// SPDX-License-Identifier: MIT
#include "rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "exponential.hpp"
#include "lanes.hpp"
#include "unaries.hpp"

namespace densecrf {
namespace {

// Splat, blur and slice of a single lane. Here the compiler vectorises over weights, vertices or points.
template <class T>
DENSECRF_INLINE void splat_one(const std::int32_t *offsets, const T *weights, const float *values,
                               float *rows, std::size_t begin, std::size_t end) {
    for (std::size_t v = begin; v < end; ++v) {
        float sum = 0;
        for (std::int32_t n = offsets[v]; n < offsets[v + 1]; ++n)
            sum += weights[n].weight() * values[weights[n].index()];
        rows[v + 1] = sum;
    }
}

DENSECRF_INLINE void blur_one(const float *rows, const std::int32_t *neighbours, float *blurred,
                              std::size_t begin, std::size_t end) {
    for (std::size_t v = begin; v < end; ++v)
        blurred[v + 1] = rows[v + 1] + 0.5f * (rows[neighbours[2 * v]] + rows[neighbours[2 * v + 1]]);
}

// C: the number of corners where it is known when compiled, else 0.
template <int C, class T>
DENSECRF_INLINE void slice_one(int corner_count, const T *weights, const std::int32_t *ids, const float *rows,
                               const float *strength, const float *base, float *out, std::size_t begin,
                               std::size_t end) {
    const int corners = C ? C : corner_count;
    for (std::size_t n = begin; n < end; ++n) {
        const T *entry = weights + (ids ? std::size_t(ids[n]) : n) * corners;
        float sum = 0;
        for (int c = 0; c < corners; ++c) sum += entry[c].weight() * rows[entry[c].index()];
        out[n - begin] = base[n - begin] + *strength * sum;
    }
}

// The same for L lanes, with one SIMD vector for each row.
template <int L, class T>
DENSECRF_INLINE void splat_lanes(const std::int32_t *offsets, const T *weights, const float *values,
                                 float *rows, std::size_t begin, std::size_t end) {
    if constexpr (L == 1) return splat_one(offsets, weights, values, rows, begin, end);
    for (std::size_t v = begin; v < end; ++v) {
        typename Lanes<L>::type sum{};
        for (std::int32_t n = offsets[v]; n < offsets[v + 1]; ++n)
            sum += weights[n].weight() * load<L>(values + std::size_t(weights[n].index()) * L);
        store<L>(sum, rows + (v + 1) * L);
    }
}

template <int L>
DENSECRF_INLINE void blur_lanes(const float *rows, const std::int32_t *neighbours, float *blurred,
                                std::size_t begin, std::size_t end) {
    if constexpr (L == 1) return blur_one(rows, neighbours, blurred, begin, end);
    for (std::size_t v = begin; v < end; ++v) {
        const auto up = load<L>(rows + std::size_t(neighbours[2 * v]) * L);
        const auto down = load<L>(rows + std::size_t(neighbours[2 * v + 1]) * L);
        store<L>(load<L>(rows + (v + 1) * L) + 0.5f * (up + down), blurred + (v + 1) * L);
    }
}

template <int L, int C, class T>
DENSECRF_INLINE void splat_points(int corner_count, const T *weights, const std::int32_t *ids, float factor,
                                  const float *scale, const float *values, float *rows, std::size_t begin,
                                  std::size_t end) {
    const int corners = C ? C : corner_count;
    for (std::size_t n = begin; n < end; ++n) {
        const std::size_t point = ids ? std::size_t(ids[n]) : n;
        const T *entry = weights + point * corners;
        const float times = scale ? factor * scale[point] : factor;
        if constexpr (L == 1) {
            const float value = times * values[n - begin];
            for (int c = 0; c < corners; ++c) rows[entry[c].index()] += entry[c].weight() * value;
        } else {
            const auto value = times * load<L>(values + (n - begin) * L);
            for (int c = 0; c < corners; ++c) {
                float *row = rows + std::size_t(entry[c].index()) * L;
                store<L>(load<L>(row) + entry[c].weight() * value, row);
            }
        }
    }
}

template <int L, int C, class T>
DENSECRF_INLINE void slice_lanes(int corner_count, const T *weights, const std::int32_t *ids,
                                 const float *rows, const float *strength, const float *base, float *out,
                                 std::size_t begin, std::size_t end) {
    if constexpr (L == 1)
        return slice_one<C>(corner_count, weights, ids, rows, strength, base, out, begin, end);
    const int corners = C ? C : corner_count;
    const auto factor = load<L>(strength);
    for (std::size_t n = begin; n < end; ++n) {
        const T *entry = weights + (ids ? std::size_t(ids[n]) : n) * corners;
        typename Lanes<L>::type sum{};
        for (int c = 0; c < corners; ++c)
            sum += entry[c].weight() * load<L>(rows + std::size_t(entry[c].index()) * L);
        store<L>(load<L>(base + (n - begin) * L) + factor * sum, out + (n - begin) * L);
    }
}

// One value of load_logits(), whose plane is not null.
DENSECRF_INLINE float logit_at(const float *plane, const float *min_energy, std::size_t i) {
    return -(min_energy ? relative_energy(plane[i], min_energy[i]) : plane[i]);
}

template <int L>
DENSECRF_INLINE void load_lanes(const float *const *planes, const float *min_energy, float *out,
                                std::size_t begin, std::size_t end) {
    std::size_t first = begin;
    if constexpr (L == 8) {  // squares of 8 x 8
        for (; first + 8 <= end; first += 8) {
            float values[8][8];
            Lanes<8>::type square[8];
            for (int k = 0; k < 8; ++k)
                for (int i = 0; i < 8; ++i)
                    values[k][i] = planes[k] ? logit_at(planes[k], min_energy, first + i) : 0.0f;
            for (int k = 0; k < 8; ++k) square[k] = load<8>(values[k]);
            transpose(square);
            for (int i = 0; i < 8; ++i) store<8>(square[i], out + (first - begin + i) * 8);
        }
    }
    for (std::size_t i = first; i < end; ++i)
        for (int k = 0; k < L; ++k)
            out[(i - begin) * L + k] = planes[k] ? logit_at(planes[k], min_energy, i) : 0.0f;
}

template <int L>
DENSECRF_INLINE void softmax_lanes(int groups, int labels, std::size_t stride, float *rows,
                                   float *max_probability, std::size_t begin, std::size_t end) {
    using Row = typename Lanes<L>::type;
    float used[L], offset[L];  // the last lanes of the last group may belong to no label
    for (int k = 0; k < L; ++k) {
        used[k] = (groups - 1) * L + k < labels ? 1.0f : 0.0f;
        offset[k] = used[k] > 0 ? 0.0f : -1e30f;
    }
    const Row mask = load<L>(used), unused_offset = load<L>(offset);
    for (std::size_t i = begin; i < end; ++i) {
        float *last = rows + (groups - 1) * stride + i * L;
        const Row row = load<L>(last) + unused_offset;
        Row highest = max_of<L>(row);
        for (int g = 0; g + 1 < groups; ++g)
            highest = larger<L>(highest, max_of<L>(load<L>(rows + g * stride + i * L)));
        Row power = fast_exp_nonpositive<L>(row - highest) * mask, total = sum_of<L>(power);
        for (int g = 0; g + 1 < groups; ++g) {
            float *other = rows + g * stride + i * L;
            const Row powers = fast_exp_nonpositive<L>(load<L>(other) - highest);
            store<L>(powers, other);
            total = total + sum_of<L>(powers);
        }
        power = power / total;
        store<L>(power, last);
        float *last_max = max_probability + (groups - 1) * L;
        store<L>(larger<L>(load<L>(last_max), power), last_max);
        for (int g = 0; g + 1 < groups; ++g) {
            float *other = rows + g * stride + i * L;
            const Row probability = load<L>(other) / total;
            store<L>(probability, other);
            store<L>(larger<L>(load<L>(max_probability + g * L), probability), max_probability + g * L);
        }
    }
}

// softmax_lanes<8>() of a single group, two rows at a time.
DENSECRF_INLINE void softmax_pairs(int labels, float *rows, float *max_probability, std::size_t begin,
                                   std::size_t end) {
    using Rows = typename Lanes<16>::type;
    float used[16], offset[16], highest[16];
    for (int k = 0; k < 16; ++k) {
        used[k] = k % 8 < labels ? 1.0f : 0.0f;
        offset[k] = used[k] > 0 ? 0.0f : -1e30f;
        highest[k] = max_probability[k % 8];
    }
    const Rows mask = load<16>(used), unused_offset = load<16>(offset);
    Rows most = load<16>(highest);
    for (std::size_t i = begin; i + 2 <= end; i += 2) {
        const Rows logits = load<16>(rows + i * 8) + unused_offset;
        const Rows power = fast_exp_nonpositive<16>(logits - max_of<16, 4>(logits)) * mask;
        const Rows probabilities = power / sum_of<16, 4>(power);
        store<16>(probabilities, rows + i * 8);
        most = larger<16>(most, probabilities);
    }
    store<16>(most, highest);
    for (int k = 0; k < 8; ++k) max_probability[k] = std::max(highest[k], highest[k + 8]);
    if ((end - begin) % 2) softmax_lanes<8>(1, labels, 0, rows, max_probability, end - 1, end);
}

}  // namespace

// A switch with one call for each number of lanes that rows have.
#define DENSECRF_FOR_LANES(call) \
    switch (lanes) {             \
        case 1: call(1); break;  \
        case 4: call(4); break;  \
        default: call(8); break; \
    }

#define CALL(L) splat_lanes<L>(offsets, weights, values, rows, begin, end)
DENSECRF_CLONES void splat(int lanes, const std::int32_t *offsets, const SplatWeight *weights,
                           const float *values, float *rows, std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(CALL);
}

DENSECRF_CLONES void splat(int lanes, const std::int32_t *offsets, const CompactSplatWeight *weights,
                           const float *values, float *rows, std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(CALL);
}
#undef CALL

DENSECRF_CLONES void blur(int lanes, const float *rows, const std::int32_t *neighbours, float *blurred,
                          std::size_t begin, std::size_t end) {
#define CALL(L) blur_lanes<L>(rows, neighbours, blurred, begin, end)
    DENSECRF_FOR_LANES(CALL);
#undef CALL
}

// The same for each number of corners that is common: of lattices over positions, or positions with grey
// levels or colors.
#define DENSECRF_FOR_CORNERS(L)     \
    switch (corners) {              \
        case 3: CALL(L, 3); break;  \
        case 4: CALL(L, 4); break;  \
        case 6: CALL(L, 6); break;  \
        default: CALL(L, 0); break; \
    }

#define CALL(L, C) splat_points<L, C>(corners, weights, ids, factor, scale, values, rows, begin, end)
DENSECRF_CLONES void splat_add(int lanes, int corners, const SplatWeight *weights, const std::int32_t *ids,
                               float factor, const float *scale, const float *values, float *rows,
                               std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(DENSECRF_FOR_CORNERS);
}

DENSECRF_CLONES void splat_add(int lanes, int corners, const CompactSplatWeight *weights,
                               const std::int32_t *ids, float factor, const float *scale, const float *values,
                               float *rows, std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(DENSECRF_FOR_CORNERS);
}
#undef CALL

#define CALL(L, C) slice_lanes<L, C>(corners, weights, ids, rows, strength, base, out, begin, end)
DENSECRF_CLONES void slice_add(int lanes, int corners, const SplatWeight *weights, const std::int32_t *ids,
                               const float *rows, const float *strength, const float *base, float *out,
                               std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(DENSECRF_FOR_CORNERS);
}

DENSECRF_CLONES void slice_add(int lanes, int corners, const CompactSplatWeight *weights,
                               const std::int32_t *ids, const float *rows, const float *strength,
                               const float *base, float *out, std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(DENSECRF_FOR_CORNERS);
}
#undef CALL

DENSECRF_CLONES void load_logits(int lanes, const float *const *planes, const float *min_energy, float *out,
                                 std::size_t begin, std::size_t end) {
#define CALL(L) load_lanes<L>(planes, min_energy, out, begin, end)
    DENSECRF_FOR_LANES(CALL);
#undef CALL
}

DENSECRF_CLONES void softmax(int lanes, int groups, int labels, std::size_t stride, float *rows,
                             float *max_probability, std::size_t begin, std::size_t end) {
    if (lanes == 4)
        softmax_lanes<4>(groups, labels, stride, rows, max_probability, begin, end);
    else if (groups == 1)
        softmax_pairs(labels, rows, max_probability, begin, end);
    else
        softmax_lanes<8>(groups, labels, stride, rows, max_probability, begin, end);
}

DENSECRF_CLONES void count_held(int lanes, const float *probabilities, const float *logits,
                                const float *unary_logits, float limit, std::size_t *counts,
                                std::size_t count) {
    std::int32_t over[8] = {};
    if (lanes == 8) {
        for (std::size_t i = 0; i < count; ++i)
            for (int k = 0; k < 8; ++k) {
                const std::size_t n = i * 8 + k;
                over[k] += probabilities[n] * (logits[n] - unary_logits[n]) > limit;
            }
    } else {
        for (std::size_t i = 0; i < count; ++i)
            for (int k = 0; k < lanes; ++k) {
                const std::size_t n = i * lanes + k;
                over[k] += probabilities[n] * (logits[n] - unary_logits[n]) > limit;
            }
    }
    for (int k = 0; k < lanes; ++k) counts[k] += std::size_t(over[k]);
}

DENSECRF_CLONES void sigmoid(float *first, const float *second, std::size_t count, float *high, float *low) {
    for (std::size_t i = 0; i < count; ++i) {
        const float difference = second[i] - first[i];
        // The smaller of the two exponentials, relative to the larger.
        const float smaller = fast_exp_nonpositive(-std::fabs(difference));
        first[i] = (difference > 0 ? smaller : 1.0f) / (1.0f + smaller);
    }
    for (std::size_t i = 0; i < count; ++i) {
        *high = std::max(*high, first[i]);
        *low = std::min(*low, first[i]);
    }
}

}  // namespace densecrf
