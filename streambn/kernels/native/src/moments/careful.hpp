// Moments of a chunk of any values.
#pragma once

#include "moments/chunk.hpp"

namespace streambn {

// Sum a chunk piece by piece, each with its own centre and units. This handles missing values under
// a decay, and values at the ends of the range.
Moments careful_chunk(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop,
                      const Units &units);

}  // namespace streambn
