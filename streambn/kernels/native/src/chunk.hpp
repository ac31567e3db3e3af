// Moments of one chunk of one lane: the sums about a centre, and what follows from them.
#pragma once

#include <cstdint>
#include <cstring>

#include "context.hpp"
#include "kernels.hpp"
#include "lanes.hpp"
#include "moments.hpp"

namespace streambn {

// A sum of squares about a centre c exceeds the one about the mean by n(c - mean)². Up to 3/4
// of it may go in the subtraction, which costs 2 bits; beyond, the chunk is centred anew. An
// exact sum has 40 bits to spare.
constexpr double EXCESS = 0.75, EXACT_REST = 0x1p-30;
constexpr int CENTRINGS = 4;

// How a chunk came out.
enum class Outcome : uint8_t {
    good,
    careful,  // it has to be taken piece by piece
};

// The sums of one lane over one chunk.
struct ChunkSums {
    Sums sums;
    Origin origin;
    int64_t used, nulls;
    NotFinite not_finite;
    Outcome outcome;
    // From the first piece with missing rows on, where rows have weights and do not fade: what
    // is there weighs.
    bool weighs;
    Totals totals;

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

// The units in which a lane is read: the true value is (base + x) / ten.
struct Units {
    Pair base, ten;
    bool decimal;

    double restored(Pair x) const {
        const Pair whole = add(base, x);
        return decimal ? divide(whole, ten).hi : whole.hi;
    }
    // Puts moments of x into the data's units.
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

// The sum of eight interleaved sums.
Pair collapsed(const double *hi, const double *lo);

// Add one piece of a lane.
void add_piece(const Context &context, const LaneReader &lane, const void *values, int64_t start,
               int n, int64_t rows_behind, ChunkSums &to);

// Sum a chunk of one lane.
void sum_chunk(const Context &context, const LaneReader &lane, int64_t start, int64_t stop,
               ChunkSums &to);

// Mean and squares from a chunk's sums; false: they are to be summed around `to.origin` anew.
bool conclude(const Context &context, const LaneReader &lane, int64_t start, int64_t stop,
              const Units &units, ChunkSums &sums, Moments &m);

// A value amid the first that there are: their median, or 0 if they lie on both sides of it.
// A median, because one outlier in front must not set the centre of what comes behind.
Origin first_origin(const Context &context, const LaneReader &lane, int64_t start, int64_t stop);

}  // namespace streambn
