// The merge of a feature's moments with one value. The docstring of
// streambn/accumulators/moments.py has the formula.
#pragma once

#include "simd/kernels.hpp"
#include "simd/vector.hpp"

namespace streambn::STREAMBN_SIMD {

// A double-double like `Pair` in moments/doubledouble.hpp. Its products are fused if the
// instruction set has FMA.
struct Two {
    double hi, lo;
};

// Returns a + b and its rounding error, for |a| >= |b| or nearly so.
STREAMBN_INLINE Two quick_two_sum(double a, double b) {
    const double s = a + b;
    return {s, b - (s - a)};
}
STREAMBN_INLINE Two sum_of(Two a, Two b) {
    const double s = a.hi + b.hi, t = s - a.hi;
    return quick_two_sum(s, ((a.hi - (s - t)) + (b.hi - t)) + (a.lo + b.lo));
}
STREAMBN_INLINE Two product_of(Two a, Two b) {
    const double p = a.hi * b.hi;
#if defined(__FMA__)
    const double e = __builtin_fma(a.hi, b.hi, -p);
#else
    const double s = 134217729.0 * a.hi, ah = s - (s - a.hi), al = a.hi - ah;
    const double t = 134217729.0 * b.hi, bh = t - (t - b.hi), bl = b.hi - bh;
    const double e = ((ah * bh - p) + ah * bl + al * bh) + al * bl;
#endif
    return quick_two_sum(p, e + (a.hi * b.lo + a.lo * b.hi));
}

inline void add_value(RunningMoments *moments, double hi, double lo, const MergeShares &shares) {
    const Two x{hi, lo}, mean{moments->mean_hi, moments->mean_lo};
    const Two delta = sum_of(x, {-mean.hi, -mean.lo});
    const Two move = product_of(delta, {shares.light_hi, shares.light_lo});
    const Two between = product_of(product_of(delta, move), {shares.heavy, 0});
    const Two moved = shares.from_value ? sum_of(x, {-move.hi, -move.lo}) : sum_of(mean, move);
    Two m2{moments->m2_hi, moments->m2_lo};
    if (shares.decay != 1) m2 = product_of(m2, {shares.decay, 0});
    m2 = sum_of(m2, between);
    *moments = {moved.hi, moved.lo, m2.hi, m2.lo};
}

}  // namespace streambn::STREAMBN_SIMD
