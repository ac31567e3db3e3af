// Moments of a chunk with whatever in it.
#pragma once

#include "chunk.hpp"

namespace streambn {

// Piece by piece, each with its own centre and its own units: where there are missing values
// under a decay, or values at the ends of the range.
Moments careful_chunk(const Context &context, const LaneReader &lane, int64_t start, int64_t stop,
                      const Units &units);

}  // namespace streambn
