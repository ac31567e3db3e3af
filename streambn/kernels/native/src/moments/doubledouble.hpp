// Double-double arithmetic. A number is the unevaluated sum hi + lo of two float64. The operations
// and their order equal those of streambn/kernels/doubledouble.py, so the bits agree.
#pragma once

namespace streambn {

struct Pair {
    double hi, lo;
    Pair operator-() const { return {-hi, -lo}; }
};

inline Pair two_sum(double a, double b) {
    const double s = a + b, t = s - a;
    return {s, (a - (s - t)) + (b - t)};
}

inline Pair split(double a) {
    const double t = 134217729.0 * a, high = t - (t - a);
    return {high, a - high};
}

inline Pair two_product(double a, double b) {
    const double p = a * b;
    const Pair x = split(a), y = split(b);
    return {p, ((x.hi * y.hi - p) + x.hi * y.lo + x.lo * y.hi) + x.lo * y.lo};
}

inline Pair add(Pair a, Pair b) {
    const Pair s = two_sum(a.hi, b.hi);
    return two_sum(s.hi, s.lo + (a.lo + b.lo));
}

inline Pair multiply(Pair a, double b) {
    const Pair p = two_product(a.hi, b);
    return two_sum(p.hi, p.lo + a.lo * b);
}

inline Pair multiply(Pair a, Pair b) {
    const Pair p = two_product(a.hi, b.hi);
    return two_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

inline Pair divide(Pair a, Pair b) {
    const double q = a.hi / b.hi;
    const Pair p = two_product(q, b.hi);
    const double remainder = ((a.hi - p.hi) - p.lo) + (a.lo - q * b.lo);
    return two_sum(q, remainder / b.hi);
}

}  // namespace streambn
