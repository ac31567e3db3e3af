#include "rows/feature.hpp"

#include <algorithm>
#include <cmath>

#include "moments/recursion.hpp"

namespace streambn {

namespace {

constexpr double EPSILON = 0x1p-52, LEAST_NORMAL = 0x1p-1022;
constexpr double NOISE = 0x1p-96;  // the relative noise of a mean; see accumulators/moments.py

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

// Replaces a negligible decay by zero. A product with a subnormal number costs about a hundred
// cycles, and the decay might never reach zero: 0.7 times the smallest subnormal is itself.
double without_negligible(double decay) { return decay < 0x1p-1000 ? 0.0 : decay; }

// The moments of a feature, including its prior.
struct ReadMoments {
    double weight, pairs, m2;
    Pair mean;
    int64_t exponent;
};

ReadMoments read_moments(const RowFeature &feature, const RowRules &rules) {
    const Moments &m = feature.m, &first = feature.first;
    if (rules.prior == 0 || m.count == 0) return {m.weight, m.pairs, m.m2.hi, m.mean, m.exponent};
    const double extra = rules.prior * m.decay, weight = m.weight + extra;
    const double pairs = m.pairs + extra * m.weight;
    if (m.exponent != 0 || first.exponent != 0) {
        // `extra` already includes the decay of later rows, so the merge must not decay it again.
        Moments prior = first, rest = m;
        prior.weight = extra, rest.decay = 1;
        const Moments all = merge(prior, rest);
        return {all.weight, pairs, all.m2.hi, all.mean, all.exponent};
    }
    // The difference of the means may cancel and needs double-doubles. Later steps do not cancel,
    // so float64 is enough.
    const double delta = add(first.mean, -m.mean).hi, share = extra / weight;
    return {weight, pairs, m.m2.hi + delta * delta * share * m.weight,
            add(m.mean, {delta * share, 0}), 0};
}

LastShares shares_of(double w, double weight, double decay) {
    const bool from_value = weight > w;  // like `merge`, move from the heavier side
    const Pair light = divide({from_value ? w : weight, 0}, {w + weight, 0});
    return {weight, {w, decay, from_value ? weight : w, light.hi, light.lo, from_value}};
}

}  // namespace

void learn_missing(RowFeature &feature, const RowRules &rules, int64_t rows) {
    // Missing values take effect at the next value.
    if (rules.counts_gaps()) (feature.m.count == 0 ? feature.before : feature.since) += rows;
}

void learn_value(RowFeature &feature, const RowRules &rules, Pair x, double weight, LastShares &shares) {
    static const AddValue add_value = kernels().add_value;
    Moments &m = feature.m;
    feature.is_mapped = false;
    double decay = rules.decay;
    if (rules.prior > 0 && feature.first.count == 0) {
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
    const double w = decay * m.weight;
    if (w == 0 || m.exponent != 0 || x.hi == 0 || !is_plain(std::fabs(x.hi))) {
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
    m.pairs = decay * decay * m.pairs + w * weight;
    m.squares = decay * decay * m.squares + weight * weight;
    m.weight = w + weight;
    m.decay = without_negligible(m.decay * decay);
    m.count += 1;
    m.min = std::min(m.min, x.hi);
    m.max = std::max(m.max, x.hi);
}

FeatureMap map_of(const RowFeature &feature, const RowRules &rules) {
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
    const ReadMoments read = read_moments(feature, rules);
    const int64_t by = read.exponent;
    Pair mean{times_two_to(read.mean.hi, by), times_two_to(read.mean.lo, by)};
    if (std::fabs(mean.lo) < NOISE * std::fabs(mean.hi)) mean.lo = 0;
    if (rules.center) map.location = poisoned ? Pair{poison, 0} : mean;
    if (!rules.scale) return map;
    const double divisor =
        rules.ddof == 0 ? read.weight : read.pairs > 0 ? 2 * read.pairs / read.weight : 0.0;
    const double scaled = divisor > 0 && !poisoned ? std::max(read.m2 / divisor, 0.0) : NAN;
    double std = times_two_to(std::sqrt(scaled), by);
    const double var = times_two_to(scaled, 2 * by), centre = poisoned ? poison : mean.hi;
    const bool constant =
        !(std > (feature.exact ? 0.0 : std::max(EPSILON * std::fabs(centre), LEAST_NORMAL))) &&
        std::isfinite(centre);
    if (constant) std = 0;
    if (rules.eps == 0) {
        map.scale = constant ? 1.0 : std;
        if (constant && rules.zero_constant) map.gamma = 0;
        return map;
    }
    const bool ordinary = var > 1e-290 && std::isfinite(var + rules.eps);
    map.scale = constant || !ordinary ? std::hypot(std, std::sqrt(rules.eps)) : std::sqrt(var + rules.eps);
    return map;
}

}  // namespace streambn
