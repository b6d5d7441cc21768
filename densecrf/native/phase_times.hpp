// Processor time of the phases of an inference.
// SPDX-License-Identifier: MIT
#pragma once

#include <ctime>

namespace densecrf {

// In seconds, of all threads of the process. Phases follow one another: each is given the time since the
// last.
struct PhaseTimes {
    double start = 0;        // unaries: checks, rows, first marginals; and lanes that change
    double first_splat = 0;  // of marginals that are stored
    double blur = 0;
    double update = 0;         // slice, softmax and splat of the result, of all pixels
    double active_update = 0;  // the same of the pixels that have not converged
    double other = 0;          // steps that are not taken tile by tile
    double output = 0;         // marginals in planes

    // Begins to measure.
    void begin() { last_ = std::clock(); }

    // Adds the time since the last call to a phase.
    void add(double PhaseTimes::*phase) {
        const std::clock_t now = std::clock();
        this->*phase += double(now - last_) / CLOCKS_PER_SEC;
        last_ = now;
    }

private:
    std::clock_t last_ = 0;
};

}  // namespace densecrf
