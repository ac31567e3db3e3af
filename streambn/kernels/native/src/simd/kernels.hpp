// The interface of the inner loops. baseline.cpp, avx2.cpp and avx512.cpp each compile all loops
// for one instruction set. dispatch.cpp chooses one of them at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streambn {

// The largest number of values per call of an inner loop. They are 4 KB of float64, which stay in
// the first-level cache for a second pass.
//
// At most 16 terms enter a plain sum before it joins a double-double. In a column of two distinct
// values all rounding errors agree, and m2 has a relative error of 4e-16. With 4096 values per
// piece, the error would be 8e-15.
constexpr int PIECE = 512;

// The types of values. The first eleven have inner loops. The loops subtract 2**63 from an unsigned
// 64-bit integer and read it as a signed integer.
enum class Type : uint8_t {
    float64, float32, float16, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
    decimal32, decimal64, decimal128, decimal256, null,
};
constexpr int LOOP_TYPES = 11;
constexpr bool is_float(Type type) { return type <= Type::float16; }
constexpr bool is_wide(Type type) { return type == Type::int64 || type == Type::uint64; }

// The centre c of the differences d = x - c. For the 64-bit integer types, the centre is an integer
// and the subtraction is an integer subtraction.
union Origin {
    double number;
    int64_t integer;
};

// Sums over some pieces. Eight interleaved sums of each kind are kept, each as hi + lo.
struct alignas(64) Sums {
    double first_hi[8], first_lo[8];    // sums of w*d
    double second_hi[8], second_lo[8];  // sums of w*d*d
    union {                             // the 64-bit integer types use the integers
        double low[8];
        int64_t low_integer[8];
    };
    union {
        double high[8];
        int64_t high_integer[8];
    };
};

enum class Verdict : uint8_t {
    taken,        // all valid values were added
    not_finite,   // nothing was added, because a value is NaN or infinite
    out_of_range  // nothing was added, because a square may leave the range of float64
};

struct NotFinite {
    int64_t nans, pos_infs, neg_infs;
};

// The parameters of the transform of one column. Each array has `period` elements, which repeat the
// parameters of the column's features. `period` is both a whole number of rows and a multiple of 8.
struct Maps {
    const double *location_hi, *location_lo, *scale, *inverse_scale, *gamma, *beta;
    double clip;
    bool affine;
    int64_t period;
};

// The weights of the rows of a piece: row i weighs weights[i] * given[i] * factor. Both arrays are
// readable up to the next multiple of 8. A null `given` stands for ones. A null `weights` stands
// for ones in both.
struct RowWeights {
    const double *weights, *given;
    double factor;
};
// W, C and Q of some rows. The docstring of streambn/accumulators/moments.py defines them.
struct PieceWeights {
    double weight, pairs, squares;
};

// Adds n <= PIECE values. `bits` holds the validity, one bit per value from the lowest bit of the
// first byte on. Null `bits` mean that all values are valid. If rows have both bits and weights,
// `valid_weights` receives W, C and Q of the valid rows, without `given` and `factor`.
using SumPiece = Verdict (*)(const void *values, int n, const uint8_t *bits, Origin origin,
                             const RowWeights &rows, Sums *sums, PieceWeights *valid_weights);
// A term of an exact sum: amount * 2**exponent.
struct ExactTerm {
    int64_t amount;
    int exponent;
};
// The exact sums and the extremes of a piece. 2**63 is subtracted from extremes of uint64.
struct ExactPiece {
    union {
        double low;
        int64_t low_integer;
    };
    union {
        double high;
        int64_t high_integer;
    };
    int totals, squares;   // the numbers of terms
    ExactTerm total[16];   // the terms of the sum of x
    ExactTerm square[48];  // the terms of the sum of x*x
};
// Sums n <= PIECE values without rounding. At least one value must be valid. If the verdict is
// out_of_range, only the extremes are set.
using ExactSum = Verdict (*)(const void *values, int n, const uint8_t *bits, ExactPiece *piece);
// Clears the bits of NaN and infinite values, and counts those that were valid.
using FindFinite = void (*)(const void *values, int n, uint8_t *bits, NotFinite *counts);
// Writes x - origin as float64 for each value x.
using Widen = void (*)(const void *values, int n, Origin origin, double *differences);
// Transforms n <= PIECE values. The parameters of the first value are at index `phase` of the
// arrays. n is a multiple of 8 unless the values reach the end of the column. `stream` writes past
// the cache. Returns whether a valid value is NaN or infinite.
using MapPiece = bool (*)(const void *values, int n, int64_t phase, const uint8_t *bits,
                          const Maps &maps, void *out, bool stream);

// The mean and m2 of a feature that learns value by value.
struct RunningMoments {
    double mean_hi, mean_lo, m2_hi, m2_lo;
};
// The weights in the merge of a feature with one value.
struct MergeShares {
    double w, decay, heavy;     // the feature's weight after its decay; the larger of both weights
    double light_hi, light_lo;  // the smaller of both weights, divided by their sum
    bool from_value;            // whether the value is heavier than the feature
};
// Merges a feature that is not empty with one value.
using AddValue = void (*)(RunningMoments *moments, double hi, double lo, const MergeShares &shares);

// A first value, and the weights in its merge with all others, as in `MergeShares`.
struct FirstValue {
    double hi, lo, heavy, light_hi, light_lo;
    bool from_others;  // whether the others are heavier
};
// Returns m2 / divisor, rounded once, or NaN if the divisor is not positive. `inverse` is the
// reciprocal of the divisor. If `first` is given, merges the first value with the moments of all
// others before.
using ReadVariance = double (*)(RunningMoments *moments, const FirstValue *first, double divisor,
                                double inverse);

// Eight features that learn and map a series of rows. They have seen values already.
struct SeriesPack {
    double mean_hi[8], mean_lo[8], m2_hi[8], m2_lo[8];
    double low[8], high[8];              // the extremes
    double first_hi[8], first_lo[8];     // the first value, for rules with a prior
    double relative[8], least[8];        // σ <= max(relative * |mean|, least) is within rounding error
    double gamma[8], beta[8];
};
// What the rows of a piece have in common for all eight features. Each pointer is an array over
// rows.
struct SeriesRows {
    // The weights in the merge with the value of the row, as in `MergeShares`.
    const double *light_hi, *light_lo, *heavy, *decay;
    const uint8_t *from_value;
    // The divisor of m2 in the variance that maps the row, and its reciprocal.
    const double *divisor, *inverse;
    // With a prior, the weights in the merge of the first value, the older one, with all others;
    // else null.
    const double *first_light_hi, *first_light_lo, *first_heavy;
    const uint8_t *from_others;  // whether the others are heavier
};
struct SeriesMap {
    bool before;  // whether a row is mapped before it is learned
    bool center, scale, zero_constant;
    double eps, clip;
};
// Learns n rows of eight values each, and writes the mapped values. All values are finite, and of a
// magnitude that `is_plain` accepts.
using MapSeries = void (*)(const double *values, int n, const SeriesRows &rows, const SeriesMap &map,
                           SeriesPack *pack, double *mapped);

// Writes the shares of the merges of n <= PIECE pairs, an older and a newer weight each. The arrays
// have room up to the next multiple of 8.
struct SeriesShares {
    double *light_hi, *light_lo, *heavy;
    uint8_t *from_newer;  // whether the newer weight is the heavier one
};
using FindShares = void (*)(const double *older, const double *newer, int n, const SeriesShares &shares);

// Copies n values, which need not be aligned. Returns whether all are finite, and of a magnitude that
// `is_plain` accepts.
using CopyPlain = bool (*)(const void *values, int n, double *to);

// Returns W, C and Q of n <= PIECE rows. Row i weighs given[i] * weights[i], or given[i] if
// `weights` is null.
using Weigh = PieceWeights (*)(const double *given, const double *weights, int n);

// Writes the weights 2**((latest - tick) * factor) of n rows, or 0 below 2**-1000. Multiplies them
// by `weights` unless that is null. The ticks are int64 if `whole` is true, and float64 otherwise.
using TimeWeights = void (*)(const void *ticks, bool whole, int64_t n, Origin latest, double factor,
                             const double *weights, double *out);

// Copies n rows of adjacent values, `step` bytes apart. The values of the k-th feature go to
// `to + k * stride`.
using Transpose = void (*)(const uint8_t *from, int64_t step, int features, int n, uint8_t *to,
                           int64_t stride);

using CountBits = int (*)(const uint64_t *words, int n);

struct Kernels {
    const char *name;
    CountBits count_bits;
    SumPiece sum[LOOP_TYPES];           // plain sums of at most 16 terms
    SumPiece sum_precisely[LOOP_TYPES];   // sums to 90 bits, without weights
    ExactSum sum_to_integers[LOOP_TYPES];
    Weigh weigh;
    TimeWeights time_weights;
    FindFinite find_finite[3];          // the float types only
    Widen widen[LOOP_TYPES];
    MapPiece normalize[2][2];           // [input: float64, float32][output: float64, float32]
    MapPiece denormalize[2][2];
    AddValue add_value;
    ReadVariance read_variance;
    MapSeries map_series;
    CopyPlain copy_plain;
    FindShares find_shares;
    Transpose transpose[2];             // values of 4 and of 8 bytes
};

extern const Kernels baseline_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;

// Returns the fastest set of loops that the processor supports. The environment variable
// STREAMBN_SIMD=baseline|avx2|avx512 selects a lower instruction set.
const Kernels &kernels();

}  // namespace streambn
