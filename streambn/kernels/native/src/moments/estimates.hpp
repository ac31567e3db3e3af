// Mean, variance and scale of a feature, as they are read from its moments.
// streambn/kernels/reference/estimates.py has the formulas, and its bits agree.
#pragma once

#include "moments/moments.hpp"

namespace streambn {

struct Estimate {
    Pair mean;        // in the data's units; 0 where undefined
    double var, std;  // NaN where undefined
    bool defined;     // whether the feature has a mean
};

// Returns the divisor of m2 in the variance of W, C, Q and n. The variance is undefined unless the
// divisor is positive.
inline double divisor_of(double weight, double pairs, double squares, double count, int ddof) {
    if (ddof == 0) return weight;
    // W = Q = n implies that all weights are 1, and then n - 1 needs no rounding.
    if (weight == count && squares == count) return weight - 1.0;
    return pairs > 0 ? 2 * pairs / weight : 0.0;
}
Estimate estimate(const Moments &m, int ddof);

// Sets variance and standard deviation. `m2` is in units of 2**(2 * exponent).
void set_variance(Estimate &out, Pair m2, double divisor, int64_t exponent);

constexpr double NOISE = 0x1p-96;  // the relative noise of a mean

// A standard deviation of at most EPSILON * |mean|, or below LEAST_NORMAL, is within rounding error
// of zero.
constexpr double EPSILON = 0x1p-52, LEAST_NORMAL = 0x1p-1022;

struct Scale {
    double value;
    bool constant;  // whether the variance is within rounding error of zero
};

// `exact` says whether the values were integers or decimals, which are not rounded.
Scale scale_of(const Estimate &of, bool exact, double eps);

// Returns the moments of all values of the recursion: `m` without the first value, which weighs
// `weight`. All discounts of the first value are in its weight.
Moments with_first(const Moments &m, const Moments &first, double weight);

}  // namespace streambn
