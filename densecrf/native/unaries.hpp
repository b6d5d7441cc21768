// The classifier's scores: K x N planes of energies or of probabilities, and what is computed from them pixel
// by pixel. The likelihood of a label at a pixel is its probability, or exp(-energy).
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "simd.hpp"

namespace densecrf {

// A view of the caller's planes. Probabilities are used as they are, which saves a copy of all planes as
// energies.
struct Unaries {
    const float *data;  // labels x points
    std::size_t labels, points;
    float floor;  // lower limit of probabilities, above 0; 0 if the data are energies
    // points: the lowest energy of each, to which all others are relative; null for probabilities
    const float *min_energy = nullptr;

    bool are_probabilities() const { return floor > 0; }
    const float *plane(std::size_t label) const { return data + label * points; }
};

// An energy relative to the lowest one at its point. Comparing likelihoods of large energies would lose
// digits; comparing their distances from the lowest does not. The limit keeps sums of several of them finite.
DENSECRF_INLINE float relative_energy(float energy, float min_energy) {
    return std::min(energy - min_energy, 1e30f);
}

// out[i] = the lowest energy of all labels at point i.
void min_energies(const Unaries &unaries, float *out, std::size_t begin, std::size_t end);

// max_probability[k] is raised to the highest normalised likelihood of label k. Returns false if a
// probability is negative, NaN or infinite.
bool scan_unaries(const Unaries &unaries, float *max_probability, std::size_t begin, std::size_t end);

// out[i - begin] = the energy of a label at point i, relative to the lowest one if the unaries are energies.
void label_energies(const Unaries &unaries, std::size_t label, float *out, std::size_t begin,
                    std::size_t end);

// Labels that are merged into one, and what merged_moments() computes for them. The share of a label at a
// point is its likelihood divided by that of all merged labels.
struct MergedView {
    const std::int32_t *labels;
    std::size_t count;
    const float *energy, *mean_share, *share_variance, *share_skew;  // N each
};

// energy[i] = -log of the sum of the labels' likelihoods at point i; mean_share[i], share_variance[i] and
// share_skew[i] are the first three cumulants of their shares, weighted by the shares themselves.
void merged_moments(const Unaries &unaries, const std::int32_t *labels, std::size_t count, float *energy,
                    float *mean_share, float *share_variance, float *share_skew, std::size_t begin,
                    std::size_t end);

// Replaces the messages to the merged label by its logits. messages[n - begin] belongs to point i = ids[n]
// (or n, where ids is null); the logit is the log of the sum over merged labels of likelihood x exp(message x
// share).
void merged_logits(const Unaries &unaries, const MergedView &merged, const std::int32_t *ids, float *messages,
                   std::size_t begin, std::size_t end);

// Splits the merged label's probability, sum[i x stride] at point i, into those of its labels, in planes of
// labels x points: sum x likelihood x exp(message[i] x share - merged logit).
void split_merged(const Unaries &unaries, const MergedView &merged, const float *message, const float *sum,
                  std::size_t stride, float *out, std::size_t begin, std::size_t end);

}  // namespace densecrf
