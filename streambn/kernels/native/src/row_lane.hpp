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
    double prior;         // extra weight of the first value, aged like it; 0: none
    int ddof;
    double eps, clip;     // infinity: none
    bool center, scale;
    Odd nan, inf;
};

// The map y = clip((x - location) / spread) * gamma + beta.
struct LaneMap {
    Pair location;
    double spread, gamma, beta;
    bool known;  // whether it is by statistics; if not, none were there
};

struct RowLane {
    Moments m;
    Moments first;     // of the first value alone, aged; nothing without a prior
    int64_t rows = 0;  // of the stream, up to which this lane is kept
    bool exact = true; // nothing but integers and decimals was seen
    double gamma = 1, beta = 0;
    bool is_mapped = false;  // whether `map` is by the moments as they are
    LaneMap map{};
};

// The feature is missing from so many rows, or the rows have nothing that counts as a value.
void learn_missing(RowLane &lane, const RowRules &rules, int64_t rows);
// `shares`: those of the last call, as most lanes of a row have one weight; zero at first.
void learn_value(RowLane &lane, const RowRules &rules, Pair x, Shares &shares);

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
