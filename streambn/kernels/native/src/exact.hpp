// Exact sums of columns: integers, the same whatever the order, the cuts and the threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "arrow.hpp"
#include "int256.hpp"
#include "limbs.hpp"

namespace streambn {

// Rows of memory of an `ExactSums`; see streambn/kernels/interface.py.
constexpr int EXACT_TOTAL = 9, EXACT_SQUARES = 43, EXACT_ROWS = 110;
constexpr size_t TOTAL_WORDS = EXACT_SQUARES - EXACT_TOTAL, SQUARES_WORDS = EXACT_ROWS - EXACT_SQUARES;
// Of floats and integers the unit of a sum is 2**-1074, which all floats are multiples of.
constexpr int UNIT = 1074;

// One lane. Nothing of it can overflow: |x| < 2**1024 is fewer than 2**2098 units, and so fewer
// than 2**63 of them less than 2**2161, which TOTAL_WORDS hold; likewise 2**4259 for the squares.
struct ExactLane {
    int64_t count = 0, nulls = 0, nans = 0, pos_infs = 0, neg_infs = 0;
    double min = std::numeric_limits<double>::infinity();
    double max = -std::numeric_limits<double>::infinity();
    int64_t decimal = 0, scale = 0;  // decimal: the unit is 10**-scale
    Word total[TOTAL_WORDS] = {}, squares[SQUARES_WORDS] = {};
};

ExactLane load_exact(const int64_t *memory, int64_t lanes, int64_t lane);
void store_exact(int64_t *memory, int64_t lanes, int64_t lane, const ExactLane &from);

// Merge b into a; false: they have no common unit, or do not fit. Then a is spoilt.
[[nodiscard]] bool merge(ExactLane &a, const ExactLane &b);

// Extremes by value, and -0.0 before 0.0: what comes out does not depend on what was seen first.
inline bool comes_before(double a, double b) {
    return a < b || (a == b && std::signbit(a) && !std::signbit(b));
}
inline void widen(ExactLane &lane, double low, double high) {
    if (comes_before(low, lane.min)) lane.min = low;
    if (comes_before(lane.max, high)) lane.max = high;
}

// x / 10**scale, rounded once to the nearest float64, of two as near to the even one.
double rounded_decimal(const Int256 &x, int scale);

// Of each lane of a batch, lanes in the order of the columns.
std::vector<ExactLane> exact_sums(const std::vector<Leaf> &leaves, int threads);

}  // namespace streambn
