// The points whose probabilities still move, taken through some steps while the others rest.
// SPDX-License-Identifier: MIT
#pragma once

#include "kernel.hpp"

namespace densecrf {

// Messages are linear in the probabilities. So with the logits of a full step at hand, a point's next logits are those
// plus the messages of what has changed since, and what has changed lies at the unsettled points alone.
struct Unsettled {
    Buffer<std::int32_t> points;  // ascending
    Buffer<float> logits;         // a row a point, as the last full step found them, before the pool's is completed
    Buffer<float> before;         // probabilities that the last full step began from
    Buffer<float> now;
    bool too_many = false;
    std::vector<AnyTouches> touches;  // of each kernel

    // Joins what threads found, in order; `now` is for the caller to fill.
    void gather(const std::vector<Unsettled> &parts, std::size_t lanes, std::size_t most_points, int threads) {
        std::vector<std::size_t> start{0};
        too_many = false;
        for (const Unsettled &part : parts) {
            start.push_back(start.back() + part.points.size());
            too_many = too_many || part.too_many || start.back() > most_points;
        }
        if (too_many) start.assign(parts.size() + 1, 0);
        points.resize(start.back());
        for (Buffer<float> *rows : {&logits, &before, &now}) rows->resize(start.back() * lanes);
        if (too_many) return;
        parallel_for(threads, parts.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) {
                std::copy(parts[n].points.begin(), parts[n].points.end(), points.begin() + start[n]);
                std::copy(parts[n].logits.begin(), parts[n].logits.end(), logits.begin() + start[n] * lanes);
                std::copy(parts[n].before.begin(), parts[n].before.end(), before.begin() + start[n] * lanes);
            }
        }, 1);
    }

    void reserve(std::size_t count, std::size_t lanes) {
        points.reserve(count);
        for (Buffer<float> *rows : {&logits, &before}) rows->reserve(count * lanes);
    }

    // Takes note of the points in [begin, end) of which a probability has moved by more than `limit`. The rows of the
    // first lie at logit, was and is. Gives up when there are more than `most`.
    void look_at(std::size_t begin, std::size_t end, std::size_t lanes, const float *logit, const float *was,
                 const float *is, float limit, std::size_t most_points) {
        if (too_many) return;
        const std::size_t known = points.size();
        std::size_t count = known;
        points.resize(known + end - begin);
        for (std::size_t row = 0; row < end - begin; ++row) {
            float most = 0;
            for (std::size_t k = row * lanes; k < (row + 1) * lanes; ++k) most = std::max(most, std::fabs(is[k] - was[k]));
            points[count] = std::int32_t(begin + row);
            count += most > limit;
        }
        if (count > most_points) {
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
