// Run-time choice of instruction set: marked functions are compiled once for each set, and the loader picks
// one.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(DENSECRF_PLAIN)
#if defined(__clang__)  // takes processors, not levels, as names of clones
#define DENSECRF_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define DENSECRF_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#define DENSECRF_HAS_CLONES 1
#else
#define DENSECRF_CLONES
#define DENSECRF_HAS_CLONES 0
#endif

#if defined(__GNUC__)
#define DENSECRF_INLINE \
    inline __attribute__((always_inline))  // so that a helper gets its caller's instruction set
#else
#define DENSECRF_INLINE inline
#endif

namespace densecrf {

// The instruction set that marked functions use on this processor.
inline const char *simd_level() {
#if DENSECRF_HAS_CLONES
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    if (avx512) return "AVX-512 (x86-64-v4)";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "AVX2 (x86-64-v3)";
#endif
#if defined(__x86_64__)
    return "SSE2 (x86-64)";
#elif defined(__aarch64__)
    return "NEON (aarch64)";
#else
    return "portable";
#endif
}

// Fetches `count` objects into the cache, where the compiler knows how.
template <class T>
inline void prefetch_range(const T *first, std::size_t count) {
#if defined(__GNUC__)
    const char *bytes = reinterpret_cast<const char *>(first);
    for (std::size_t offset = 0; offset < count * sizeof(T); offset += 64) __builtin_prefetch(bytes + offset);
#else
    (void)first;
    (void)count;
#endif
}

}  // namespace densecrf
