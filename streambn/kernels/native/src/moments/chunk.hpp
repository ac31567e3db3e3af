// The moments of one chunk of one feature, from sums about a centre.
#pragma once

#include <cstdint>
#include <cstring>

#include "arrow/reader.hpp"
#include "moments/moments.hpp"
#include "moments/row_weights.hpp"

namespace streambn {

// The sum of squares about a centre c exceeds that about the mean by n(c - mean)². If this excess
// is at most 3/4 of the sum, subtracting it loses at most 2 bits. If it is more, the chunk is
// summed again about a better centre. A precise sum has 40 bits to spare.
constexpr double EXCESS = 0.75, PRECISE_REST = 0x1p-30;
constexpr int CENTRINGS = 4;

enum class Outcome : uint8_t {
    good,
    careful,  // `careful_chunk` must sum the chunk
};

// The sums of one feature over one chunk.
struct ChunkSums {
    Sums sums;
    Origin origin;
    int64_t used, nulls;
    NotFinite not_finite;
    Outcome outcome;
    // For rows that have weights and do not fade. `weighs` is whether a row was missing; `totals`
    // are then the weights of the valid rows.
    bool weighs;
    RunningWeights totals;

    void clear(Type type) {
        std::memset(&sums, 0, sizeof sums);
        for (int k = 0; k < 8; ++k) {
            if (is_wide(type))
                sums.low_integer[k] = INT64_MAX, sums.high_integer[k] = INT64_MIN;
            else
                sums.low[k] = INF, sums.high[k] = -INF;
        }
        used = nulls = 0;
        not_finite = {0, 0, 0};
        outcome = Outcome::good;
        weighs = false;
    }
};

// The units in which a feature is read. A read value x stands for (base + x) / ten.
struct Units {
    Pair base, ten;
    bool decimal;

    double restored(Pair x) const {
        const Pair whole = add(base, x);
        return decimal ? divide(whole, ten).hi : whole.hi;
    }
    // Converts moments of x to the units of the data.
    void restore(Moments &m) const {
        if (m.count == 0 || (!decimal && base.hi == 0)) return;
        m.min = restored({m.min, 0});
        m.max = restored({m.max, 0});
        m.mean = add(base, m.mean);
        if (decimal) {
            m.mean = divide(m.mean, ten);
            m.m2 = divide(divide(m.m2, ten), ten);
        }
        m.exponent = m.min == 0 && m.max == 0 ? ZERO_EXPONENT : 0;
    }
};

// Returns the total of eight interleaved sums.
Pair collapsed(const double *hi, const double *lo);

// Adds one piece of a feature. `behind` rows of the chunk follow the piece.
void add_piece(const RowWeighting &rows, const FeatureReader &reader, const void *values, int64_t start,
               int n, int64_t behind, ChunkSums &to);

// Sums a chunk of one feature about `to.origin`.
void sum_chunk(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop,
               ChunkSums &to);

// Sets the moments from the sums of a chunk. Returns false if the chunk must be summed again about
// the new `sums.origin`.
bool conclude(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop,
              const Units &units, ChunkSums &sums, Moments &m);

// Returns a centre from the first values: their median, or 0 if they lie on both sides of 0. Unlike
// the first value or the mean, a median does not follow a single outlier at the start.
Origin first_origin(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop);

}  // namespace streambn
