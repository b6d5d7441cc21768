// A guard for an object that only one thread at a time may use.
// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <stdexcept>

namespace densecrf {

// Runs one call at a time. A call while another one runs, after one that did not complete, or after the last
// one throws std::runtime_error.
class CallGuard {
public:
    template <class Work>
    void run(const Work &work) {
        State state = State::ready;
        if (!state_.compare_exchange_strong(state, State::busy)) throw std::runtime_error(reason(state));
        struct Exit {
            CallGuard &guard;
            State next = State::stopped;
            ~Exit() { guard.state_.store(next); }
        } exit{*this};
        work();
        exit.next = finished_ ? State::finished : State::ready;
    }

    // Makes the call that is running the last one.
    void finish() { finished_ = true; }

private:
    enum class State { ready, busy, stopped, finished };

    static const char *reason(State state) {
        switch (state) {
            case State::busy:
                return "this mean field is in use by another thread; wanted one mean field for each thread";
            case State::stopped:
                return "this mean field was stopped in the middle of a step; wanted a new one";
            default: return "this mean field is finished; wanted a new one";
        }
    }

    std::atomic<State> state_{State::ready};
    bool finished_ = false;
};

}  // namespace densecrf
