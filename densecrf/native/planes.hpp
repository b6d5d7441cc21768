// Loops over K x N planes of energies, a block of pixels at a time: softmax statistics, and pools of labels.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

namespace densecrf {

// energies[i] = -log max(probability, floor). Returns false if a probability is negative, NaN or infinite.
bool energies_of(const float *probabilities, float floor, float *energies, std::size_t begin, std::size_t end);

// norm[i] = log of the sum over labels of exp(-energy); top[k] becomes the maximum of what it was and of label k's
// probabilities exp(-energy - norm).
void scan_planes(const float *energies, std::size_t labels, std::size_t points, float *norm, float *top,
                 std::size_t begin, std::size_t end);

// out[i x stride] += exp(-plane[i] - norm[i]).
void add_probabilities(const float *plane, const float *norm, float *out, std::size_t stride, std::size_t begin,
                       std::size_t end);

// For the labels of a pool: energy[i] = -log of the sum of exp(-energy of each), and with shares s = exp(energy[i] -
// energy of each) the cumulants of s under s: slope[i] their mean, curve[i] their variance.
void pool_moments(const float *energies, std::size_t points, const std::int32_t *labels, std::size_t count,
                  float *energy, float *slope, float *curve, std::size_t begin, std::size_t end);

struct PoolMoments {
    const float *energy, *slope, *curve;  // as above
};

// messages[n - begin], to a pool at point i = ids[n] (or n, where ids is null), becomes the pool's logit there: the log of
// the sum over its labels of exp(-energy + message x share).
void pool_logits(const float *energies, std::size_t points, const std::int32_t *labels, std::size_t count,
                 const PoolMoments &moments, const std::int32_t *ids, float *messages, std::size_t begin,
                 std::size_t end);

// plane_out[i] = together[i x stride] x exp(-plane[i] + message[i] x share - whole[i - begin]), share as above.
void spread_pool(const float *plane, const float *energy, const float *message, const float *whole,
                 const float *together, std::size_t stride, float *plane_out, std::size_t begin, std::size_t end);

}  // namespace densecrf
