// The transform and its inverse.
#pragma once

#include "simd/reader.hpp"

namespace streambn::STREAMBN_SIMD {

// The parameters of the transform of one pack.
struct Parameters {
    Pack hi, lo, scale, inverse, gamma, beta, clip;
    STREAMBN_INLINE Parameters(const Maps &maps, int64_t at)
        : hi(load<double>(maps.location_hi + at)), lo(load<double>(maps.location_lo + at)),
          scale(load<double>(maps.scale + at)), inverse(load<double>(maps.inverse_scale + at)),
          gamma(load<double>(maps.gamma + at)), beta(load<double>(maps.beta + at)),
          clip(broadcast(maps.clip)) {}
};

// Returns a / b, correctly rounded, from the correctly rounded reciprocal of b. b must be within
// 2**±500. A division takes ten cycles per pack, twice as long as the rest of the transform.
//
// Source: P. W. Markstein, 1990, "Computation of elementary functions on the IBM RISC System/6000
// processor".
STREAMBN_INLINE Pack quotient(const Pack &a, const Pack &b, const Pack &reciprocal) {
#if defined(STREAMBN_FMA)
    const Pack q = a * reciprocal;
    const Pack corrected = each<double>([&](auto i) __attribute__((always_inline)) {
        // The excess q b - a has a sign that leaves a zero q as it is, -0 included.
        const Register<double> excess = STREAMBN_FMA(q.part[i], b.part[i], -a.part[i]);
        return (Register<double>)STREAMBN_FMA(-excess, reciprocal.part[i], q.part[i]);
    });
    // An infinite quotient has no finite remainder, so it stays uncorrected.
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
        return (y * p.scale + p.lo) + p.hi;
    }
    const Pack centred = (x - p.hi) - p.lo;
    // A narrower output is rounded from float64 anyway, so the product with the reciprocal is
    // accurate enough. Its error is at most 1.5 units in the last place of float64, and it gives
    // the same output except near a tie.
    Pack y = sizeof(Out) < sizeof(double) ? centred * p.inverse
                                          : quotient(centred, p.scale, p.inverse);
    // With this order of arguments, NaN stays NaN.
    y = minimum(p.clip, maximum(broadcast(0.0) - p.clip, y));
    return AFFINE ? y * p.gamma + p.beta : y;
}

template <class Out>
STREAMBN_INLINE void write(Out *to, const Pack &y, bool) {
    store(to, convert<Out>(y));
}
// If `stream` is true, writes past the cache.
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

// Maps whole packs. Missing values give 0. UNIFORM means that all packs have the same parameters.
template <class In, class Out, bool AFFINE, bool INVERSE, bool MASKED, bool UNIFORM>
STREAMBN_INLINE Mask map_packs(const In *x, int packs, int64_t phase, const uint8_t *bits,
                               const Maps &maps, Out *out, bool stream) {
    Mask bad = broadcast((int64_t)0);
    const Parameters uniform(maps, phase);
    int64_t at = phase;
    for (int k = 0; k < packs; ++k) {
        prefetch(x + k * WIDTH);
        const Pack value = load_as_double(x + k * WIDTH);
        Pack y = mapped<Out, AFFINE, INVERSE>(value, UNIFORM ? uniform : Parameters(maps, at));
        Mask wrong = not_finite(value);
        if (MASKED) {
            const Mask valid = mask_of(bits[k]);
            wrong = wrong & valid;
            y = select(valid, y, broadcast(0.0));
        }
        bad = bad | wrong;
        write(out + k * WIDTH, y, !MASKED && stream);
        if (!UNIFORM) at = at + WIDTH == maps.period ? 0 : at + WIDTH;
    }
    return bad;
}

// Maps the last few values, which do not fill a pack.
template <class In, class Out, bool AFFINE, bool INVERSE>
__attribute__((noinline)) bool map_tail(const Tail<In> &tail, int n, int64_t phase, const Maps &maps,
                                        Out *out) {
    Out last[WIDTH];
    const Mask bad = map_packs<In, Out, AFFINE, INVERSE, true, false>(
        tail.values, 1, phase, &tail.present, maps, last, false);
    __builtin_memcpy(out, last, n * sizeof(Out));
    return any(bad);
}

template <class In, class Out, bool AFFINE, bool INVERSE>
STREAMBN_INLINE bool map_values(const In *x, int n, int64_t phase, const uint8_t *bits,
                                const Maps &maps, Out *out, bool stream) {
    const int packs = n / WIDTH, rest = n % WIDTH, whole = packs * WIDTH;
    const bool uniform = maps.period == WIDTH;
    // The affine inverse has no loop for uniform parameters, because its division takes longer than
    // loading the parameters.
    constexpr bool MAY_BE_UNIFORM = !(AFFINE && INVERSE);
    bool bad;
    if (!bits) {
        bad = any(MAY_BE_UNIFORM && uniform
                      ? map_packs<In, Out, AFFINE, INVERSE, false, MAY_BE_UNIFORM>(x, packs, phase, bits, maps, out, stream)
                      : map_packs<In, Out, AFFINE, INVERSE, false, false>(x, packs, phase, bits, maps, out, stream));
#if defined(__AVX2__)
        // Make the values written past the cache visible to other threads.
        if (stream) _mm_sfence();
#endif
    } else {
        bad = any(MAY_BE_UNIFORM && uniform
                      ? map_packs<In, Out, AFFINE, INVERSE, true, MAY_BE_UNIFORM>(x, packs, phase, bits, maps, out, false)
                      : map_packs<In, Out, AFFINE, INVERSE, true, false>(x, packs, phase, bits, maps, out, false));
    }
    if (rest)
        bad |= map_tail<In, Out, AFFINE, INVERSE>(Tail<In>(x + whole, rest, bits ? bits + packs : nullptr),
                                                  rest, (phase + whole) % maps.period, maps, out + whole);
    return bad;
}

template <class In, class Out, bool INVERSE>
bool map(const void *values, int n, int64_t phase, const uint8_t *bits, const Maps &maps,
         void *out, bool stream) {
    const In *x = static_cast<const In *>(values);
    // The output is rarely wider than the input, so that case converts the input first.
    if constexpr (HAS_ALL_LOOPS<In> && sizeof(In) >= sizeof(Out)) {
        Out *y = static_cast<Out *>(out);
        return maps.affine ? map_values<In, Out, true, INVERSE>(x, n, phase, bits, maps, y, stream)
                           : map_values<In, Out, false, INVERSE>(x, n, phase, bits, maps, y, stream);
    } else {
        alignas(64) double wide[PIECE];
        convert_values(wide, x, n, load_as_double<In>);
        return map<double, Out, INVERSE>(wide, n, phase, bits, maps, out, stream);
    }
}

}  // namespace streambn::STREAMBN_SIMD
