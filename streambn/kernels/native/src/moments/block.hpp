// Moments of the columns of one batch.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow/columns.hpp"
#include "moments/moments.hpp"
#include "moments/weights.hpp"

namespace streambn {

// Rows that are reduced about one centre: 256 KB of float64, so that a second pass about a better
// centre finds them in the second-level cache.
constexpr int64_t CHUNK = 32768;
// Rows of one task. The ranges depend on the data alone, so the results do not depend on the
// number of threads.
constexpr int64_t RANGE = 4 * CHUNK;
// Batches with at most this many rows are summed to 90 bits.
constexpr int64_t SHORT = 1024;

// The moments of each feature, in the order of the columns.
std::vector<Moments> block_moments(const std::vector<Column> &columns, Weighting weighting,
                                   int threads);

}  // namespace streambn
