// Branch-free approximations of exp and log, so that loops over lanes or pixels vectorise.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd.hpp"

namespace densecrf {

// exp(x) with a relative error under 2e-7. x is clamped to [-87, 87], and NaN counts as -87, so that the
// conversion to an integer is defined for every input. Source: the polynomial of Cephes' expf.
DENSECRF_INLINE float fast_exp(float x) {
    x = x > -87.0f ? x : -87.0f;  // this comparison first, as it replaces NaN
    x = x < 87.0f ? x : 87.0f;
    const std::int32_t exponent = std::int32_t(x * 1.44269504f + (x < 0 ? -0.5f : 0.5f));
    const float n = float(exponent);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const std::int32_t bits = (exponent + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return y * power;
}

// exp(min(x, 0)), which is at most 1.
DENSECRF_INLINE float fast_exp_nonpositive(float x) { return fast_exp(x < 0.0f ? x : 0.0f); }

// log(x) for normal x > 0, relative error under 2e-7 (absolute near 1). Source: the polynomial of Cephes'
// logf.
DENSECRF_INLINE float fast_log(float x) {
    std::int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const std::int32_t exponent = (bits - 0x3F3504F3) >> 23;  // x / 2^exponent lies in [sqrt 1/2, sqrt 2)
    bits -= exponent * (1 << 23);
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
    const float square = r * r, n = float(exponent);
    return r + (y * r * square + n * -2.12194440e-4f - 0.5f * square) + n * 0.693359375f;
}

}  // namespace densecrf
