// SPDX-License-Identifier: MIT
#include "rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "exponential.hpp"

namespace densecrf {
namespace {

// L floats that are kept in registers: left to itself, a compiler may turn the loops below inside out.
#if defined(__GNUC__)
template <int L>
struct Lanes {
    typedef float type __attribute__((vector_size(L * sizeof(float))));
};
#else
template <int L>
struct Lanes {
    struct type {
        float lane[L] = {};
        type &operator+=(const type &other) {
            for (int k = 0; k < L; ++k) lane[k] += other.lane[k];
            return *this;
        }
        friend type operator+(type a, const type &b) { return a += b; }
        friend type operator*(const type &a, const type &b) {
            type product;
            for (int k = 0; k < L; ++k) product.lane[k] = a.lane[k] * b.lane[k];
            return product;
        }
        friend type operator*(float factor, type a) {
            for (int k = 0; k < L; ++k) a.lane[k] *= factor;
            return a;
        }
    };
};
#endif

template <int L>
DENSECRF_INLINE typename Lanes<L>::type load(const float *row) {
    typename Lanes<L>::type lanes;
    std::memcpy(&lanes, row, sizeof lanes);
    return lanes;
}

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
        std::memcpy(rows + (v + 1) * L, &sum, sizeof sum);
    }
}

template <int L>
DENSECRF_INLINE void blur_lanes(const float *rows, const std::int32_t *pairs, float *blurred, std::size_t begin,
                                std::size_t end) {
    if constexpr (L == 1) return blur_one(rows, pairs, blurred, begin, end);
    for (std::size_t v = begin; v < end; ++v) {
        const auto lower = load<L>(rows + std::size_t(pairs[2 * v]) * L);
        const auto upper = load<L>(rows + std::size_t(pairs[2 * v + 1]) * L);
        const typename Lanes<L>::type out = load<L>(rows + (v + 1) * L) + 0.5f * (lower + upper);
        std::memcpy(blurred + (v + 1) * L, &out, sizeof out);
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
        sum = load<L>(row) + pull * sum;
        std::memcpy(row, &sum, sizeof sum);
    }
}

template <int L>
DENSECRF_INLINE void load_lanes(const float *const *planes, float *out, std::size_t begin, std::size_t end) {
    for (int k = 0; k < L; ++k) {
        if (planes[k])
            for (std::size_t i = begin; i < end; ++i) out[(i - begin) * L + k] = -planes[k][i];
        else
            for (std::size_t i = begin; i < end; ++i) out[(i - begin) * L + k] = 0;
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

DENSECRF_CLONES void load_logits(int lanes, const float *const *planes, float *out, std::size_t begin,
                                 std::size_t end) {
#define CALL(L) load_lanes<L>(planes, out, begin, end)
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
