// The weights of one feature's values in the recursion y = λ·y + α·x.
// streambn/kernels/recursion.py has the formula.
#pragma once

#include <cstdint>

namespace streambn {

// A gap without values discounts by no more than this, as streambn/kernels/recursion.py explains.
constexpr double LEAST_FADE = 0x1p-600;

struct RecursionSummary {
    double decay;           // P, the factor by which all later values discount the first
    int64_t before, since;  // the rows without a value before the first value and after the last
};

// Writes the weight of each value as of the last value. Writes 0 for rows without a value, and for
// the first value.
RecursionSummary recursion_weights(const bool *valid, int64_t rows, double decay, double alpha,
                                   double *weights);

}  // namespace streambn
