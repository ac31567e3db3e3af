// The inner loops of exact sums: a piece's sums of x and of x*x as a few integers times powers
// of two, without any rounding.
#pragma once

#include "kernels_exact_floats.hpp"
#include "kernels_exact_integers.hpp"

namespace streambn::STREAMBN_SIMD {

template <class T>
Verdict sum_to_integers(const void *values, int n, const uint8_t *bits, ExactPiece *out) {
    const T *x = static_cast<const T *>(values);
    if constexpr (Reader<T>::FLOAT)
        return bits ? sum_floats<T, true>(x, n, bits, out) : sum_floats<T, false>(x, n, bits, out);
    else
        return bits ? sum_integers<T, true>(x, n, bits, out) : sum_integers<T, false>(x, n, bits, out);
}

}  // namespace streambn::STREAMBN_SIMD
