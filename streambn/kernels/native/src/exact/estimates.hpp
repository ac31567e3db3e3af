// Mean and variance of exact sums, each rounded once. ExactMoments.read in
// streambn/accumulators/exact.py has the formulas, and the bits agree.
#pragma once

#include "exact/sums.hpp"
#include "moments/estimates.hpp"

namespace streambn {

// Returns mean Σx/n and variance (n·Σx² - (Σx)²)/(n·(n - ddof)), each the nearest float64, ties to
// even. The sums must not be decimal.
Estimate estimate(const ExactFeature &sums, int ddof);

}  // namespace streambn
