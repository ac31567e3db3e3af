// The moments of the columns of one batch.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow/columns.hpp"
#include "moments/moments.hpp"
#include "moments/weights.hpp"

namespace streambn {

// The number of rows that are summed about one centre. They are 256 KB of float64, so a second pass
// about a better centre finds them in the second-level cache.
constexpr int64_t CHUNK = 32768;
// The number of rows of one task. The division into ranges depends on the data alone, so the
// results do not depend on the number of threads.
constexpr int64_t RANGE = 4 * CHUNK;
// Batches of at most this many unweighted rows without decay are summed to 90 bits.
constexpr int64_t SHORT = 1024;

// Returns the moments of each feature, in the order of the columns.
std::vector<Moments> block_moments(const std::vector<Column> &columns, Weighting weighting,
                                   int threads);

}  // namespace streambn
