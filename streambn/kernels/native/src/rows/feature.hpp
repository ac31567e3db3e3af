// One feature of a stream of rows: its moments, value by value, and the map that they define.
// streambn/kernels/reference/rows.py has the formulas.
#pragma once

#include <cstdint>

#include "moments/moments.hpp"
#include "simd/kernels.hpp"

namespace streambn {

// The handling of NaN and infinities, in the order of `MISSING` in streambn/kernels/rows.py.
enum class Handling : uint8_t { ignore, raise, propagate };

// The hyperparameters of all features; see RowRules in streambn/kernels/rows.py.
struct RowRules {
    double decay;
    bool ignore_missing;
    double prior;
    int ddof;
    double eps, clip;
    bool center, scale;
    Handling nan, inf;
    bool zero_constant;  // a constant feature maps to 0; otherwise its scale is 1
};

// The map y = clip((x - location) / scale) * gamma + beta.
struct FeatureMap {
    Pair location;
    double scale, gamma, beta;
    bool known;  // the feature has statistics
};

struct RowFeature {
    Moments m;
    // With a prior: the first value alone, which `m` only counts; the number of rows without a
    // value before it; and the number since the last value.
    Moments first;
    int64_t before = 0, since = 0;
    int64_t rows = 0;   // the number of rows that the moments include
    bool exact = true;  // all values were integers or decimals
    double gamma = 1, beta = 0;
    bool is_mapped = false;  // `map` is up to date
    FeatureMap map{};
};

// The weight of the last value, and the shares in its merge.
struct LastShares {
    double value = 0;
    MergeShares of{};
};

// Learn `rows` rows in which the feature is missing or has no finite value.
void learn_missing(RowFeature &feature, const RowRules &rules, int64_t rows);
// Learn a value. With a prior, its weight is 1. `shares` are those of the last call, because most
// features of a row have the same weight.
void learn_value(RowFeature &feature, const RowRules &rules, Pair x, double weight, LastShares &shares);

FeatureMap map_of(const RowFeature &feature, const RowRules &rules);

inline double mapped(const FeatureMap &map, double clip, Pair x) {
    Pair location = map.location;
    double scale = map.scale;
    if (__builtin_fabs(location.hi) > 0x1p969 || scale > 0x1p969) {
        // The difference could overflow.
        x = {x.hi / 4, x.lo / 4}, location = {location.hi / 4, location.lo / 4}, scale /= 4;
    }
    double y = (((x.hi - location.hi) + x.lo) - location.lo) / scale;
    // This order of comparisons keeps NaN.
    y = y > clip ? clip : y < -clip ? -clip : y;
    return y * map.gamma + map.beta;
}

}  // namespace streambn
