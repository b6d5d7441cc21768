// Loops over K x N planes of energies, a block of pixels at a time: softmax statistics, and pools of labels.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

namespace densecrf {

// norm[i] = log of the sum over labels of exp(-energy); top[k] becomes the maximum of what it was and of label k's
// probabilities exp(-energy - norm).
void scan_planes(const float *energies, std::size_t labels, std::size_t points, float *norm, float *top,
                 std::size_t begin, std::size_t end);

// out[i x stride] += exp(-plane[i] - norm[i]).
void add_probabilities(const float *plane, const float *norm, float *out, std::size_t stride, std::size_t begin,
                       std::size_t end);

// For the labels of a pool: start[i] = log of the sum of exp(-energy), and with shares s = exp(-energy - start) the
// moments slope[i] = sum of s^2 and curve[i] = sum of s^3 - slope^2.
void pool_moments(const float *energies, std::size_t points, const std::int32_t *labels, std::size_t count,
                  float *start, float *slope, float *curve, std::size_t begin, std::size_t end);

// plane_out[i] = together[i x stride] x exp(-plane[i] + message[i] x share - whole[i - begin]), share as above.
void spread_pool(const float *plane, const float *start, const float *message, const float *whole,
                 const float *together, std::size_t stride, float *plane_out, std::size_t begin, std::size_t end);

}  // namespace densecrf
