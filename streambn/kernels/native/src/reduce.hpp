// Moments of the columns of one batch.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow.hpp"
#include "moments.hpp"

namespace streambn {

// Rows that are reduced around one centre: 256 KB of float64, which a second pass around a
// better one finds in the second-level cache.
constexpr int64_t CHUNK = 32768;
// Rows of one task. What is in a range depends on the data alone, so the results do not
// depend on how many threads there are.
constexpr int64_t RANGE = 4 * CHUNK;
// Batches of so few rows are summed to the last bit.
constexpr int64_t SHORT = 1024;

// How rows are weighted: row i of n with weights[i] * decay**(n-1-i). `ignore_missing`: a
// missing value does not age the others. `weights`: null for ones.
struct Weighing {
    double decay = 1;
    bool ignore_missing = false;
    const double *weights = nullptr;
};

// Moments, one a lane, lanes in the order of the columns.
std::vector<Moments> block_moments(const std::vector<Leaf> &leaves, Weighing weighing,
                                   int threads);

}  // namespace streambn
