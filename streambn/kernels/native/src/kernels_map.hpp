// The inner loops of the transform; see kernels.hpp for what each is to do.
#pragma once

#include "kernels.hpp"
#include "kernels_sum.hpp"
#include "simd.hpp"

namespace streambn::STREAMBN_SIMD {

// The parameters of a pack.
struct Parameters {
    Pack hi, lo, spread, inverse, gamma, beta, clip;
    STREAMBN_INLINE Parameters(const Maps &maps, int64_t at)
        : hi(load<double>(maps.location_hi + at)), lo(load<double>(maps.location_lo + at)),
          spread(load<double>(maps.spread + at)), inverse(load<double>(maps.inverse_spread + at)),
          gamma(load<double>(maps.gamma + at)), beta(load<double>(maps.beta + at)),
          clip(broadcast(maps.clip)) {}
};

// a / b, correctly rounded, of b within 2**±500 and its correctly rounded reciprocal. (P. W.
// Markstein, 1990, "Computation of elementary functions on the IBM RISC System/6000
// processor".) A division takes ten cycles a pack, twice as long as all else.
STREAMBN_INLINE Pack quotient(const Pack &a, const Pack &b, const Pack &reciprocal) {
#if defined(STREAMBN_FMA)
    const Pack q = a * reciprocal;
    const Pack corrected = each<double>([&](auto i) __attribute__((always_inline)) {
        const Register<double> rest = STREAMBN_FMA(-q.part[i], b.part[i], a.part[i]);
        return (Register<double>)STREAMBN_FMA(rest, reciprocal.part[i], q.part[i]);
    });
    // Of an infinity there is no rest.
    return select(not_finite(q), q, corrected);
#else
    (void)reciprocal;
    return a / b;
#endif
}

template <class Out, bool AFFINE, bool INVERSE>
STREAMBN_INLINE Pack mapped(const Pack &x, const Parameters &p) {
    if (INVERSE) {
        const Pack y = AFFINE ? (x - p.beta) / p.gamma : x;
        return (y * p.spread + p.lo) + p.hi;
    }
    const Pack centred = (x - p.hi) - p.lo;
    // A narrower result is rounded from float64 anyway, so a product with the reciprocal,
    // which is off by one and a half units of float64, gives the same but at a tie.
    Pack y = sizeof(Out) < sizeof(double) ? centred * p.inverse
                                          : quotient(centred, p.spread, p.inverse);
    // In this order a NaN stays: neither is it less than a bound nor is a bound less than it.
    y = minimum(p.clip, maximum(broadcast(0.0) - p.clip, y));
    return AFFINE ? y * p.gamma + p.beta : y;
}

template <class Out>
STREAMBN_INLINE void write(Out *to, const Pack &y, bool) {
    store(to, convert<Out>(y));
}
template <>
STREAMBN_INLINE void write(double *to, const Pack &y, bool stream) {
#if defined(__AVX512F__)
    if (stream) return _mm512_stream_pd(to, y.part[0]);
#elif defined(__AVX2__)
    if (stream) {
        _mm256_stream_pd(to, y.part[0]);
        return _mm256_stream_pd(to + EACH, y.part[1]);
    }
#endif
    (void)stream;
    store(to, y);
}

template <class In, class Out, bool AFFINE, bool INVERSE, bool MASKED, bool STREAM, bool UNIFORM>
STREAMBN_INLINE bool map_values(const In *x, int n, int64_t phase, const uint8_t *bits,
                                const Maps &maps, Out *out) {
    Mask bad = broadcast((int64_t)0);
    const Parameters uniform(maps, phase);
    int64_t at = phase;
    int i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        ask_for(x + i);
        const Pack value = load_as_double(x + i);
        Pack y = mapped<Out, AFFINE, INVERSE>(value, UNIFORM ? uniform : Parameters(maps, at));
        Mask wrong = not_finite(value);
        if (MASKED) {
            const Mask there = mask_of(bits[i / WIDTH]);
            wrong = wrong & there;
            y = select(there, y, broadcast(0.0));
        }
        bad = bad | wrong;
        write(out + i, y, STREAM);
        if (!UNIFORM) at = at + WIDTH == maps.period ? 0 : at + WIDTH;
    }
#if defined(__AVX2__)
    if (STREAM) _mm_sfence();  // other threads see what was written past the cache
#endif
    if (i < n) {
        const Tail<In> tail(x + i, n - i, MASKED ? bits + i / WIDTH : nullptr);
        const Pack value = load_as_double(tail.values);
        const Mask there = mask_of(tail.present);
        bad = bad | (not_finite(value) & there);
        const Pack y = select(there, mapped<Out, AFFINE, INVERSE>(value, Parameters(maps, at)), broadcast(0.0));
        Out last[WIDTH];
        store(last, convert<Out>(y));
        __builtin_memcpy(out + i, last, (n - i) * sizeof(Out));
    }
    return any(bad);
}

template <class In, class Out, bool INVERSE>
bool map(const void *values, int n, int64_t phase, const uint8_t *bits, const Maps &maps,
         void *out, bool stream) {
    const In *x = static_cast<const In *>(values);
    Out *y = static_cast<Out *>(out);
#define STREAMBN_CASE(affine, masked, streaming) \
    return maps.period == WIDTH                                                                    \
               ? map_values<In, Out, affine, INVERSE, masked, streaming, true>(x, n, phase, bits, maps, y) \
               : map_values<In, Out, affine, INVERSE, masked, streaming, false>(x, n, phase, bits, maps, y)
    if (sizeof(Out) == sizeof(double) && stream && !bits) {
        if (maps.affine) STREAMBN_CASE(true, false, true);
        STREAMBN_CASE(false, false, true);
    }
    if (maps.affine) {
        if (bits) STREAMBN_CASE(true, true, false);
        STREAMBN_CASE(true, false, false);
    }
    if (bits) STREAMBN_CASE(false, true, false);
    STREAMBN_CASE(false, false, false);
#undef STREAMBN_CASE
}

}  // namespace streambn::STREAMBN_SIMD
