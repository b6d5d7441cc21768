// The inner loops of splat, blur, slice and softmax. Each works on rows of 1, 4 or 8 floats ("lanes"), one
// row for each vertex or pixel, and is compiled for several instruction sets.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "splat_weight.hpp"

namespace densecrf {

// rows[v + 1] = sum over the splat weights of vertex v of weight x values[point], for v in [begin, end).
void splat(int lanes, const std::int32_t *offsets, const SplatWeight *weights, const float *values,
           float *rows, std::size_t begin, std::size_t end);
void splat(int lanes, const std::int32_t *offsets, const CompactSplatWeight *weights, const float *values,
           float *rows, std::size_t begin, std::size_t end);

// rows[vertex] += factor x scale[i] x weight x values[n - begin], for n in [begin, end) and the corners of
// point i = ids[n], or n if ids is null; without scale, if it is null. weights: points x corners.
void splat_add(int lanes, int corners, const SplatWeight *weights, const std::int32_t *ids, float factor,
               const float *scale, const float *values, float *rows, std::size_t begin, std::size_t end);
void splat_add(int lanes, int corners, const CompactSplatWeight *weights, const std::int32_t *ids,
               float factor, const float *scale, const float *values, float *rows, std::size_t begin,
               std::size_t end);

// blurred[v + 1] = rows[v + 1] + (rows[up] + rows[down]) / 2; neighbours holds the two row numbers of each
// vertex.
void blur(int lanes, const float *rows, const std::int32_t *neighbours, float *blurred, std::size_t begin,
          std::size_t end);

// out[n - begin] = base[n - begin] + strength x sum over the corners of point i of weight x rows[vertex],
// lane by lane, for n in [begin, end), where i is ids[n], or n if ids is null. weights: points x corners.
// base may be out.
void slice_add(int lanes, int corners, const SplatWeight *weights, const std::int32_t *ids, const float *rows,
               const float *strength, const float *base, float *out, std::size_t begin, std::size_t end);
void slice_add(int lanes, int corners, const CompactSplatWeight *weights, const std::int32_t *ids,
               const float *rows, const float *strength, const float *base, float *out, std::size_t begin,
               std::size_t end);

// Turns logits into probabilities in place, for rows of 4 or 8 lanes. The row of pixel i in group g is at
// rows + g x stride + i x lanes. Lanes from number `labels` on become zero. max_probability[k] is raised to
// the highest probability of lane k.
void softmax(int lanes, int groups, int labels, std::size_t stride, float *rows, float *max_probability,
             std::size_t begin, std::size_t end);

// Adds to counts[k] in how many of `count` rows a label's probability x message is over the limit in lane k.
// The message is what was added to the unary logit.
void count_held(int lanes, const float *probabilities, const float *logits, const float *unary_logits,
                float limit, std::size_t *counts, std::size_t count);

// out[(i - begin) x lanes + k] = -planes[k][i]: turns `lanes` planes of energies (null: zeros) into rows of
// logits, for points [begin, end). min_energy: what each point's energies are relative to (see
// relative_energy()); null: to 0.
void load_logits(int lanes, const float *const *planes, const float *min_energy, float *out,
                 std::size_t begin, std::size_t end);

// first[i] = 1 / (1 + exp(second[i] - first[i])): the probability of the first of two logits. *high is raised
// and *low lowered to include all results.
void sigmoid(float *first, const float *second, std::size_t count, float *high, float *low);

}  // namespace densecrf
