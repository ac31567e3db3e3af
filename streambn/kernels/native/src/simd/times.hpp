// The weights of rows by their event times. streambn/kernels/reference/times.py has the formula.
#pragma once

#include "simd/kernels.hpp"
#include "simd/vector.hpp"

namespace streambn::STREAMBN_SIMD {

// Converts unsigned integers to float64. Each is rounded once.
STREAMBN_INLINE Pack from_unsigned(const Ints &x) {
    return each<double>([&](auto i) __attribute__((always_inline)) {
        const auto whole = (Register<uint64_t>)x.part[i];
#if defined(__AVX512DQ__)
        return __builtin_convertvector(whole, Register<double>);
#else
        // The upper half becomes the last bits of 2**84, and the lower half those of 2**52. The
        // subtraction is exact, so only the addition rounds.
        const Register<uint64_t> high = whole >> 32 | 0x4530000000000000u;
        const Register<uint64_t> low = (whole & 0xffffffffu) | 0x4330000000000000u;
        return ((Register<double>)high - (0x1p84 + 0x1p52)) + (Register<double>)low;
#endif
    });
}

// Returns 2**x for x <= 1023, within 1.2 units in the last place, or 0 below 2**-1000.
//
// With x = n + f and |f| <= 1/2, the result is 2**n * (1 + f*q(f)). The polynomial f*q has degree 11
// and interpolates at Chebyshev nodes, with an error of 6e-18. No product is fused, so all
// instruction sets give the same bits.
STREAMBN_INLINE Pack two_to(const Pack &x) {
    static const double Q[] = {
        0x1.62e42fefa39efp-1,  0x1.ebfbdff82c598p-3,  0x1.c6b08d704a0c2p-5,  0x1.3b2ab6fba1ddap-7,
        0x1.5d87fe78a5276p-10, 0x1.430913096fd9fp-13, 0x1.ffcbfc670dcd4p-17, 0x1.62bfd47773353p-20,
        0x1.b524fae627834p-24, 0x1.e6063f7217bc6p-28, 0x1.e9d3fe3952179p-32};
    constexpr int DEGREE = 10;
    // With this order of arguments, NaN stays NaN.
    const Pack bounded = minimum(broadcast(1024.0), x);
    // Adding `shift` rounds x to the nearest integer n. It leaves n + 1023, the exponent field of
    // 2**n, in the last bits.
    const Pack shift = broadcast(0x1.8p52 + 1023), shifted = bounded + shift;
    const Pack f = bounded - (shifted - shift);
    Pack q = broadcast(Q[DEGREE]);
#pragma GCC unroll 10
    for (int k = DEGREE - 1; k >= 0; --k) q = q * f + broadcast(Q[k]);
    const Pack y = broadcast(1.0) + f * q;
    return each<double>([&](auto i) __attribute__((always_inline)) {
        const auto power = (Register<double>)((Register<uint64_t>)shifted.part[i] << 52);
        return x.part[i] < -1000.0 ? Register<double>{} : y.part[i] * power;
    });
}

template <bool WHOLE>
STREAMBN_INLINE Pack weights_at(const char *ticks, Origin latest, double factor) {
    if constexpr (WHOLE) {
        // No tick is later than `latest`, so an unsigned 64-bit integer holds every age.
        const Ints now = broadcast(latest.integer), tick = load<int64_t>(ticks);
        const Ints age = each<int64_t>(STREAMBN_PART((Register<int64_t>)(
            (Register<uint64_t>)now.part[i] - (Register<uint64_t>)tick.part[i])));
        return two_to(from_unsigned(age) * broadcast(factor));
    } else {
        return two_to((broadcast(latest.number) - load<double>(ticks)) * broadcast(factor));
    }
}

template <bool WHOLE>
STREAMBN_INLINE void weigh_times(const char *ticks, int64_t n, Origin latest, double factor,
                                 const double *weights, double *out) {
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        Pack w = weights_at<WHOLE>(ticks + 8 * i, latest, factor);
        if (weights) w = w * load<double>(weights + i);
        store(out + i, w);
    }
    if (i == n) return;
    const auto rest = (size_t)(n - i) * 8;
    alignas(64) double last[WIDTH] = {}, given[WIDTH] = {};
    __builtin_memcpy(last, ticks + 8 * i, rest);
    if (weights) __builtin_memcpy(given, weights + i, rest);
    Pack w = weights_at<WHOLE>(reinterpret_cast<const char *>(last), latest, factor);
    if (weights) w = w * load<double>(given);
    store(last, w);
    __builtin_memcpy(out + i, last, rest);
}

inline void time_weights(const void *ticks, bool whole, int64_t n, Origin latest, double factor,
                         const double *weights, double *out) {
    const char *octets = static_cast<const char *>(ticks);
    if (whole)
        weigh_times<true>(octets, n, latest, factor, weights, out);
    else
        weigh_times<false>(octets, n, latest, factor, weights, out);
}

}  // namespace streambn::STREAMBN_SIMD
