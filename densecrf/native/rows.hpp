// The inner loops: each works on rows of a fixed number of lanes (1, 4 or 8 floats), one row a vertex or pixel.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "tie.hpp"

namespace densecrf {

// rows[v + 1] = sum over the touches of vertex v of weight x values[point].
void splat(int lanes, const std::int32_t *first, const Tie *touches, const float *values, float *rows,
           std::size_t begin, std::size_t end);
void splat(int lanes, const std::int32_t *first, const ShortTie *touches, const float *values, float *rows,
           std::size_t begin, std::size_t end);

// blurred[v + 1] = rows[v + 1] + (rows[lower] + rows[upper]) / 2; pairs holds the two row numbers of each vertex.
void blur(int lanes, const float *rows, const std::int32_t *pairs, float *blurred, std::size_t begin, std::size_t end);

// out[n - begin] += strength x sum over the corners of point i of weight x rows[vertex], lane by lane, for n in
// [begin, end), where i is ids[n], or n if ids is null. ties: points x corners.
void slice_add(int lanes, int corners, const Tie *ties, const std::int32_t *ids, const float *rows,
               const float *strength, float *out, std::size_t begin, std::size_t end);
void slice_add(int lanes, int corners, const ShortTie *ties, const std::int32_t *ids, const float *rows,
               const float *strength, float *out, std::size_t begin, std::size_t end);

// Rows of `groups` x lanes logits, group g of pixel i at rows + g x stride + i x lanes, to probabilities in place.
// Lanes beyond `labels` become zero. top[k] becomes the maximum of what it was and label k's probabilities.
void softmax(int lanes, int groups, int labels, std::size_t stride, float *rows, float *top, std::size_t begin,
             std::size_t end);

// out[(i - begin) x lanes + k] = -planes[k][i]: energies of `lanes` planes (null: zero) to rows of logits, for points
// [begin, end). least: at each point, what energies are counted from (see above_least()); null: from 0.
void load_logits(int lanes, const float *const *planes, const float *least, float *out, std::size_t begin,
                 std::size_t end);

// first[i] = 1 / (1 + exp(second[i] - first[i])): the probability of the first of two logits. *high and *low are widened
// to contain the results.
void sigmoid(float *first, const float *second, std::size_t count, float *high, float *low);

}  // namespace densecrf
