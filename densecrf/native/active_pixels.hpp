// The pixels whose probabilities still change; they take some steps on their own while the others are
// skipped.
// SPDX-License-Identifier: MIT
#pragma once

#include "kernel.hpp"

namespace densecrf {

// Messages are linear in the probabilities. The next logits of a pixel are therefore those of the last full
// step plus the messages of what has changed since, and only active pixels have changed.
struct ActivePixels {
    Buffer<std::int32_t> points;  // ascending
    Buffer<float>
        logits;  // a row for each point: from the last full step, before the merged label's is final
    Buffer<float> before;                        // the probabilities that the last full step started from
    Buffer<float> now;                           // the current probabilities
    bool too_many = false;                       // if so, nothing else is stored
    std::vector<AnyVertexSplatWeights> weights;  // for each kernel, the splat weights of these points alone

    // Concatenates the parts that threads collected, in order. `now` gets its size, but is left for the
    // caller to fill.
    void merge(const std::vector<ActivePixels> &parts, std::size_t lanes, std::size_t max_points,
               int threads) {
        std::vector<std::size_t> start{0};
        too_many = false;
        for (const ActivePixels &part : parts) {
            start.push_back(start.back() + part.points.size());
            too_many = too_many || part.too_many || start.back() > max_points;
        }
        if (too_many) start.assign(parts.size() + 1, 0);
        points.resize(start.back());
        for (Buffer<float> *rows : {&logits, &before, &now}) rows->resize(start.back() * lanes);
        if (too_many) return;
        parallel_for(
            threads, parts.size(),
            [&](std::size_t begin, std::size_t end) {
                for (std::size_t n = begin; n < end; ++n) {
                    const ActivePixels &part = parts[n];
                    std::copy(part.points.begin(), part.points.end(), points.begin() + start[n]);
                    std::copy(part.logits.begin(), part.logits.end(), logits.begin() + start[n] * lanes);
                    std::copy(part.before.begin(), part.before.end(), before.begin() + start[n] * lanes);
                }
            },
            1);
    }

    void reserve(std::size_t count, std::size_t lanes) {
        points.reserve(count);
        for (Buffer<float> *rows : {&logits, &before}) rows->reserve(count * lanes);
    }

    // Collects those of the points [begin, end) that have a probability which changed by more than
    // `tolerance` in this step. logit, was and is: the rows of these points, the first at `begin`: logits,
    // and probabilities before and after the step. Gives up if there are more than max_points.
    void collect(std::size_t begin, std::size_t end, std::size_t lanes, const float *logit, const float *was,
                 const float *is, float tolerance, std::size_t max_points) {
        if (too_many) return;
        const std::size_t known = points.size();
        std::size_t count = known;
        points.resize(known + end - begin);
        for (std::size_t row = 0; row < end - begin; ++row) {
            float change = 0;
            for (std::size_t k = row * lanes; k < (row + 1) * lanes; ++k)
                change = std::max(change, std::fabs(is[k] - was[k]));
            points[count] = std::int32_t(begin + row);
            count += change > tolerance;
        }
        if (count > max_points) {
            *this = {};
            too_many = true;
            return;
        }
        points.resize(count);
        logits.resize(count * lanes);
        before.resize(count * lanes);
        for (std::size_t n = known; n < count; ++n) {
            std::copy_n(logit + (points[n] - begin) * lanes, lanes, logits.data() + n * lanes);
            std::copy_n(was + (points[n] - begin) * lanes, lanes, before.data() + n * lanes);
        }
    }
};

}  // namespace densecrf
