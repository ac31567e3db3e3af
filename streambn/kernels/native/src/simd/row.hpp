// The merge of a feature's moments with one value. The docstring of
// streambn/accumulators/moments.py has the formula.
#pragma once

#include "simd/kernels.hpp"
#include "simd/vector.hpp"

namespace streambn::STREAMBN_SIMD {

// A double-double like `Pair` in moments/doubledouble.hpp, of one feature or of eight. Its products
// are fused if the instruction set has FMA.
template <class Number>
struct Two {
    Number hi, lo;
};

STREAMBN_INLINE Pack operator-(const Pack &a) { return each<double>(STREAMBN_PART(-a.part[i])); }
template <class Number>
STREAMBN_INLINE Two<Number> operator-(const Two<Number> &a) {
    return {-a.hi, -a.lo};
}

// Returns a * b - product, the rounding error of the product.
#if defined(__FMA__)
STREAMBN_INLINE double error_of_product(double a, double b, double product) {
    return __builtin_fma(a, b, -product);
}
STREAMBN_INLINE Pack error_of_product(const Pack &a, const Pack &b, const Pack &product) {
    return each<double>(STREAMBN_PART((Register<double>)STREAMBN_FMA(a.part[i], b.part[i], -product.part[i])));
}
#else
STREAMBN_INLINE double constant(double value, double) { return value; }
STREAMBN_INLINE Pack constant(double value, const Pack &) { return broadcast(value); }
template <class Number>
STREAMBN_INLINE Number error_of_product(const Number &a, const Number &b, const Number &product) {
    const Number splitter = constant(134217729.0, a);
    const Number s = splitter * a, ah = s - (s - a), al = a - ah;
    const Number t = splitter * b, bh = t - (t - b), bl = b - bh;
    return ((ah * bh - product) + ah * bl + al * bh) + al * bl;
}
#endif

// Returns a + b and its rounding error, for |a| >= |b| or nearly so.
template <class Number>
STREAMBN_INLINE Two<Number> quick_two_sum(const Number &a, const Number &b) {
    const Number s = a + b;
    return {s, b - (s - a)};
}
// Returns a + b, where `lo` is the sum of their lower parts.
template <class Number>
STREAMBN_INLINE Two<Number> sum_of(const Number &a, const Number &b, const Number &lo) {
    const Number s = a + b, t = s - a;
    return quick_two_sum<Number>(s, ((a - (s - t)) + (b - t)) + lo);
}
template <class Number>
STREAMBN_INLINE Two<Number> sum_of(const Two<Number> &a, const Two<Number> &b) {
    return sum_of<Number>(a.hi, b.hi, a.lo + b.lo);
}
template <class Number>
STREAMBN_INLINE Two<Number> product_of(const Two<Number> &a, const Two<Number> &b) {
    const Number p = a.hi * b.hi;
    return quick_two_sum<Number>(p, error_of_product(a.hi, b.hi, p) + (a.hi * b.lo + a.lo * b.hi));
}
template <class Number>
STREAMBN_INLINE Two<Number> product_of(const Two<Number> &a, const Number &b) {
    const Number p = a.hi * b;
    return quick_two_sum<Number>(p, error_of_product(a.hi, b, p) + a.lo * b);
}

// The mean and m2 of one feature or of eight.
template <class Number>
struct Learned {
    Two<Number> mean, m2;
};

// Merges moments with one value x each. The weights are those of `MergeShares`. `decays` is false
// if `decay` is 1.
template <class Number>
STREAMBN_INLINE void learn(Learned<Number> &m, const Two<Number> &x, const Two<Number> &light,
                           const Number &heavy, const Number &decay, bool decays, bool from_value) {
    const Two<Number> delta = sum_of(x, -m.mean);
    const Two<Number> move = product_of(delta, light);
    const Two<Number> between = product_of(product_of(delta, move), heavy);
    m.mean = from_value ? sum_of(x, -move) : sum_of(m.mean, move);
    if (decays) m.m2 = product_of(m.m2, decay);
    m.m2 = sum_of(m.m2, between);
}

inline void add_value(RunningMoments *moments, double hi, double lo, const MergeShares &shares) {
    Learned<double> m{{moments->mean_hi, moments->mean_lo}, {moments->m2_hi, moments->m2_lo}};
    learn<double>(m, {hi, lo}, {shares.light_hi, shares.light_lo}, shares.heavy, shares.decay,
                  shares.decay != 1, shares.from_value);
    *moments = {m.mean.hi, m.mean.lo, m.m2.hi, m.m2.lo};
}

// Returns the merge of a first value, the older one, with the moments of all others. The weights
// are those of `FirstValue`.
template <class Number>
STREAMBN_INLINE Learned<Number> with_first(const Learned<Number> &m, const Two<Number> &first,
                                           const Two<Number> &light, const Number &heavy,
                                           bool from_others) {
    const Two<Number> delta = sum_of(m.mean, -first), move = product_of(delta, light);
    const Two<Number> between = product_of(product_of(delta, move), heavy);
    return {from_others ? sum_of(m.mean, -move) : sum_of(first, move), sum_of(m.m2, between)};
}

// Returns a / b as `divide` does, by the reciprocal of b. Any quotient near a / b serves, because
// its exact remainder corrects it.
template <class Number>
STREAMBN_INLINE Number quotient_of(const Two<Number> &a, const Number &b, const Number &inverse) {
    const Number q = a.hi * inverse, p = q * b;
    return q + (((a.hi - p) - error_of_product(q, b, p)) + a.lo) * inverse;
}

inline double read_variance(RunningMoments *moments, const FirstValue *first, double divisor,
                            double inverse) {
    Learned<double> m{{moments->mean_hi, moments->mean_lo}, {moments->m2_hi, moments->m2_lo}};
    if (first) {
        m = with_first<double>(m, {first->hi, first->lo}, {first->light_hi, first->light_lo},
                               first->heavy, first->from_others);
        *moments = {m.mean.hi, m.mean.lo, m.m2.hi, m.m2.lo};
    }
    return divisor > 0 ? quotient_of<double>(m.m2, divisor, inverse) : __builtin_nan("");
}

}  // namespace streambn::STREAMBN_SIMD
