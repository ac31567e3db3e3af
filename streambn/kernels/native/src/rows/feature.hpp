// One feature of a stream of rows. Its moments learn value by value and define its map.
// streambn/kernels/reference/rows.py has the formulas.
#pragma once

#include <cstdint>

#include "moments/estimates.hpp"
#include "moments/moments.hpp"
#include "simd/kernels.hpp"

namespace streambn {

// How NaN and infinities are handled. The order is that of `MISSING` in streambn/kernels/rows.py.
enum class Handling : uint8_t { ignore, raise, propagate };

// The hyperparameters of all features. `RowRules` in streambn/kernels/rows.py documents them.
struct RowRules {
    double decay;
    bool ignore_missing;
    double prior;
    int ddof;
    double eps, clip;
    bool center, scale;
    Handling nan, inf;
    bool zero_constant;  // a constant feature maps to 0 if true, and has scale 1 if false
    int64_t min_count = 0;  // a feature with fewer values has no map yet

    // Returns whether rows without a value are counted.
    bool counts_gaps() const { return prior > 0 || (decay != 1 && !ignore_missing); }
};

// The map y = clip((x - location) / scale) * gamma + beta.
struct FeatureMap {
    Pair location;
    double scale, gamma, beta;
    bool known;  // whether the feature has statistics, of at least `min_count` values
};

struct RowFeature {
    Moments m;
    // For rules with a prior, `first` holds the first value alone, which `m` only counts.
    Moments first;
    // The rows without a value before the first value and since the last, if the rules count them.
    int64_t before = 0, since = 0;
    int64_t rows = 0;   // the number of rows that the moments include
    bool exact = true;  // whether all values were integers or decimals
    double gamma = 1, beta = 0;
    bool is_mapped = false;  // whether `map` is up to date
    FeatureMap map{};
};

// The weight of the last value, and the shares of its merge.
struct LastShares {
    double value = 0;
    MergeShares of{};
};

inline LastShares shares_of(double w, double weight, double decay) {
    const bool from_value = weight > w;  // like `merge`, move from the heavier side
    const Pair light = divide({from_value ? w : weight, 0}, {w + weight, 0});
    return {weight, {w, decay, from_value ? weight : w, light.hi, light.lo, from_value}};
}

// The weights with which the last feature was read, and what follows from them. Most features of a
// row have the same.
struct LastWeights {
    double divisor = 0, inverse = 0;
    double first = -1, others = -1;  // with a prior: the weights of the first value and of all others
    MergeShares shares{};
};

// Replaces a negligible decay by zero. A product with a subnormal number costs about a hundred
// cycles, and the decay might never reach zero: 0.7 times the smallest subnormal is itself.
inline double without_negligible(double decay) { return decay < NEGLIGIBLE ? 0.0 : decay; }

// W, C, Q and P of a feature, and its count.
struct Weights {
    double weight, pairs, squares, decay, count;

    // Learns a value. `w` is the weight of the feature after its decay.
    void learn(double w, double value_weight, double value_decay) {
        pairs = value_decay * value_decay * pairs + w * value_weight;
        squares = value_decay * value_decay * squares + value_weight * value_weight;
        weight = w + value_weight;
        decay = without_negligible(decay * value_decay);
        count += 1;
    }
    double divisor(int ddof) const { return divisor_of(weight, pairs, squares, count, ddof); }
};

// Learns `rows` rows in which the feature is missing or not finite.
void learn_missing(RowFeature &feature, const RowRules &rules, int64_t rows);
// Learns a value that weighs `weight` and discounts all values before it by `decay`.
void learn_weighted(RowFeature &feature, Pair x, double weight, double decay, LastShares &shares);
// Learns a value by the rules. With a prior, `weight` must be 1. `shares` caches the shares of the last call,
// because most features of a row have the same weight.
void learn_value(RowFeature &feature, const RowRules &rules, Pair x, double weight, LastShares &shares);

FeatureMap map_of(const RowFeature &feature, const RowRules &rules, LastWeights &last);

inline double mapped(const FeatureMap &map, double clip, Pair x) {
    Pair location = map.location;
    double scale = map.scale;
    if (__builtin_fabs(location.hi) > 0x1p969 || scale > 0x1p969) {
        // The difference could overflow, so divide all three numbers by 4.
        x = {x.hi / 4, x.lo / 4}, location = {location.hi / 4, location.lo / 4}, scale /= 4;
    }
    double y = (((x.hi - location.hi) + x.lo) - location.lo) / scale;
    // With this order of comparisons, NaN stays NaN.
    y = y > clip ? clip : y < -clip ? -clip : y;
    return y * map.gamma + map.beta;
}

}  // namespace streambn
