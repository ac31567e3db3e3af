// Exact sums of columns. The sums are integers, so they do not depend on the order of the values,
// the batches or the threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "arrow/columns.hpp"
#include "arrow/int256.hpp"
#include "exact/limbs.hpp"

namespace streambn {

// Rows of the memory of an `ExactSums`, which streambn/kernels/exact.py documents.
constexpr int EXACT_TOTAL = 9, EXACT_SQUARES = 43, EXACT_ROWS = 110;
constexpr size_t TOTAL_WORDS = EXACT_SQUARES - EXACT_TOTAL, SQUARES_WORDS = EXACT_ROWS - EXACT_SQUARES;
// The unit of a sum of floats or integers is 2**-1074. Every float64 is a multiple of it.
constexpr int UNIT = 1074;

// The sums of one feature. They cannot overflow. Each |x| < 2**1024 is less than 2**2098 units, so
// the total of fewer than 2**63 values stays below 2**2161 units, which TOTAL_WORDS words hold. The
// sum of squares stays below 2**4259 units of 2**-2148.
struct ExactFeature {
    int64_t count = 0, nulls = 0, nans = 0, pos_infs = 0, neg_infs = 0;
    double min = std::numeric_limits<double>::infinity();
    double max = -std::numeric_limits<double>::infinity();
    int64_t decimal = 0, scale = 0;  // if decimal is 1, the unit is 10**-scale
    Word total[TOTAL_WORDS] = {}, squares[SQUARES_WORDS] = {};
};

ExactFeature load_exact(const int64_t *memory, int64_t features, int64_t feature);
void store_exact(int64_t *memory, int64_t features, int64_t feature, const ExactFeature &from);

// Merges b into a. Returns false if they have no common unit or if the sums do not fit. In that
// case a is no longer valid.
[[nodiscard]] bool merge(ExactFeature &a, const ExactFeature &b);

// The order of the extremes. It puts -0.0 before 0.0, so that the extremes do not depend on the
// order of the values.
inline bool comes_before(double a, double b) {
    return a < b || (a == b && std::signbit(a) && !std::signbit(b));
}
inline void extend_range(ExactFeature &feature, double low, double high) {
    if (comes_before(low, feature.min)) feature.min = low;
    if (comes_before(feature.max, high)) feature.max = high;
}

// Returns x / 10**scale, rounded once to the nearest float64, ties to even.
double rounded_decimal(const Int256 &x, int scale);

// Returns the sums of each feature of a batch, in the order of the columns.
std::vector<ExactFeature> exact_sums(const std::vector<Column> &columns, int threads);

}  // namespace streambn
