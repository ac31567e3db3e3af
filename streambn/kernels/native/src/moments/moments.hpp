// The moments of one feature in one segment of a stream, and their merge. The docstring of
// streambn/accumulators/moments.py has the formula.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "moments/doubledouble.hpp"

namespace streambn {

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr int64_t ZERO_EXPONENT = -1100;   // the exponent of a feature that has only zeros
constexpr double LEAST_WEIGHT = 0x1p-400;  // missing values do not age a weight below this
constexpr double NEGLIGIBLE = 0x1p-1000;   // smaller weights count as zero
// Moments of values whose magnitudes lie within this range have exponent 0.
constexpr double LARGEST_PLAIN = 0x1p400, SMALLEST_PLAIN = 0x1p-400;

// The fields of `MomentArrays`, which streambn/kernels/moments.py documents.
struct Moments {
    int64_t count = 0, nulls = 0, nans = 0, pos_infs = 0, neg_infs = 0;
    double min = INF, max = -INF, weight = 0, pairs = 0, squares = 0;
    Pair mean = {0, 0}, m2 = {0, 0};
    double decay = 1;
    int64_t exponent = ZERO_EXPONENT;
};

// `memory` is the memory of a `MomentArrays`: one array over features per field.
constexpr int FIELDS = 16;
Moments load_moments(const int64_t *memory, int64_t features, int64_t feature);
void store_moments(int64_t *memory, int64_t features, int64_t feature, const Moments &m);

Moments merge(const Moments &older, const Moments &newer);

// Sets the mean and m2 from the sums about a centre c: mean = c + Σwd/W, m2 = Σwd² - (Σwd)²/W.
void set_from_sums(Moments &m, Pair centre, Pair first, Pair second);

inline bool is_plain(double largest) {
    return (largest <= LARGEST_PLAIN && largest >= SMALLEST_PLAIN) || largest == 0;
}

// Returns a * 2**by, for any `by`.
inline double times_two_to(double a, int64_t by) {
    return by == 0 ? a : std::ldexp(a, static_cast<int>(by < -5000 ? -5000 : by > 5000 ? 5000 : by));
}

}  // namespace streambn
