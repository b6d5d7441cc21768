// A branch-free exponential and logarithm, so that loops over lanes or pixels vectorise.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd.hpp"

namespace densecrf {

// exp(x), relative error under 2e-7; from exp(-87), which is also that of NaN, to exp(87). Polynomial of Cephes' expf.
DENSECRF_INLINE float exp_of(float x) {
    x = x > -87.0f ? x : -87.0f;  // in this order, so that no NaN is left to be made a whole number
    x = x < 87.0f ? x : 87.0f;
    const std::int32_t steps = std::int32_t(x * 1.44269504f + (x < 0 ? -0.5f : 0.5f));
    const float n = float(steps);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const std::int32_t bits = (steps + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return y * power;
}

// exp(min(x, 0)), which cannot exceed one.
DENSECRF_INLINE float exp_of_negative(float x) { return exp_of(x < 0.0f ? x : 0.0f); }

// log(x) for normal x > 0, relative error under 2e-7 (absolute near 1). Polynomial of Cephes' logf.
DENSECRF_INLINE float log_of_positive(float x) {
    std::int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const std::int32_t steps = (bits - 0x3F3504F3) >> 23;  // of the power of two that brings x to [sqrt 1/2, sqrt 2)
    bits -= steps * (1 << 23);
    float r;
    std::memcpy(&r, &bits, sizeof r);
    r -= 1.0f;
    float y = 7.0376836292e-2f;
    y = y * r - 1.1514610310e-1f;
    y = y * r + 1.1676998740e-1f;
    y = y * r - 1.2420140846e-1f;
    y = y * r + 1.4249322787e-1f;
    y = y * r - 1.6668057665e-1f;
    y = y * r + 2.0000714765e-1f;
    y = y * r - 2.4999993993e-1f;
    y = y * r + 3.3333331174e-1f;
    const float square = r * r, n = float(steps);
    return r + (y * r * square + n * -2.12194440e-4f - 0.5f * square) + n * 0.693359375f;
}

}  // namespace densecrf
