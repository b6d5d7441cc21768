// One entry of the sparse splat and slice matrices: an index and a weight, in eight or in six bytes.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd.hpp"

namespace densecrf {

// The weight between a point and a vertex. In a list of a point's weights the index is a vertex row; in a
// list of a vertex's weights it is a point.
struct SplatWeight {
    std::int32_t stored_index;
    float stored_weight;

    SplatWeight() = default;
    SplatWeight(std::uint32_t index, float weight)
        : stored_index(std::int32_t(index)), stored_weight(weight) {}

    DENSECRF_INLINE std::uint32_t index() const { return std::uint32_t(stored_index); }
    DENSECRF_INLINE float weight() const { return stored_weight; }
};

// The same in six bytes for large images, where these entries take most of the memory; reading them takes a
// little longer. The index has 24 bits. The weight is a float rounded to its upper 24 bits (relative error
// under 1e-5).
struct CompactSplatWeight {
    static constexpr std::size_t index_limit = std::size_t(1) << 24;  // indices must be below this
    unsigned char bytes[6];  // little-endian: three bytes of index, three bytes of weight

    CompactSplatWeight() = default;
    DENSECRF_INLINE CompactSplatWeight(std::uint32_t index, float weight) {
        std::uint32_t bits;
        std::memcpy(&bits, &weight, sizeof bits);
        const std::uint64_t packed = index | std::uint64_t((bits + 0x80) >> 8) << 24;
        for (int byte = 0; byte < 6; ++byte) bytes[byte] = static_cast<unsigned char>(packed >> (8 * byte));
    }

    DENSECRF_INLINE std::uint32_t index() const { return word(0) & 0xFFFFFF; }
    DENSECRF_INLINE float weight() const {
        const std::uint32_t bits = word(2) & 0xFFFFFF00;
        float weight;
        std::memcpy(&weight, &bits, sizeof weight);
        return weight;
    }

private:
    // Four bytes as one number; compilers turn this into a single load.
    DENSECRF_INLINE std::uint32_t word(int from) const {
        return bytes[from] | std::uint32_t(bytes[from + 1]) << 8 | std::uint32_t(bytes[from + 2]) << 16 |
               std::uint32_t(bytes[from + 3]) << 24;
    }
};

}  // namespace densecrf
