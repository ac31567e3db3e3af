// The inner loops. baseline.cpp, avx2.cpp and avx512.cpp each provide all of them for one
// instruction set, and dispatch.cpp chooses one set for this machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streambn {

// Values per call of an inner loop: 4 KB of float64, which stay in the first-level cache for a
// second pass. At most 16 terms enter a plain sum before it joins a double-double. In a column
// of two distinct values all rounding errors agree, and m2 then has a relative error of 4e-16.
// With 4096 values per piece it was 8e-15.
constexpr int PIECE = 512;

// Value types. The first eleven have inner loops. Unsigned 64-bit integers are read as signed
// integers less 2**63.
enum class Type : uint8_t {
    float64, float32, float16, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
    decimal32, decimal64, decimal128, decimal256, null,
};
constexpr int LOOP_TYPES = 11;
constexpr bool is_float(Type type) { return type <= Type::float16; }
constexpr bool is_wide(Type type) { return type == Type::int64 || type == Type::uint64; }

// The centre c of the differences d = x - c. For 64-bit integers it is an integer, and the
// subtraction is in integers.
union Origin {
    double number;
    int64_t integer;
};

// Sums over some pieces: eight interleaved sums of each kind, each as hi + lo.
struct alignas(64) Sums {
    double first_hi[8], first_lo[8];    // of w*d
    double second_hi[8], second_lo[8];  // of w*d*d
    union {                             // integers for the 64-bit integer types
        double low[8];
        int64_t low_integer[8];
    };
    union {
        double high[8];
        int64_t high_integer[8];
    };
};

enum class Verdict : uint8_t {
    taken,
    not_finite,   // a value is NaN or infinite; nothing was added
    out_of_range  // a square would leave the range of float64; nothing was added
};

struct NotFinite {
    int64_t nans, pos_infs, neg_infs;
};

// The transform of one column. Each array repeats the parameters of the column's features, so
// that `period` is both a whole number of rows and a multiple of 8.
struct Maps {
    const double *location_hi, *location_lo, *scale, *inverse_scale, *gamma, *beta;
    double clip;
    bool affine;
    int64_t period;
};

// Row i of a piece weighs weights[i] * given[i] * factor. Both arrays can be read up to the next
// multiple of 8. A null `given` stands for ones; a null `weights` stands for ones in both.
struct RowWeights {
    const double *weights, *given;
    double factor;
};
// W, C and Q of some rows: the sum of w, of w_i*w_j over i < j, and of w*w.
struct PieceWeights {
    double weight, pairs, squares;
};

// Add n <= PIECE values. `bits` holds the validity, one bit per value from the lowest bit of the
// first byte on; null means that all values are valid. If rows have both bits and weights,
// `valid_weights` receives the weights of the valid rows, without `given` and `factor`.
using SumPiece = Verdict (*)(const void *values, int n, const uint8_t *bits, Origin origin,
                             const RowWeights &rows, Sums *sums, PieceWeights *valid_weights);
// Part of an exact sum: amount * 2**exponent.
struct ExactTerm {
    int64_t amount;
    int exponent;
};
// The exact sums and the extremes of a piece. Extremes of uint64 are less 2**63.
struct ExactPiece {
    union {
        double low;
        int64_t low_integer;
    };
    union {
        double high;
        int64_t high_integer;
    };
    int totals, squares;   // the number of terms
    ExactTerm total[16];   // of the sum of x
    ExactTerm square[48];  // of the sum of x*x
};
// Sum n <= PIECE values without rounding; at least one of them is valid. If the verdict is
// out_of_range, only the extremes are set.
using ExactSum = Verdict (*)(const void *values, int n, const uint8_t *bits, ExactPiece *piece);
// Clear the bits of NaN and infinities, and count them.
using FindFinite = void (*)(const void *values, int n, uint8_t *bits, NotFinite *counts);
// Write values less the origin as float64.
using Widen = void (*)(const void *values, int n, Origin origin, double *differences);
// Transform n values; n is a multiple of the period or reaches the end of the column. Return
// whether a valid value is NaN or infinite.
using MapPiece = bool (*)(const void *values, int n, int64_t phase, const uint8_t *bits,
                          const Maps &maps, void *out, bool stream);

// Mean and sum of squares of a feature that learns value by value.
struct RunningMoments {
    double mean_hi, mean_lo, m2_hi, m2_lo;
};
// Weights in the merge of a feature with one value. The feature weighs `w` after its decay.
struct MergeShares {
    double w, decay, heavy;     // heavy: the larger of the two weights
    double light_hi, light_lo;  // the smaller weight over the sum of both
    bool from_value;            // the value is the heavier one
};
// Merge a feature that is not empty with one value.
using AddValue = void (*)(RunningMoments *moments, double hi, double lo, const MergeShares &shares);

// Return the weights of n <= PIECE rows: `given`, times `weights` unless that is null.
using Weigh = PieceWeights (*)(const double *given, const double *weights, int n);

// Write the weights 2**((latest - tick) * factor) of n rows, or 0 below 2**-1000, times
// `weights` unless that is null. `whole`: the ticks are int64, not float64.
using TimeWeights = void (*)(const void *ticks, bool whole, int64_t n, Origin latest, double factor,
                             const double *weights, double *out);

using CountBits = int (*)(const uint64_t *words, int n);

struct Kernels {
    const char *name;
    CountBits count_bits;
    SumPiece sum[LOOP_TYPES];           // plain sums of at most 16 terms
    SumPiece sum_precisely[LOOP_TYPES];   // to 90 bits; without weights
    ExactSum sum_to_integers[LOOP_TYPES];
    Weigh weigh;
    TimeWeights time_weights;
    FindFinite find_finite[3];          // of the float types
    Widen widen[LOOP_TYPES];
    MapPiece normalize[2][2];           // [float64, float32 in][float64, float32 out]
    MapPiece denormalize[2][2];
    AddValue add_value;
};

extern const Kernels baseline_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;

// The fastest set that this machine runs. STREAMBN_SIMD=baseline|avx2|avx512 selects a lower one.
const Kernels &kernels();

}  // namespace streambn
