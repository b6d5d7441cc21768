// Vectors of L floats, one for each lane of a row, that stay in SIMD registers: with plain loops, a compiler
// may exchange the loop over lanes with the loop around it.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstring>
#include <utility>

#include "exponential.hpp"
#include "simd.hpp"

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector) && __has_builtin(__builtin_convertvector)
#define DENSECRF_HAS_VECTORS 1
#endif
#endif

namespace densecrf {

#if defined(DENSECRF_HAS_VECTORS)

template <int L>
struct Lanes {
    typedef float type __attribute__((vector_size(L * sizeof(float))));
    typedef std::int32_t integers __attribute__((vector_size(L * sizeof(std::int32_t))));
};

template <int L>
DENSECRF_INLINE typename Lanes<L>::type larger(typename Lanes<L>::type a, typename Lanes<L>::type b) {
    return a > b ? a : b;
}

// Exchanges lanes k and k ^ half.
template <int L, int half, std::size_t... k>
DENSECRF_INLINE typename Lanes<L>::type swap_halves(typename Lanes<L>::type a, std::index_sequence<k...>) {
    return __builtin_shufflevector(a, a, int(k ^ half)...);
}

// The sum of all lanes, in every lane. Adding halves keeps the order of additions fixed.
template <int L, int half = L / 2>
DENSECRF_INLINE typename Lanes<L>::type sum_of(typename Lanes<L>::type a) {
    if constexpr (half > 0)
        return sum_of<L, half / 2>(a + swap_halves<L, half>(a, std::make_index_sequence<L>()));
    return a;
}

// The maximum of all lanes, in every lane.
template <int L, int half = L / 2>
DENSECRF_INLINE typename Lanes<L>::type max_of(typename Lanes<L>::type a) {
    if constexpr (half > 0)
        return max_of<L, half / 2>(larger<L>(a, swap_halves<L, half>(a, std::make_index_sequence<L>())));
    return a;
}

// Turns the rows of an 8 x 8 matrix into its columns.
DENSECRF_INLINE void transpose(Lanes<8>::type (&rows)[8]) {
    Lanes<8>::type t[8];
    for (int i = 0; i < 4; ++i) {  // 4 x 4 quarters change places
        t[i] = __builtin_shufflevector(rows[i], rows[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        t[i + 4] = __builtin_shufflevector(rows[i], rows[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = i; j < i + 2; ++j) {
            rows[j] = __builtin_shufflevector(t[j], t[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            rows[j + 2] = __builtin_shufflevector(t[j], t[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 8; i += 2) {
        t[i] = __builtin_shufflevector(rows[i], rows[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        t[i + 1] = __builtin_shufflevector(rows[i], rows[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; ++i) rows[i] = t[i];
}

// fast_exp_nonpositive() in each lane, by the same arithmetic as for a single float.
template <int L>
DENSECRF_INLINE typename Lanes<L>::type fast_exp_nonpositive(typename Lanes<L>::type x) {
    using Row = typename Lanes<L>::type;
    x = x > -87.0f ? x : Row{} - 87.0f;
    x = x < 0.0f ? x : Row{};
    const auto exponent = __builtin_convertvector(x * 1.44269504f - 0.5f, typename Lanes<L>::integers);
    const Row n = __builtin_convertvector(exponent, Row);
    const Row r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Row y = 1.9875691500e-4f * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const auto bits = (exponent + 127) << 23;
    Row power;
    std::memcpy(&power, &bits, sizeof power);
    return y * power;
}

#else  // compilers without vector types: the same operations lane by lane

template <int L>
struct Lanes {
    struct type {
        float lane[L] = {};

        template <class Operation>
        static type each(const Operation &operation) {
            type result;
            for (int k = 0; k < L; ++k) result.lane[k] = operation(k);
            return result;
        }
        type &operator+=(const type &b) { return *this = *this + b; }
        friend type operator+(const type &a, const type &b) {
            return each([&](int k) { return a.lane[k] + b.lane[k]; });
        }
        friend type operator-(const type &a, const type &b) {
            return each([&](int k) { return a.lane[k] - b.lane[k]; });
        }
        friend type operator*(const type &a, const type &b) {
            return each([&](int k) { return a.lane[k] * b.lane[k]; });
        }
        friend type operator/(const type &a, const type &b) {
            return each([&](int k) { return a.lane[k] / b.lane[k]; });
        }
        friend type operator*(float factor, const type &a) {
            return each([&](int k) { return factor * a.lane[k]; });
        }
    };
};

template <int L>
DENSECRF_INLINE typename Lanes<L>::type larger(const typename Lanes<L>::type &a,
                                               const typename Lanes<L>::type &b) {
    return Lanes<L>::type::each([&](int k) { return std::max(a.lane[k], b.lane[k]); });
}

template <int L, int top_half = L / 2>
DENSECRF_INLINE typename Lanes<L>::type sum_of(typename Lanes<L>::type a) {
    for (int half = top_half; half > 0; half /= 2)
        a = Lanes<L>::type::each([&](int k) { return a.lane[k] + a.lane[k ^ half]; });
    return a;
}

template <int L, int top_half = L / 2>
DENSECRF_INLINE typename Lanes<L>::type max_of(typename Lanes<L>::type a) {
    for (int half = top_half; half > 0; half /= 2)
        a = Lanes<L>::type::each([&](int k) { return std::max(a.lane[k], a.lane[k ^ half]); });
    return a;
}

template <int L>
DENSECRF_INLINE typename Lanes<L>::type fast_exp_nonpositive(const typename Lanes<L>::type &x) {
    return Lanes<L>::type::each([&](int k) { return fast_exp_nonpositive(x.lane[k]); });
}

inline void transpose(Lanes<8>::type (&rows)[8]) {
    for (int i = 0; i < 8; ++i)
        for (int j = 0; j < i; ++j) std::swap(rows[i].lane[j], rows[j].lane[i]);
}

#endif

template <int L>
DENSECRF_INLINE typename Lanes<L>::type load(const float *row) {
    typename Lanes<L>::type lanes;
    std::memcpy(static_cast<void *>(&lanes), row, sizeof lanes);
    return lanes;
}

template <int L>
DENSECRF_INLINE void store(const typename Lanes<L>::type &lanes, float *row) {
    std::memcpy(row, &lanes, sizeof lanes);
}

}  // namespace densecrf
