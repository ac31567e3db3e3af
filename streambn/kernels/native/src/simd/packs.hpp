// Loops over the packs of a piece, which the exact sums share.
#pragma once

#include <type_traits>

#include "simd/reader.hpp"

namespace streambn::STREAMBN_SIMD {

// Calls `take(from, present, k)` for each pack k. Unless MASKED, n must be a multiple of WIDTH.
template <bool MASKED, class T, class Take>
STREAMBN_INLINE void for_packs(const T *x, int n, const uint8_t *bits, const Take &take) {
    const int whole = n / WIDTH;
    for (int k = 0; k < whole; ++k) take(x + k * WIDTH, MASKED ? bits[k] : (uint8_t)0xff, k);
    if (MASKED && n % WIDTH) {
        const Tail<T> tail(x + whole * WIDTH, n % WIDTH, bits + whole);
        take(tail.values, tail.present, whole);
    }
}

// Like `for_packs`, but deals the packs to SETS sets in turn and passes the index of the set as k.
// The index is a compile-time constant, because a variable index would keep the sums in memory.
template <bool MASKED, int SETS, class T, class Take>
STREAMBN_INLINE void for_sets(const T *x, int n, const uint8_t *bits, const Take &take) {
    if constexpr (SETS == 1) {
        for_packs<MASKED>(x, n, bits, [&](const T *from, uint8_t present, int)
                                          __attribute__((always_inline)) { take(from, present, Index<0>{}); });
    } else {
        const int whole = n / (2 * WIDTH) * 2;
        for (int k = 0; k < whole; k += 2) {
            take(x + k * WIDTH, MASKED ? bits[k] : (uint8_t)0xff, Index<0>{});
            take(x + (k + 1) * WIDTH, MASKED ? bits[k + 1] : (uint8_t)0xff, Index<1>{});
        }
        for_packs<MASKED>(x + whole * WIDTH, n - whole * WIDTH, MASKED ? bits + whole : nullptr,
                          [&](const T *from, uint8_t present, int)
                              __attribute__((always_inline)) { take(from, present, Index<0>{}); });
    }
}
#define STREAMBN_TAKE(T) \
    [&](const T *from, [[maybe_unused]] uint8_t present, [[maybe_unused]] auto k) __attribute__((always_inline))

// Returns the index of the first valid value. At least one value must be valid.
inline int first_valid(const uint8_t *bits) {
    int i = 0;
    while (!bits[i]) ++i;
    return 8 * i + __builtin_ctz(bits[i]);
}

// The extremes of some values. `least` is the least magnitude of the floats that are not zero.
template <class T>
struct Extent {
    T low, high, least;
};

// Combines the values of a register, by halves.
template <class T, int BYTES, class Combine>
STREAMBN_INLINE T fold(const T *values, const Combine &combine) {
    if constexpr (BYTES > 16) {
        typedef T HalfRegister __attribute__((vector_size(BYTES / 2)));
        HalfRegister a, b;
        __builtin_memcpy(&a, values, sizeof a);
        __builtin_memcpy(&b, values + BYTES / 2 / sizeof(T), sizeof b);
        const HalfRegister both = combine(a, b);
        alignas(64) T left[BYTES / 2 / sizeof(T)];
        __builtin_memcpy(left, &both, sizeof both);
        return fold<T, BYTES / 2>(left, combine);
    } else {
        T all = values[0];
        for (unsigned i = 1; i < BYTES / sizeof(T); ++i) all = combine(all, values[i]);
        return all;
    }
}

// Forces the compiler to load the elements of an array from memory. Otherwise GCC 12 extracts them
// from a register one by one, or keeps that register in memory during the preceding loop.
template <class T, int N>
STREAMBN_INLINE void keep_in_memory(T (&array)[N]) {
    __asm__("" : "+m"(array));
}

// Returns the sum of the elements, modulo 2**64.
template <class T>
STREAMBN_INLINE int64_t sum_of(const Vector<T> &pack) {
    alignas(64) T v[WIDTH];
    store(v, pack);
    keep_in_memory(v);
    // Signed integers would overflow, which C++ does not define.
    using Sum = typename std::conditional<std::is_integral<T>::value, uint64_t, T>::type;
    const Sum low = ((Sum)v[0] + (Sum)v[1]) + ((Sum)v[2] + (Sum)v[3]);
    const Sum high = ((Sum)v[4] + (Sum)v[5]) + ((Sum)v[6] + (Sum)v[7]);
    return (int64_t)(low + high);
}

// Extends `extent` by values from the front, and returns their number. A register compares as many
// values as fit, and a register of narrow values holds more than a pack. Two registers take turns,
// because a comparison takes four cycles.
template <class T>
STREAMBN_INLINE int extend_by_registers(const T *x, int n, Extent<T> *extent) {
    constexpr bool FLOAT = !std::is_integral<T>::value;
    constexpr int LENGTH = REGISTER / sizeof(T);
    using Bits = typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type;
    typedef T Values __attribute__((vector_size(REGISTER)));
    typedef Bits ValueBits __attribute__((vector_size(REGISTER)));
    const Values none = Values{} + extent->least;
    Values low[2], high[2], least[2] = {none, none};
    for (int i = 0; i < 2; ++i) low[i] = Values{} + extent->low, high[i] = Values{} + extent->high;
    int k = 0;
    for (; k + 2 * LENGTH <= n; k += 2 * LENGTH) {
        for (unsigned j = 0; j < 2 * REGISTER; j += 64)
            prefetch(reinterpret_cast<const char *>(x + k) + j);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            Values v;
            __builtin_memcpy(&v, x + k + i * LENGTH, sizeof v);
            low[i] = v < low[i] ? v : low[i];
            high[i] = v > high[i] ? v : high[i];
            if constexpr (FLOAT) {
                const ValueBits sign = ValueBits{} + (Bits)((uint64_t)1 << (8 * sizeof(T) - 1));
                Values size = (Values)((ValueBits)v & ~sign);
                size = size == Values{} ? none : size;
                least[i] = size < least[i] ? size : least[i];
            }
        }
    }
    const auto lesser = [](const auto &a, const auto &b) __attribute__((always_inline)) { return b < a ? b : a; };
    const auto greater = [](const auto &a, const auto &b) __attribute__((always_inline)) { return b > a ? b : a; };
    const auto best_of_all = [](const Values &values, const auto &better) __attribute__((always_inline)) {
        alignas(64) T v[LENGTH];
        __builtin_memcpy(v, &values, sizeof v);
        if constexpr (!FLOAT) keep_in_memory(v);
        return fold<T, REGISTER>(v, better);
    };
    extent->low = best_of_all(lesser(low[0], low[1]), lesser);
    extent->high = best_of_all(greater(high[0], high[1]), greater);
    if (FLOAT) extent->least = best_of_all(lesser(least[0], least[1]), lesser);
    return k;
}

}  // namespace streambn::STREAMBN_SIMD
