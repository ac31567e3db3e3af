// The exact sums of x and of x*x over a piece, as a few integers times powers of two.
#pragma once

#include "simd/integer_sums_of_floats.hpp"
#include "simd/integer_sums_of_integers.hpp"

namespace streambn::STREAMBN_SIMD {

template <class T>
Verdict sum_to_integers(const void *values, int n, const uint8_t *bits, ExactPiece *out) {
    const T *x = static_cast<const T *>(values);
    // Only the loops with a mask handle missing values and a tail.
    if (!bits && n % WIDTH) bits = FULL_BITS.octets;
    if constexpr (std::is_same<T, uint64_t>::value || HAS_ALL_LOOPS<T>) {
        if constexpr (Reader<T>::FLOAT)
            return bits ? sum_floats<T, true>(x, n, bits, out) : sum_floats<T, false>(x, n, bits, out);
        else
            return bits ? sum_integers<T, true>(x, n, bits, out) : sum_integers<T, false>(x, n, bits, out);
    } else if constexpr (Reader<T>::FLOAT) {
        using To = typename std::conditional<FEW_LOOPS, double, float>::type;
        alignas(64) To wide[PIECE];
        convert_values(wide, x, n, [](const T *from) { return convert<To>(load_as_double(from)); });
        return sum_to_integers<To>(wide, n, bits, out);
    } else {
        if (!FEW_LOOPS && n == PIECE && !bits) return sum_integers<T, false>(x, PIECE, bits, out);
        alignas(64) int64_t wide[PIECE];
        convert_values(wide, x, n, ordered<T>);
        return sum_to_integers<int64_t>(wide, n, bits, out);
    }
}

}  // namespace streambn::STREAMBN_SIMD
