// The transform of the columns of one batch, and its inverse.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow/columns.hpp"

namespace streambn {

// The map y = clip((x - location) / scale) * gamma + beta, as arrays over features.
struct FeatureTransform {
    const double *location_hi, *location_lo, *scale;
    const double *gamma, *beta;  // null: 1 and 0
    double clip;                 // infinity: no bound
    const uint8_t *known;        // 0: the feature has no statistics, and its output is null
    bool inverse;
};

// The output of one column: rows * width values of a float type.
struct Output {
    Type type;
    uint8_t *values;     // aligned to 64 bytes
    uint8_t *validity;   // null: all values are valid
    int64_t null_count;  // set by `transform`
};

// Return whether the values of a column's output need a validity bitmap.
bool needs_validity(const Column &column, const uint8_t *known);

// Fill the outputs, with 0 under nulls. Add the NaN and infinite values found to `nans` and
// `infs`, arrays over features.
void transform(const std::vector<Column> &columns, const FeatureTransform &features,
               std::vector<Output> &outputs, int64_t *nans, int64_t *infs, int threads);

}  // namespace streambn
