#include "moments/estimates.hpp"

#include <algorithm>
#include <cmath>

namespace streambn {

namespace {

constexpr double NOISE = 0x1p-96;  // the relative noise of a mean
constexpr double ORDINARY_VARIANCE = 1e-290;

// Sets variance and standard deviation. `m2` is in units of 2**(2 * exponent).
void set_variance(Estimate &out, Pair m2, double divisor, int64_t exponent) {
    if (!(divisor > 0)) return;
    const double quotient = divide(m2, {divisor, 0}).hi;
    const double scaled = quotient < 0 ? 0.0 : quotient;  // NaN stays NaN
    out.var = times_two_to(scaled, 2 * exponent);
    out.std = times_two_to(std::sqrt(scaled), exponent);
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

Estimate estimate(const Moments &m, int ddof) {
    Estimate out{{0, 0}, NAN, NAN, m.weight > 0};
    const bool noise = std::fabs(m.mean.lo) < NOISE * std::fabs(m.mean.hi);
    out.mean = {times_two_to(m.mean.hi, m.exponent),
                times_two_to(noise ? 0.0 : m.mean.lo, m.exponent)};
    set_variance(out, m.m2, divisor_of(m.weight, m.pairs, m.squares, static_cast<double>(m.count), ddof), m.exponent);
    return out;
}

Estimate estimate_blocks(const Moments &means, const Moments &variances, double new_weight,
                         const BlockPrior *prior) {
    Estimate out{{0, 0}, NAN, NAN, means.weight > 0};
    const Average mean = average_of(means, new_weight, prior ? &prior->mean : nullptr);
    const Average square = average_of(variances, new_weight, prior ? &prior->var : nullptr);
    out.mean = {times_two_to(mean.value.hi, mean.exponent), times_two_to(mean.value.lo, mean.exponent)};
    const Moments &known = prior ? means : variances;
    if (known.weight > 0) set_variance(out, square.value, 1, square.exponent / 2);
    return out;
}

Scale scale_of(const Estimate &of, bool exact, double eps) {
    const double rounding = exact ? 0.0 : std::max(EPSILON * std::fabs(of.mean.hi), LEAST_NORMAL);
    const bool constant = !(of.std > rounding) && std::isfinite(of.mean.hi);
    const double std = constant ? 0.0 : of.std;
    if (eps == 0) return {constant ? 1.0 : std, constant};
    const double var = of.var + eps;
    // Where the variance leaves the range of float64 its root may not.
    const bool ordinary = of.var > ORDINARY_VARIANCE && std::isfinite(var);
    return {constant || !ordinary ? std::hypot(std, std::sqrt(eps)) : std::sqrt(var), constant};
}

Moments with_first(const Moments &m, const Moments &first, double weight) {
    Moments prior = first, rest = m;
    prior.count = prior.nulls = prior.nans = prior.pos_infs = prior.neg_infs = 0;
    prior.min = INF, prior.max = -INF;  // `m` counts the first value
    prior.weight = weight, prior.squares = weight * weight;
    rest.decay = 1;
    return merge(prior, rest);
}

}  // namespace streambn
