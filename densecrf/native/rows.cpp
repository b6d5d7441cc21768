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

// One lane alone: here the compiler does well to take several touches, vertices or points at a time.
template <class T>
DENSECRF_INLINE void splat_one(const std::int32_t *first, const T *touches, const float *values, float *rows,
                               std::size_t begin, std::size_t end) {
    for (std::size_t v = begin; v < end; ++v) {
        float sum = 0;
        for (std::int32_t t = first[v]; t < first[v + 1]; ++t) sum += touches[t].weight() * values[touches[t].number()];
        rows[v + 1] = sum;
    }
}

DENSECRF_INLINE void blur_one(const float *rows, const std::int32_t *pairs, float *blurred, std::size_t begin,
                              std::size_t end) {
    for (std::size_t v = begin; v < end; ++v)
        blurred[v + 1] = rows[v + 1] + 0.5f * (rows[pairs[2 * v]] + rows[pairs[2 * v + 1]]);
}

template <class T>
DENSECRF_INLINE void slice_one(int corners, const T *ties, const std::int32_t *ids, const float *rows,
                               const float *strength, float *out, std::size_t begin, std::size_t end) {
    for (std::size_t n = begin; n < end; ++n) {
        const T *tie = ties + (ids ? std::size_t(ids[n]) : n) * corners;
        float sum = 0;
        for (int c = 0; c < corners; ++c) sum += tie[c].weight() * rows[tie[c].number()];
        out[n - begin] += *strength * sum;
    }
}

template <int L, class T>
DENSECRF_INLINE void splat_lanes(const std::int32_t *first, const T *touches, const float *values, float *rows,
                                 std::size_t begin, std::size_t end) {
    if constexpr (L == 1) return splat_one(first, touches, values, rows, begin, end);
    for (std::size_t v = begin; v < end; ++v) {
        typename Lanes<L>::type sum{};
        for (std::int32_t t = first[v]; t < first[v + 1]; ++t)
            sum += touches[t].weight() * load<L>(values + std::size_t(touches[t].number()) * L);
        store<L>(sum, rows + (v + 1) * L);
    }
}

template <int L>
DENSECRF_INLINE void blur_lanes(const float *rows, const std::int32_t *pairs, float *blurred, std::size_t begin,
                                std::size_t end) {
    if constexpr (L == 1) return blur_one(rows, pairs, blurred, begin, end);
    for (std::size_t v = begin; v < end; ++v) {
        const auto lower = load<L>(rows + std::size_t(pairs[2 * v]) * L);
        const auto upper = load<L>(rows + std::size_t(pairs[2 * v + 1]) * L);
        store<L>(load<L>(rows + (v + 1) * L) + 0.5f * (lower + upper), blurred + (v + 1) * L);
    }
}

template <int L, class T>
DENSECRF_INLINE void slice_lanes(int corners, const T *ties, const std::int32_t *ids, const float *rows,
                                 const float *strength, float *out, std::size_t begin, std::size_t end) {
    if constexpr (L == 1) return slice_one(corners, ties, ids, rows, strength, out, begin, end);
    const auto pull = load<L>(strength);
    for (std::size_t n = begin; n < end; ++n) {
        const T *tie = ties + (ids ? std::size_t(ids[n]) : n) * corners;
        typename Lanes<L>::type sum{};
        for (int c = 0; c < corners; ++c) sum += tie[c].weight() * load<L>(rows + std::size_t(tie[c].number()) * L);
        float *row = out + (n - begin) * L;
        store<L>(load<L>(row) + pull * sum, row);
    }
}

template <int L>
DENSECRF_INLINE void load_lanes(const float *const *planes, const float *least, float *out, std::size_t begin,
                                std::size_t end) {
    for (int k = 0; k < L; ++k) {
        if (!planes[k])
            for (std::size_t i = begin; i < end; ++i) out[(i - begin) * L + k] = 0;
        else if (least)
            for (std::size_t i = begin; i < end; ++i) out[(i - begin) * L + k] = -above_least(planes[k][i], least[i]);
        else
            for (std::size_t i = begin; i < end; ++i) out[(i - begin) * L + k] = -planes[k][i];
    }
}

template <int L>
DENSECRF_INLINE void softmax_lanes(int groups, int labels, std::size_t stride, float *rows, float *top,
                                   std::size_t begin, std::size_t end) {
    using Row = typename Lanes<L>::type;
    float present[L], offset[L];  // lanes at the end of the last group may belong to no label
    for (int k = 0; k < L; ++k) {
        present[k] = (groups - 1) * L + k < labels ? 1.0f : 0.0f;
        offset[k] = present[k] > 0 ? 0.0f : -1e30f;
    }
    const Row is_there = load<L>(present), sunk = load<L>(offset);
    for (std::size_t i = begin; i < end; ++i) {
        float *last = rows + (groups - 1) * stride + i * L;
        const Row row = load<L>(last) + sunk;
        Row highest = top_of<L>(row);
        for (int g = 0; g + 1 < groups; ++g) highest = larger<L>(highest, top_of<L>(load<L>(rows + g * stride + i * L)));
        Row power = exp_of_negative<L>(row - highest) * is_there, total = sum_of<L>(power);
        for (int g = 0; g + 1 < groups; ++g) {
            float *other = rows + g * stride + i * L;
            const Row powers = exp_of_negative<L>(load<L>(other) - highest);
            store<L>(powers, other);
            total = total + sum_of<L>(powers);
        }
        power = power / total;
        store<L>(power, last);
        store<L>(larger<L>(load<L>(top + (groups - 1) * L), power), top + (groups - 1) * L);
        for (int g = 0; g + 1 < groups; ++g) {
            float *other = rows + g * stride + i * L;
            const Row probability = load<L>(other) / total;
            store<L>(probability, other);
            store<L>(larger<L>(load<L>(top + g * L), probability), top + g * L);
        }
    }
}

}  // namespace

// A switch with one call for each number of lanes that rows come in.
#define DENSECRF_FOR_LANES(call)      \
    switch (lanes) {                  \
        case 1: call(1); break;       \
        case 4: call(4); break;       \
        default: call(8); break;      \
    }

#define CALL(L) splat_lanes<L>(first, touches, values, rows, begin, end)
DENSECRF_CLONES void splat(int lanes, const std::int32_t *first, const Tie *touches, const float *values, float *rows,
                           std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(CALL)
}

DENSECRF_CLONES void splat(int lanes, const std::int32_t *first, const ShortTie *touches, const float *values,
                           float *rows, std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(CALL)
}
#undef CALL

DENSECRF_CLONES void blur(int lanes, const float *rows, const std::int32_t *pairs, float *blurred, std::size_t begin,
                          std::size_t end) {
#define CALL(L) blur_lanes<L>(rows, pairs, blurred, begin, end)
    DENSECRF_FOR_LANES(CALL)
#undef CALL
}

#define CALL(L) slice_lanes<L>(corners, ties, ids, rows, strength, out, begin, end)
DENSECRF_CLONES void slice_add(int lanes, int corners, const Tie *ties, const std::int32_t *ids, const float *rows,
                               const float *strength, float *out, std::size_t begin, std::size_t end) {
    DENSECRF_FOR_LANES(CALL)
}

DENSECRF_CLONES void slice_add(int lanes, int corners, const ShortTie *ties, const std::int32_t *ids,
                               const float *rows, const float *strength, float *out, std::size_t begin,
                               std::size_t end) {
    DENSECRF_FOR_LANES(CALL)
}
#undef CALL

DENSECRF_CLONES void softmax(int lanes, int groups, int labels, std::size_t stride, float *rows, float *top,
                             std::size_t begin, std::size_t end) {
#define CALL(L) softmax_lanes<L>(groups, labels, stride, rows, top, begin, end)
    DENSECRF_FOR_LANES(CALL)
#undef CALL
}

DENSECRF_CLONES void load_logits(int lanes, const float *const *planes, const float *least, float *out,
                                 std::size_t begin, std::size_t end) {
#define CALL(L) load_lanes<L>(planes, least, out, begin, end)
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
