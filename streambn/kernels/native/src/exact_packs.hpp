// What the inner loops of exact sums have in common: how a piece is gone through.
#pragma once

#include <type_traits>

#include "kernels.hpp"
#include "kernels_sum.hpp"
#include "simd.hpp"

namespace streambn::STREAMBN_SIMD {

// Call `take(masked, values, present, k)` for each pack; the last may be one of a few values.
template <bool MASKED, class T, class Take>
STREAMBN_INLINE void for_packs(const T *x, int n, const uint8_t *bits, const Take &take) {
    const int packs = n / WIDTH;
    for (int k = 0; k < packs; ++k)
        take(std::integral_constant<bool, MASKED>{}, x + k * WIDTH, MASKED ? bits[k] : (uint8_t)0, k);
    if (n % WIDTH) {
        const Tail<T> tail(x + packs * WIDTH, n % WIDTH, MASKED ? bits + packs : nullptr);
        take(std::true_type{}, tail.values, tail.present, packs);
    }
}
// The same, but k is that of a set, a constant: an index that is a variable keeps sums in memory.
template <bool MASKED, int SETS, class T, class Take>
STREAMBN_INLINE void for_sets(const T *x, int n, const uint8_t *bits, const Take &take) {
    const int packs = n / WIDTH, whole = packs / SETS * SETS;
    for (int k = 0; k < whole; k += SETS) {
        take(std::integral_constant<bool, MASKED>{}, x + k * WIDTH, MASKED ? bits[k] : (uint8_t)0, Index<0>{});
        if constexpr (SETS > 1)
            take(std::integral_constant<bool, MASKED>{}, x + (k + 1) * WIDTH,
                 MASKED ? bits[k + 1] : (uint8_t)0, Index<1>{});
    }
    for_packs<MASKED>(x + whole * WIDTH, n - whole * WIDTH, MASKED ? bits + whole : nullptr,
                      [&](auto masked, const T *from, uint8_t present, int)
                          __attribute__((always_inline)) { take(masked, from, present, Index<0>{}); });
}
#define STREAMBN_TAKE(T) [&](auto masked, const T *from, uint8_t present, auto k) __attribute__((always_inline))

// The index of the first value that is there.
inline int first_present(const uint8_t *bits) {
    int i = 0;
    while (!bits[i]) ++i;
    return 8 * i + __builtin_ctz(bits[i]);
}

template <class T>
STREAMBN_INLINE int64_t sum_of(const Lanes<T> &pack) {
    alignas(64) T v[WIDTH];
    store(v, pack);
    return (int64_t)(((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])));
}

}  // namespace streambn::STREAMBN_SIMD
