#include "moments/estimates.hpp"

#include <algorithm>
#include <cmath>

namespace streambn {

namespace {

constexpr double ORDINARY_VARIANCE = 1e-290;

}  // namespace

void set_variance(Estimate &out, Pair m2, double divisor, int64_t exponent) {
    if (!(divisor > 0)) return;
    const double quotient = divide(m2, {divisor, 0}).hi;
    const double scaled = quotient < 0 ? 0.0 : quotient;  // NaN stays NaN
    out.var = times_two_to(scaled, 2 * exponent);
    out.std = times_two_to(std::sqrt(scaled), exponent);
}

Estimate estimate(const Moments &m, int ddof) {
    Estimate out{{0, 0}, NAN, NAN, m.weight > 0};
    const bool noise = std::fabs(m.mean.lo) < NOISE * std::fabs(m.mean.hi);
    out.mean = {times_two_to(m.mean.hi, m.exponent),
                times_two_to(noise ? 0.0 : m.mean.lo, m.exponent)};
    set_variance(out, m.m2, divisor_of(m.weight, m.pairs, m.squares, static_cast<double>(m.count), ddof), m.exponent);
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
