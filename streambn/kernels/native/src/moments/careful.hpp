// The moments of a chunk of arbitrary values.
#pragma once

#include "moments/chunk.hpp"

namespace streambn {

// Sums a chunk piece by piece. Each piece has its own centre and units. This slower path handles
// missing values under a decay, and values at the ends of the range of float64.
Moments careful_chunk(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop,
                      const Units &units);

}  // namespace streambn
