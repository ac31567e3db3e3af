// Moments of one segment of one lane, and the monoid that joins them; the formulas and the
// fields are those of streambn/kernels/reference/merge.py and interface.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "doubledouble.hpp"

namespace streambn {

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr int64_t ZERO_EXPONENT = -1100;  // of a lane that has seen nothing but zeros
constexpr double LEAST_WEIGHT = 0x1p-400; // an EMA's weight stops falling here
constexpr double LARGEST_PLAIN = 0x1p400, SMALLEST_PLAIN = 0x1p-400;

struct Moments {
    int64_t count = 0, nulls = 0, nans = 0, pos_infs = 0, neg_infs = 0;
    double min = INF, max = -INF, weight = 0, pairs = 0, squares = 0;
    Pair mean = {0, 0}, m2 = {0, 0};
    double decay = 1;
    int64_t exponent = ZERO_EXPONENT;
};

// Arrays over lanes, one behind the other: the `memory` of a LaneArrays.
constexpr int FIELDS = 16;
Moments load_lane(const int64_t *memory, int64_t lanes, int64_t lane);
void store_lane(int64_t *memory, int64_t lanes, int64_t lane, const Moments &m);

Moments merge(const Moments &older, const Moments &newer);

// Mean and m2 from sums about a centre: mean = c + Σwd/W, m2 = Σwd² - (Σwd)²/W.
void set_from_sums(Moments &m, Pair centre, Pair first, Pair second);

inline bool is_plain(double largest) {
    return (largest <= LARGEST_PLAIN && largest >= SMALLEST_PLAIN) || largest == 0;
}

// a * 2**by for any `by`.
inline double times_two_to(double a, int64_t by) {
    return by == 0 ? a : std::ldexp(a, static_cast<int>(by < -5000 ? -5000 : by > 5000 ? 5000 : by));
}

}  // namespace streambn
