// One feature of a stream of rows: its moments, value by value, and the map that they define.
// The formulas are those of streambn/kernels/reference/rows.py.
#pragma once

#include <cstdint>

#include "kernels.hpp"
#include "moments.hpp"

namespace streambn {

// What a NaN or an infinity does; the order is that of `MISSING` in interface.py.
enum class Odd : uint8_t { ignore, raise, propagate };

// The hyperparameters, the same for all features.
struct RowRules {
    double decay;         // of what came before, a row
    bool ignore_missing;  // a missing value does not age the others
    double prior;         // what the first value weighs: see rows.py; 0: as any other
    int ddof;
    double eps, clip;     // infinity: none
    bool center, scale;
    Odd nan, inf;
    bool zero_constant;  // a constant feature becomes 0 whatever the value; else its scale is 1
};

// The map y = clip((x - location) / spread) * gamma + beta.
struct LaneMap {
    Pair location;
    double spread, gamma, beta;
    bool known;  // whether it is by statistics; if not, none were there
};

struct RowLane {
    Moments m;
    // With a prior: the first value alone, which `m` leaves to it but for the books, and how many
    // rows without a value came before it and after the last one.
    Moments first;
    int64_t before = 0, since = 0;
    int64_t rows = 0;  // of the stream, up to which this lane is kept
    bool exact = true; // nothing but integers and decimals was seen
    double gamma = 1, beta = 0;
    bool is_mapped = false;  // whether `map` is by the moments as they are
    LaneMap map{};
};

// What the last value weighed, and the shares that it had.
struct LastShares {
    double value = 0;
    Shares of{};
};

// The feature is missing from so many rows, or the rows have nothing that counts as a value.
void learn_missing(RowLane &lane, const RowRules &rules, int64_t rows);
// A value that weighs so much, which with a prior is 1. `shares`: those of the last call, as most
// lanes of a row have one weight.
void learn_value(RowLane &lane, const RowRules &rules, Pair x, double weight, LastShares &shares);

LaneMap map_of(const RowLane &lane, const RowRules &rules);

inline double mapped(const LaneMap &map, double clip, Pair x) {
    Pair location = map.location;
    double spread = map.spread;
    if (__builtin_fabs(location.hi) > 0x1p969 || spread > 0x1p969) {
        // A difference of values that far apart would overflow.
        x = {x.hi / 4, x.lo / 4}, location = {location.hi / 4, location.lo / 4}, spread /= 4;
    }
    double y = (((x.hi - location.hi) + x.lo) - location.lo) / spread;
    // In this order a NaN stays.
    y = y > clip ? clip : y < -clip ? -clip : y;
    return y * map.gamma + map.beta;
}

}  // namespace streambn
