// The transform of the columns of one batch, and its inverse.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow/columns.hpp"

namespace streambn {

// The map y = clip((x - location) / scale) * gamma + beta. Each pointer is an array over features.
struct FeatureTransform {
    const double *location_hi, *location_lo, *scale;
    const double *gamma, *beta;  // null stands for gamma = 1 and beta = 0
    double clip;                 // infinity means no bound
    const uint8_t *known;        // a feature with 0 has no statistics, and its output is null
    bool inverse;
};

// The output buffers of one column: rows * width values of a float type.
struct Output {
    Type type;
    uint8_t *values;
    int64_t row_step, value_step;  // in bytes, as those of `Column`
    uint8_t *validity;             // null if all values are valid, or missing ones are written as 0
    int64_t null_count;            // set by `transform`
};

// Rounds to the nearest float16, ties to even.
uint16_t half_of(double value);

// Returns whether the values of the column's output need a validity bitmap. `known` starts at the
// first feature of the column.
bool needs_validity(const Column &column, const uint8_t *known);

// Fills the outputs, and writes 0 under nulls. Adds the number of NaN and infinite values of each
// feature to `nans` and `infs`, arrays over features.
void transform(const std::vector<Column> &columns, const FeatureTransform &features,
               std::vector<Output> &outputs, int64_t *nans, int64_t *infs, int threads);

}  // namespace streambn
