// The inner loops, by name: what kernels_*.cpp provide for one instruction set each.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streambn {

// Values that an inner loop takes at a time: 4 KB of float64, which stay in the first-level
// cache for a second look. Plain sums are at most 16 terms deep before they enter a
// double-double: of a column with two values, whose roundings are all alike, m2 is then
// right to 4e-16 (8e-15 at 4096 values).
constexpr int PIECE = 512;

// Primitive types with an inner loop of their own; the unsigned 64-bit integers are read as
// signed ones, around 2**63.
enum class Type : uint8_t {
    float64, float32, float16, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
    decimal32, decimal64, decimal128, decimal256, null,
};
constexpr int LOOPED_TYPES = 11;
constexpr bool is_float(Type type) { return type <= Type::float16; }
constexpr bool is_wide(Type type) { return type == Type::int64 || type == Type::uint64; }

// Where a reduction stands: the centre c of d = x - c. Of 64-bit integers it is an integer
// (of unsigned ones less 2**63), and the difference is taken in integers.
union Origin {
    double number;
    int64_t integer;
};

// Sums over some pieces, eight interleaved ones of each, as hi + lo.
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
    not_finite,  // a NaN or an infinity among the values; nothing was added
    out_of_range // the squares would leave the range of float64; nothing was added
};

struct NotFinite {
    int64_t nans, pos_infs, neg_infs;
};

// One lane's map, repeated so that a whole number of packs holds a whole number of rows.
struct Maps {
    const double *location_hi, *location_lo, *spread, *inverse_spread, *gamma, *beta;
    double clip;
    bool affine;
    int64_t period;  // a multiple of 8
};

// What the rows of a piece weigh: weights[i] * given[i] * factor. Each array is readable to the
// next multiple of 8; null stands for ones, without `weights` for both.
struct RowWeights {
    const double *weights, *given;
    double factor;
};
// Of the weights of some rows: W, their sum; C, the sum of w_i*w_j over i < j; Q, of w*w.
struct PieceWeights {
    double weight, pairs, squares;
};

// Add a piece of n <= PIECE values. `bits`: validity, one bit a value from the lowest bit of
// the first byte, or null for all. `there`, where rows have both bits and weights: gets what
// those with a bit weigh, but for `given` and `factor`.
using SumPiece = Verdict (*)(const void *values, int n, const uint8_t *bits, Origin origin,
                             const RowWeights &rows, Sums *sums, PieceWeights *there);
// A part of a sum: amount * 2**exponent. Parts of one piece may overlap.
struct ExactTerm {
    int64_t amount;
    int exponent;
};
// The exact sums of a piece and its extremes, of 64-bit unsigned integers less 2**63.
struct ExactPiece {
    union {
        double low;
        int64_t low_integer;
    };
    union {
        double high;
        int64_t high_integer;
    };
    int totals, squares;   // how many terms there are
    ExactTerm total[16];   // of the sum of x
    ExactTerm square[48];  // of the sum of x*x
};
// Sum a piece of n <= PIECE values, of which at least one is there, without any rounding.
// out_of_range: the extremes are there, the sums are not.
using ExactSum = Verdict (*)(const void *values, int n, const uint8_t *bits, ExactPiece *piece);
// Clear the bits of NaN and infinities, and count them.
using FindFinite = void (*)(const void *values, int n, uint8_t *bits, NotFinite *counts);
// Values less the origin, as float64.
using Widen = void (*)(const void *values, int n, Origin origin, double *offsets);
// Map n values, n <= a multiple of the period or the rest; returns whether a value that is
// not null was NaN or infinite.
using MapPiece = bool (*)(const void *values, int n, int64_t phase, const uint8_t *bits,
                          const Maps &maps, void *out, bool stream);

// Mean and squares of a lane that learns value by value.
struct Growing {
    double mean_hi, mean_lo, m2_hi, m2_lo;
};
// What follows from the weight w that the lane has left, λ·W, beside a value of weight 1.
struct Shares {
    double w, decay, heavy;       // the larger of w and 1
    double light_hi, light_lo;    // the smaller one over w + 1
    bool from_value;              // the value is heavier
};
// Merge a lane, not empty, with one value.
using AddValue = void (*)(Growing *lane, double hi, double lo, const Shares &shares);

// Weigh n <= PIECE rows by `given`, times `weights` if those are not null.
using Weigh = PieceWeights (*)(const double *given, const double *weights, int n);

// Weights of n rows by their times, 2**((latest - tick) * factor), or 0 below 2**-1000; times
// `weights`, unless they are null. `whole`: ticks are int64, else float64.
using TimeWeights = void (*)(const void *ticks, bool whole, int64_t n, Origin latest, double factor,
                             const double *weights, double *out);

using CountBits = int (*)(const uint64_t *words, int n);

struct Kernels {
    const char *name;
    CountBits count_bits;
    SumPiece sum[LOOPED_TYPES];        // fast: 16 terms deep
    SumPiece sum_exactly[LOOPED_TYPES]; // to 90 bits; without weights
    ExactSum sum_to_integers[LOOPED_TYPES];
    Weigh weigh;
    TimeWeights time_weights;
    FindFinite find_finite[3];         // of the float types
    Widen widen[LOOPED_TYPES];
    MapPiece normalize[2][2];  // [float64, float32 in][float64, float32 out]
    MapPiece denormalize[2][2];
    AddValue add_value;
};

extern const Kernels baseline_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;

// The best that this machine runs; STREAMBN_SIMD=baseline|avx2|avx512 lowers it.
const Kernels &kernels();

}  // namespace streambn
