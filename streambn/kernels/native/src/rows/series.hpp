// Rows that are normalized as they are learned, each by the statistics just before it or with it.
// streambn/kernels/reference/series.py does the same.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow/columns.hpp"
#include "rows/feature.hpp"
#include "transform/transform.hpp"

namespace streambn {

// One feature of a series, with the counts of its rows.
struct SeriesFeature {
    RowFeature row;
    Pair time{0, 0};         // at which the weights of its moments hold, if weights fade by time
    int64_t time_row = -1;   // the row of that time; -1 if it is of an earlier batch
    int64_t known_from = 0;  // the first row that has statistics to map it
    int64_t nans = 0, infs = 0;
};

// The rules that all features share, and what describes the rows. Null pointers mean that there is
// no such description.
struct Series {
    RowRules rules;
    bool before;            // whether a row is mapped before it is learned
    const double *weights;  // of the rows; a row of weight 0 is mapped and not learned
    // If weights fade by time: the times of the rows, and the half-life.
    const Pair *times;
    double halflife;
};

// Returns whether a feature has statistics that map a row.
bool is_known(const SeriesFeature &feature, const Series &series);

// Maps all rows into the outputs, and learns them. Writes 0 under nulls and where a feature is not
// known. `outputs` have a validity bitmap if values may be missing or features unknown.
void map_series(const std::vector<Column> &columns, const Series &series,
                std::vector<SeriesFeature> &features, std::vector<Output> &outputs, int threads);

}  // namespace streambn
