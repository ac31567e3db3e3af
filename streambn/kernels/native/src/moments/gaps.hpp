// Gaps: rows without a value in an exponentially weighted average. streambn/kernels/reference/gaps.py
// does the same.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow/columns.hpp"
#include "moments/moments.hpp"

namespace streambn {

// The tables of powers of the decay end at these sizes.
constexpr int64_t TABULATED_ROWS = 1024, EDGE = 52;
constexpr int64_t POWERS = TABULATED_ROWS + 2 * EDGE - 1;

// The rows of one feature without a value before its first value and after its last one.
struct Gaps {
    int64_t before = 0, since = 0;
    bool any() const { return before != 0 || since != 0; }
};
// The gaps of a feature in a batch, and whether one of them may be too long for the formula.
struct BatchGaps : Gaps {
    bool is_long = false;
};

// Returns the gaps of each feature, whose moments are given. A feature without a value has all rows
// in its first gap. If `is_long` is set, the others need not be.
std::vector<BatchGaps> find_gaps(const std::vector<Column> &columns, const std::vector<Moments> &moments,
                                 double decay, int64_t bytes, int threads);

// A feature of an average by row: its moments as of its last value, and its gaps.
struct GappedMoments {
    Moments m;
    Gaps gaps;
};

// Returns the rows of the longest gap whose discount is not bounded.
double longest_gap(double decay);

// Extends features by a batch of `rows` rows.
class GapMerge {
  public:
    // `powers` holds λ**0, λ**1, … for TABULATED_ROWS gaps, and then λ**rows, λ**(rows - 1), ….
    explicit GapMerge(const double *powers) : powers_(powers) {}
    // Converts moments as of the last row to moments as of the last value.
    GappedMoments as_of_value(Moments m, Gaps gaps) const;
    // Sets `older` to its merge with `newer`. Returns false, and does nothing, if the gap between
    // them is longer than the table.
    bool extend(GappedMoments &older, const GappedMoments &newer) const;

  private:
    const double *powers_;
};

}  // namespace streambn
