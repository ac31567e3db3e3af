// The running averages over blocks of rows, each block one row of means and one of variances.
// streambn/kernels/reference/averages.py has the formulas, and its bits agree.
#pragma once

#include "moments/estimates.hpp"

namespace streambn {

struct Averages {
    Moments means, variances;
};

// Returns the averages with one more block, which discounts those before it by `decay`.
Averages append_block(const Averages &of, const Moments &block, double decay, int ddof);

// The values before the first block.
struct BlockPrior {
    double mean, var;
};

// A new block weighs `new_weight` of the running value. A null prior stands for none.
Estimate estimate(const Averages &of, double new_weight, const BlockPrior *prior);

}  // namespace streambn
