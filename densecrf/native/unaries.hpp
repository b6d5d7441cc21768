// What the classifier alone says: K x N planes of energies or of probabilities, a block of pixels at a time.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "simd.hpp"

namespace densecrf {

// Probabilities are taken as they are, so that no copy of all planes has to be made: a label's likelihood at a pixel is
// exp(-energy), or its probability.
struct Unaries {
    const float *data;  // labels x points
    std::size_t labels, points;
    float floor;  // probabilities count as at least this, which is above 0; 0: data are energies
    const float *least = nullptr;  // points: the least energy at each, from which all others are counted; none for
                                   // probabilities

    bool are_probabilities() const { return floor > 0; }
    const float *plane(std::size_t label) const { return data + label * points; }
};

// Energies of any size lose their digits when likelihoods are compared; their distances from the least one do not. Bounded,
// so that sums of some of them stay finite.
DENSECRF_INLINE float above_least(float energy, float least) { return std::min(energy - least, 1e30f); }

// out[i] = the least energy of all labels at point i.
void least_energies(const Unaries &unaries, float *out, std::size_t begin, std::size_t end);

// top[k] becomes the maximum of what it was and of label k's likelihoods over the sums of all. Returns false if a
// probability is negative, NaN or infinite.
bool scan_unaries(const Unaries &unaries, float *top, std::size_t begin, std::size_t end);

// out[i - begin] = energy of a label, counted from the least one if the unaries are energies.
void energies_of(const Unaries &unaries, std::size_t label, float *out, std::size_t begin, std::size_t end);

// Labels that share a lane: what follows asks of them.
struct PooledLabels {
    const std::int32_t *labels;
    std::size_t count;
    const float *energy, *slope, *curve;  // as pool_moments() finds them
};

// energy[i] = -log of the sum of the labels' likelihoods, and of their shares in it, weighted by themselves, slope[i] the
// mean and curve[i] the variance.
void pool_moments(const Unaries &unaries, const std::int32_t *labels, std::size_t count, float *energy, float *slope,
                  float *curve, std::size_t begin, std::size_t end);

// messages[n - begin], to the pool at point i = ids[n] (or n, where ids is null), becomes the pool's logit there: the log
// of the sum over its labels of likelihood x exp(message x share).
void pool_logits(const Unaries &unaries, const PooledLabels &pool, const std::int32_t *ids, float *messages,
                 std::size_t begin, std::size_t end);

// The labels' parts of the pool's probability together[i x stride]: that x likelihood x exp(message[i] x share - the pool's
// logit), to planes of labels x points.
void spread_pool(const Unaries &unaries, const PooledLabels &pool, const float *message, const float *together,
                 std::size_t stride, float *out, std::size_t begin, std::size_t end);

}  // namespace densecrf
