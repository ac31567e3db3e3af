// Normalization of the columns of one batch, and its inverse.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow.hpp"

namespace streambn {

// The map y = clip((x - location) / spread) * gamma + beta, arrays over lanes.
struct LaneTransform {
    const double *location_hi, *location_lo, *spread;
    const double *gamma, *beta;  // null: 1 and 0
    double clip;                 // infinity: none
    const uint8_t *known;        // 0: the lane was never seen, its output is null
    bool inverse;
};

// Where one column's output goes: rows * width values of a float type.
struct Output {
    Type type;
    uint8_t *values;     // at a multiple of 64
    uint8_t *validity;   // null: all valid
    int64_t null_count;  // set by `transform`
};

// Whether a column's output has nulls of its own (those of the lists around it are not).
bool needs_validity(const Leaf &leaf, const uint8_t *known);

// Fill the outputs; nulls get 0. Adds to `nans` and `infs`, over lanes, what was met.
void transform(const std::vector<Leaf> &leaves, const LaneTransform &lanes,
               std::vector<Output> &outputs, int64_t *nans, int64_t *infs, int threads);

}  // namespace streambn
