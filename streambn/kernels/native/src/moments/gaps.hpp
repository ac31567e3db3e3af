// Gaps: rows without a value in an exponentially weighted average. streambn/kernels/reference/gaps.py
// does the same.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow/columns.hpp"
#include "moments/moments.hpp"

namespace streambn {

// The rows at an end of a batch. If none of them holds a value, the gap there counts as long.
constexpr int64_t EDGE = 52;
// The length of the array of powers, which `gap_powers` in streambn/kernels/recursion.py documents.
constexpr int64_t GAP_POWERS = 1024, POWERS = GAP_POWERS + 2 * EDGE - 1;

// The rows of one feature without a value before its first value and after its last one.
struct Gaps {
    int64_t before = 0, since = 0;
    bool any() const { return before != 0 || since != 0; }
};
// The gaps at the ends of a batch, and whether one in the batch is too long for `GapMerge`.
struct BatchGaps : Gaps {
    bool is_long = false;
};

// Returns the gaps of each feature, whose moments are given. All rows of a feature without a value
// are before its first value. If `is_long` is set, the gaps at the ends may be wrong.
std::vector<BatchGaps> find_gaps(const std::vector<Column> &columns, const std::vector<Moments> &moments,
                                 double decay, int64_t bytes, int threads);

// The state of one feature: its moments as of its last value, and its gaps.
struct GappedMoments {
    Moments m;
    Gaps gaps;
};

// Returns the rows of the longest gap whose discount is not bounded.
double longest_gap(double decay);

// Merges features with those of a batch. The powers come from the caller, so that all kernels use
// the same.
class GapMerge {
  public:
    explicit GapMerge(const double *powers) : powers_(powers) {}
    // Converts moments as of the last row of the batch to moments as of the last value.
    GappedMoments as_of_value(Moments m, Gaps gaps) const;
    // Sets `older` to its merge with `newer`. Returns false, and does nothing, if the gap between
    // them is longer than the table.
    bool extend(GappedMoments &older, const GappedMoments &newer) const;

  private:
    const double *powers_;
};

}  // namespace streambn
