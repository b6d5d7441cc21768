// What ties a point to a vertex: the number of the one and a weight, from the side of the other.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd.hpp"

namespace densecrf {

struct Tie {
    std::int32_t to;
    float strength;

    Tie() = default;
    Tie(std::uint32_t number, float weight) : to(std::int32_t(number)), strength(weight) {}

    DENSECRF_INLINE std::uint32_t number() const { return std::uint32_t(to); }
    DENSECRF_INLINE float weight() const { return strength; }
};

// The same in six bytes, for large images, where ties are most of the memory: reading them takes a little longer. The
// number has 24 bits, and so has the weight, a float without its last eight bits, rounded (relative error under 1e-5).
struct ShortTie {
    static constexpr std::size_t most = std::size_t(1) << 24;  // numbers are under this
    unsigned char bytes[6];  // low to high: the number's three, the weight's three

    ShortTie() = default;
    DENSECRF_INLINE ShortTie(std::uint32_t number, float weight) {
        std::uint32_t bits;
        std::memcpy(&bits, &weight, sizeof bits);
        const std::uint64_t both = number | std::uint64_t((bits + 0x80) >> 8) << 24;
        for (int byte = 0; byte < 6; ++byte) bytes[byte] = static_cast<unsigned char>(both >> (8 * byte));
    }

    DENSECRF_INLINE std::uint32_t number() const { return word(0) & 0xFFFFFF; }
    DENSECRF_INLINE float weight() const {
        const std::uint32_t bits = word(2) & 0xFFFFFF00;
        float weight;
        std::memcpy(&weight, &bits, sizeof weight);
        return weight;
    }

private:
    DENSECRF_INLINE std::uint32_t word(int from) const {  // compilers make one load of this
        return bytes[from] | std::uint32_t(bytes[from + 1]) << 8 | std::uint32_t(bytes[from + 2]) << 16 |
               std::uint32_t(bytes[from + 3]) << 24;
    }
};

}  // namespace densecrf
