#include "moments/averages.hpp"

#include <algorithm>
#include <cmath>

namespace streambn {

namespace {

constexpr int64_t ORDINARY = 400;        // values within 2**±400 are kept in plain units
constexpr int64_t NO_EXPONENT = -2200;   // below the exponent of any other value

// Returns one row value * 2**exponent of weight 1, or a missing one. It has no counts or extremes.
Moments single(Pair value, int64_t exponent, double decay, bool present) {
    Moments row;
    if (!present) {
        row.exponent = NO_EXPONENT;
        return row;
    }
    row.weight = row.squares = 1;
    row.decay = decay;
    row.exponent = NO_EXPONENT;
    row.mean = value;
    if (value.hi == 0) return row;
    int binary;
    (void)std::frexp(value.hi, &binary);
    const int64_t total = binary + exponent;
    // An even exponent, because the value may be a variance whose root is read.
    row.exponent = total >= -ORDINARY && total <= ORDINARY ? 0 : total - (total % 2 != 0);
    const int64_t shift = exponent - row.exponent;
    row.mean = {times_two_to(value.hi, shift), times_two_to(value.lo, shift)};
    return row;
}

struct Average {
    Pair value;
    int64_t exponent;
};

// Returns P * prior + (1 - P) * average, where P is the discount of all blocks.
Average average_of(const Moments &blocks, double new_weight, const double *prior) {
    if (!prior) return {blocks.mean, blocks.exponent};
    const int64_t exponent = *prior != 0 ? std::max<int64_t>(blocks.exponent, 0) : blocks.exponent;
    const int64_t by = blocks.exponent - exponent;
    const Pair mean{times_two_to(blocks.mean.hi, by), times_two_to(blocks.mean.lo, by)};
    // 1 - P equals the sum of the weights times the weight of a new block, which does not cancel.
    const Pair pull{times_two_to(blocks.decay * *prior, -exponent), 0};
    return {add(multiply(mean, new_weight * blocks.weight), pull), exponent};
}

}  // namespace

Averages append_block(const Averages &of, const Moments &block, double decay, int ddof) {
    Moments mean = single(block.mean, block.exponent, decay, block.count > 0);
    mean.count = block.count, mean.nulls = block.nulls, mean.nans = block.nans;
    mean.pos_infs = block.pos_infs, mean.neg_infs = block.neg_infs;
    mean.min = block.min, mean.max = block.max;
    const double divisor = block.weight - ddof;
    const Pair variance = divide(block.m2, {divisor > 0 ? divisor : 1.0, 0});
    return {merge(of.means, mean),
            merge(of.variances, single(variance, 2 * block.exponent, decay, divisor > 0))};
}

Estimate estimate(const Averages &of, double new_weight, const BlockPrior *prior) {
    const Moments &means = of.means, &variances = of.variances;
    Estimate out{{0, 0}, NAN, NAN, means.weight > 0};
    const Average mean = average_of(means, new_weight, prior ? &prior->mean : nullptr);
    const Average square = average_of(variances, new_weight, prior ? &prior->var : nullptr);
    out.mean = {times_two_to(mean.value.hi, mean.exponent), times_two_to(mean.value.lo, mean.exponent)};
    const Moments &known = prior ? means : variances;
    if (known.weight > 0) set_variance(out, square.value, 1, square.exponent / 2);
    return out;
}

}  // namespace streambn
