#include "rows/feature.hpp"

#include <algorithm>
#include <cmath>

#include "moments/estimates.hpp"
#include "moments/recursion.hpp"

namespace streambn {

namespace {

Moments single(Pair x, double weight, double decay) {
    Moments m;
    m.count = 1;
    m.min = m.max = x.hi;
    m.weight = weight;
    m.squares = weight * weight;
    m.mean = x;
    m.decay = decay;
    const double size = std::fabs(x.hi);
    if (size != 0 && !is_plain(size)) {
        int exponent;
        (void)std::frexp(size, &exponent);
        m.exponent = exponent;
        m.mean = {times_two_to(x.hi, -exponent), times_two_to(x.lo, -exponent)};
    } else if (size != 0) {
        m.exponent = 0;
    }
    return m;
}

// Returns mean and variance of all values of a feature, with the bits of `estimate`. The first value
// of a rule with a prior is not in its moments.
Estimate read(const RowFeature &feature, const RowRules &rules, LastWeights &last) {
    static const ReadVariance read_variance = kernels().read_variance;
    const Moments &m = feature.m, &first = feature.first;
    const bool prior = rules.prior > 0;
    const double extra = prior ? rules.prior * m.decay : 0.0;
    // Zero has no exponent, so it joins values of any exponent.
    if (m.exponent != 0 || m.weight == 0 || (prior && first.exponent != 0 && first.mean.hi != 0))
        return estimate(prior ? with_first(m, first, extra) : m, rules.ddof);
    const double divisor = divisor_of(m.weight + extra, m.pairs + extra * m.weight,
                                      m.squares + extra * extra, static_cast<double>(m.count), rules.ddof);
    if (divisor != last.divisor) last.divisor = divisor, last.inverse = 1 / divisor;
    if (prior && (extra != last.first || m.weight != last.others)) {
        last.first = extra, last.others = m.weight;
        last.shares = shares_of(extra, m.weight, 1).of;
    }
    RunningMoments all{m.mean.hi, m.mean.lo, m.m2.hi, m.m2.lo};
    const FirstValue value{first.mean.hi,         first.mean.lo,         last.shares.heavy,
                           last.shares.light_hi,  last.shares.light_lo,  last.shares.from_value};
    const double var = std::max(read_variance(&all, prior ? &value : nullptr, divisor, last.inverse), 0.0);
    const bool noise = std::fabs(all.mean_lo) < NOISE * std::fabs(all.mean_hi);
    return {{all.mean_hi, noise ? 0.0 : all.mean_lo}, var, std::sqrt(var), true};
}

}  // namespace

void learn_missing(RowFeature &feature, const RowRules &rules, int64_t rows) {
    // Missing values take effect at the next value.
    if (rules.counts_gaps()) (feature.m.count == 0 ? feature.before : feature.since) += rows;
}

void learn_weighted(RowFeature &feature, Pair x, double weight, double decay, LastShares &shares) {
    static const AddValue add_value = kernels().add_value;
    Moments &m = feature.m;
    feature.is_mapped = false;
    const double w = decay * m.weight, size = std::fabs(x.hi);
    // Zero has no exponent, so it joins values of any exponent.
    if (w == 0 || m.exponent != 0 || !is_plain(size)) {
        m = merge(m, single(x, weight, decay));
        m.decay = without_negligible(m.decay);
        return;
    }
    if (w != shares.of.w || weight != shares.value || decay != shares.of.decay)
        shares = shares_of(w, weight, decay);
    RunningMoments grown{m.mean.hi, m.mean.lo, m.m2.hi, m.m2.lo};
    add_value(&grown, x.hi, x.lo, shares.of);
    m.mean = {grown.mean_hi, grown.mean_lo};
    m.m2 = {grown.m2_hi, grown.m2_lo};
    Weights weights{m.weight, m.pairs, m.squares, m.decay, 0};
    weights.learn(w, weight, decay);
    m.weight = weights.weight, m.pairs = weights.pairs, m.squares = weights.squares, m.decay = weights.decay;
    m.count += 1;
    m.min = std::min(m.min, x.hi);
    m.max = std::max(m.max, x.hi);
}

void learn_value(RowFeature &feature, const RowRules &rules, Pair x, double weight, LastShares &shares) {
    Moments &m = feature.m;
    double decay = rules.decay;
    if (rules.prior > 0 && feature.first.count == 0) {
        feature.is_mapped = false;
        feature.first = single(x, 1, 1);
        m.count += 1;
        m.min = std::min(m.min, x.hi);
        m.max = std::max(m.max, x.hi);
        return;
    }
    if (feature.since > 0 && !rules.ignore_missing) {
        const double gap = std::pow(decay, static_cast<double>(feature.since));
        decay *= std::max(gap, LEAST_FADE);
        if (rules.prior > 0) {
            weight = 1 / (decay + 1 / rules.prior);
            decay *= weight;
        }
    }
    feature.since = 0;
    learn_weighted(feature, x, weight, decay, shares);
}

FeatureMap map_of(const RowFeature &feature, const RowRules &rules, LastWeights &last) {
    FeatureMap map{{0, 0}, 1, feature.gamma, feature.beta, feature.m.count > 0};
    const Moments &m = feature.m;
    double poison = rules.nan == Handling::propagate && m.nans > 0 ? NAN : 0.0;
    if (rules.inf == Handling::propagate) {
        if (m.pos_infs > 0) poison += INF;
        if (m.neg_infs > 0) poison -= INF;  // infinities of both signs give NaN
    }
    const bool poisoned = poison != 0;
    if ((!map.known && !poisoned) || m.count < rules.min_count) {
        map.known = false;
        return map;
    }
    map.known = true;
    const Estimate found = poisoned ? Estimate{{poison, 0}, NAN, NAN, true} : read(feature, rules, last);
    if (rules.center) map.location = found.mean;
    if (!rules.scale) return map;
    const Scale scale = scale_of(found, feature.exact, rules.eps);
    map.scale = scale.value;
    if (scale.constant && rules.eps == 0 && rules.zero_constant) map.gamma = 0;
    return map;
}

}  // namespace streambn
