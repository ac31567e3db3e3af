// Exact sums of floats.
//
// A sum s that starts at 1.5 * 2**K is a multiple of 2**(K - 52) while it stays in
// [2**K, 2**(K + 1)]. The addition s + v rounds v to that grid, and the remainder
// v - ((s + v) - s) is exact. For |v| <= 2**E and DEPTH = 64 terms, K = E + 8 is enough, because
// the sum moves by at most 64 * (2**E + 2**(K - 53)) < 2**(K - 1).
//
// A remainder is at most 2**(K - 53) = 2**(E - 45). It enters a second sum in the same way, with
// E - 45 in place of E and a grid of 2**(E - 89). If all values are multiples of that grid, no
// remainder is left and both sums are exact. The bits of a sum, minus the bits of its start, are
// the integer number of grid units by which the sum moved.
//
// A square is the sum of two floats, the rounded square h and its rounding error l.
//
// Source: S. M. Rump, T. Ogita and S. Oishi, 2008, "Accurate floating-point summation", part I.
#pragma once

#include "simd/packs.hpp"

namespace streambn::STREAMBN_SIMD {

constexpr int DEPTH = PIECE / WIDTH;
static_assert(DEPTH <= 64, "the bounds of the sums");
constexpr int HEADROOM = 8;          // K - E
constexpr int GRID = HEADROOM - 52;  // the exponent of the grid, minus E
constexpr int LEFT = GRID - 1;       // the exponent of a remainder, minus E
// Within this range of float64, no part of a value or a square is subnormal and no sum overflows.
// The caller sums values outside the range, and values that are more than WIDE exponents apart.
constexpr int TOP_EXPONENT = 480, BOTTOM_EXPONENT = -428, WIDE = 300;
// The greatest distance TOP - BOTTOM for which two sums hold all of h. TOP and BOTTOM are the
// exponents of the greatest and the least magnitude. The last bit of h is at 2 * BOTTOM - 52, and
// the grid of the second sum, at 2 * (TOP + 1) + LEFT + GRID, is not above it. For l there is more
// room.
constexpr int NARROW = 17;
static_assert(2 * NARROW + 52 + 2 <= -(LEFT + GRID), "h is exact");
static_assert(2 * NARROW + 104 + 2 <= 54 - (LEFT + GRID), "l is exact");
static_assert(NARROW + 52 + 1 <= -(LEFT + GRID), "x is exact");

STREAMBN_INLINE Ints bits_of(const Pack &x) {
    return each<int64_t>(STREAMBN_PART((Register<int64_t>)x.part[i]));
}

// Returns the least exponent E with |x| < 2**E, for a normal number x.
STREAMBN_INLINE int exponent_above(double x) {
    uint64_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return (int)(bits >> 52 & 0x7ff) - 1022;
}

STREAMBN_INLINE Pack start_of(int exponent) { return broadcast(1.5 * power_of_two(exponent + HEADROOM)); }

// Returns the remainder of v that a sum did not take. Returning the new sum as well would make the
// loop three times slower with AVX2 (GCC 12).
STREAMBN_INLINE Pack left_of(const Pack &v, const Pack &before, const Pack &after) {
    return v - (after - before);
}

// Returns x*x - square exactly, where `square` is x*x rounded once.
STREAMBN_INLINE Pack error_of_square(const Pack &square, const Pack &x) {
#if defined(__AVX512F__)
    return each<double>([&](auto i) __attribute__((always_inline)) {
        return (Register<double>)_mm512_fmsub_pd(x.part[i], x.part[i], square.part[i]);
    });
#elif defined(__FMA__)
    return each<double>([&](auto i) __attribute__((always_inline)) {
        return (Register<double>)_mm256_fmsub_pd(x.part[i], x.part[i], square.part[i]);
    });
#else
    return square_less(square, x);
#endif
}

// The number of interleaved sets of sums that fit into the registers.
constexpr int SETS = PARTS == 1 ? 2 : 1;
struct FloatSums {
    Pack first, first_left, square, square_left, error, error_left;
};
// Returns the total amount by which the sums a and b moved from their start for `exponent`.
STREAMBN_INLINE ExactTerm term_of(const Pack &a, const Pack &b, int exponent) {
    const Ints start = bits_of(start_of(exponent));
    Ints moved = bits_of(a) - start;
    if (SETS > 1) moved = moved + (bits_of(b) - start);
    return {sum_of(moved), exponent + GRID};
}

template <class T, bool MASKED>
STREAMBN_INLINE Extent<double> extent_of(const T *x, int n, const uint8_t *bits, const Pack &filler) {
    Extent<double> whole{INFINITE, -INFINITE, INFINITE};
    if constexpr (!MASKED) {
        constexpr T TOP = (T)INFINITE;
        Extent<T> front{TOP, -TOP, TOP};
        const int done = extend_by_registers(x, n, &front);
        whole = {front.low, front.high, front.least};
        if (done == n) return whole;
        x += done, n -= done;
    }
    Pack low = broadcast(whole.low), high = broadcast(whole.high), least = broadcast(whole.least);
    const Pack zero = broadcast(0.0), none = broadcast(INFINITE);
    for_packs<MASKED>(x, n, bits, STREAMBN_TAKE(T) {
        if (MASKED && (k * WIDTH * sizeof(T)) % 64 == 0) prefetch(x + k * WIDTH);
        Pack v = load_as_double(from);
        if (MASKED) v = select(mask_of(present), v, filler);
        low = minimum(v, low);
        high = maximum(v, high);
        const Pack size = magnitude(v);
        least = minimum(each<double>(STREAMBN_PART(
                            size.part[i] == zero.part[i] ? none.part[i] : size.part[i])), least);
    });
    const auto lesser = [](double a, double b) { return b < a ? b : a; };
    return {best_of(low, lesser), best_of(high, [](double a, double b) { return b > a ? b : a; }),
            best_of(least, lesser)};
}

// The valid values of a piece as float64, with a filler in all other places of whole packs. The
// rare cases below read this array.
struct FilledPiece {
    alignas(64) double values[PIECE];
    int packs;
};
template <class T>
__attribute__((noinline)) void fill(FilledPiece *to, const T *x, int n, const uint8_t *bits, double filler) {
    // Broadcast the bits of the filler, because `broadcast` turns -0.0 into 0.0.
    int64_t number;
    __builtin_memcpy(&number, &filler, sizeof number);
    const Ints same = broadcast(number);
    to->packs = (n + WIDTH - 1) / WIDTH;
    for_packs<true>(x, n, bits ? bits : FULL_BITS.octets, STREAMBN_TAKE(T) {
        const Ints value = select(mask_of(present), bits_of(load_as_double(from)), same);
        store(reinterpret_cast<int64_t *>(to->values) + k * WIDTH, value);
    });
}

// Sets the sign of extremes that are zero. -0.0 comes before 0.0, but comparisons treat them as
// equal.
__attribute__((noinline)) inline void order_zeros(const FilledPiece &piece, ExactPiece *out) {
    Ints some = broadcast<int64_t>(0), all = broadcast<int64_t>(-1);
    for (int k = 0; k < piece.packs; ++k) {
        const Ints bits = load<int64_t>(piece.values + k * WIDTH);
        some = some | bits;
        all = all & bits;
    }
    const bool any_negative = best_of(some, [](int64_t a, int64_t b) { return a | b; }) < 0;
    const bool all_negative = best_of(all, [](int64_t a, int64_t b) { return a & b; }) < 0;
    if (out->low == 0) out->low = any_negative ? -0.0 : 0.0;
    if (out->high == 0) out->high = all_negative ? -0.0 : 0.0;
}

__attribute__((noinline)) inline bool has_not_finite(const FilledPiece &piece) {
    Pack sum = broadcast(0.0);
    for (int k = 0; k < piece.packs; ++k) {
        const Pack v = load<double>(piece.values + k * WIDTH);
        sum = sum + (v - v);
    }
    return any(not_finite(sum));
}

// Sums values below 2**exponent and then their remainders, level by level, until no remainder is
// left. Each level lowers the greatest value by at least 44 bits. Returns the number of levels, or
// -1 if a value is NaN or infinite.
__attribute__((noinline)) inline int sum_levels(double *rest, int packs, int exponent, ExactTerm *terms) {
    for (int level = 0;; ++level) {
        // Two sums take turns, so that no addition waits for the previous one.
        const Pack start = start_of(exponent);
        Pack a = start, b = start, largest_a = broadcast(0.0), largest_b = largest_a;
        const auto take = [&](int k, Pack &sum, Pack &largest) __attribute__((always_inline)) {
            const Pack v = load<double>(rest + k * WIDTH), after = sum + v;
            const Pack left = left_of(v, sum, after);
            sum = after;
            store(rest + k * WIDTH, left);
            largest = maximum(magnitude(left), largest);
        };
        int k = 0;
        for (; k + 1 < packs; k += 2) {
            take(k, a, largest_a);
            take(k + 1, b, largest_b);
        }
        if (k < packs) take(k, a, largest_a);
        if (any(not_finite(a) | not_finite(b))) return -1;
        const Ints moved = (bits_of(a) - bits_of(start)) + (bits_of(b) - bits_of(start));
        terms[level] = {sum_of(moved), exponent + GRID};
        const double largest = best_of(maximum(largest_a, largest_b),
                                       [](double x, double y) { return y > x ? y : x; });
        if (largest == 0) return level + 1;
        exponent = exponent_above(largest);
    }
}

// Sums a piece whose values are too far apart for two sums. `with_errors` is false for float32,
// whose squares have no rounding error.
__attribute__((noinline)) inline Verdict sum_far_apart(FilledPiece &piece, int exponent, bool with_errors,
                                                       ExactPiece *out) {
    alignas(64) double square[PIECE], error[PIECE];
    for (int k = 0; k < piece.packs; ++k) {
        const Pack v = load<double>(piece.values + k * WIDTH), h = v * v;
        store(square + k * WIDTH, h);
        if (with_errors) store(error + k * WIDTH, error_of_square(h, v));
    }
    out->totals = sum_levels(piece.values, piece.packs, exponent, out->total);
    if (out->totals < 0) return Verdict::not_finite;
    out->squares = sum_levels(square, piece.packs, 2 * exponent, out->square);
    if (with_errors)
        out->squares += sum_levels(error, piece.packs, 2 * exponent - 54, out->square + out->squares);
    return Verdict::taken;
}

template <class T, bool MASKED>
STREAMBN_INLINE Verdict sum_floats(const T *x, int n, const uint8_t *bits, ExactPiece *out) {
    constexpr bool DOUBLE = std::is_same<T, double>::value;
    const T first_value = x[MASKED ? first_valid(bits) : 0];
    const Pack filler = broadcast((double)first_value);
    const Extent<double> extent = extent_of<T, MASKED>(x, n, bits, filler);
    // This condition rejects a piece of NaN alone. If only some values are NaN, the sums below
    // become NaN.
    if (!(extent.low > -INFINITE && extent.high < INFINITE && extent.low <= extent.high))
        return Verdict::not_finite;
    out->low = extent.low, out->high = extent.high;
    const uint8_t *const valid = MASKED ? bits : nullptr;
    if (extent.low == 0 || extent.high == 0) {
        FilledPiece piece;
        fill(&piece, x, n, valid, (double)first_value);
        order_zeros(piece, out);
    }
    const double largest = -extent.low > extent.high ? -extent.low : extent.high;
    // |x| < 2**top. `bottom` is the exponent of the leading bit of the least nonzero |x|.
    const int top = largest == 0 ? 0 : exponent_above(largest);
    const int bottom = largest == 0 ? top - 1 : exponent_above(extent.least) - 1;
    const Pack zero = broadcast(0.0);
    const auto far_apart = [&] {
        FilledPiece piece;
        fill(&piece, x, n, valid, 0.0);
        return sum_far_apart(piece, top, DOUBLE, out);
    };
    FloatSums sums[SETS];
    if constexpr (DOUBLE) {
        if (top > TOP_EXPONENT || bottom < BOTTOM_EXPONENT || top - 1 - bottom > WIDE) {
            FilledPiece piece;
            fill(&piece, x, n, valid, 0.0);
            return has_not_finite(piece) ? Verdict::not_finite : Verdict::out_of_range;
        }
        if (top - 1 - bottom > NARROW) return far_apart();
        for (FloatSums &set : sums)
            set = {start_of(top),            start_of(top + LEFT),     start_of(2 * top),
                   start_of(2 * top + LEFT), start_of(2 * top - 54), start_of(2 * top - 54 + LEFT)};
        for_sets<MASKED, SETS>(x, n, bits, STREAMBN_TAKE(T) {
            FloatSums &set = sums[k];
            Pack v = load<double>(from);
            if (MASKED) v = select(mask_of(present), v, zero);
            const Pack h = v * v, l = error_of_square(h, v);
            const Pack first = set.first + v;
            set.first_left = set.first_left + left_of(v, set.first, first);
            set.first = first;
            const Pack square = set.square + h;
            set.square_left = set.square_left + left_of(h, set.square, square);
            set.square = square;
            const Pack error = set.error + l;
            set.error_left = set.error_left + left_of(l, set.error, error);
            set.error = error;
        });
        const FloatSums &a = sums[0], &b = sums[SETS - 1];
        if (any(not_finite(a.first + b.first))) return Verdict::not_finite;
        out->totals = 2, out->squares = 4;
        out->total[0] = term_of(a.first, b.first, top);
        out->total[1] = term_of(a.first_left, b.first_left, top + LEFT);
        out->square[0] = term_of(a.square, b.square, 2 * top);
        out->square[1] = term_of(a.square_left, b.square_left, 2 * top + LEFT);
        out->square[2] = term_of(a.error, b.error, 2 * top - 54);
        out->square[3] = term_of(a.error_left, b.error_left, 2 * top - 54 + LEFT);
    } else {
        // A float32 has 24 bits, or fewer if it is subnormal, so its square has no rounding error.
        constexpr int DIGITS = 24, LAST = -149;
        const int last = bottom - (DIGITS - 1) > LAST ? bottom - (DIGITS - 1) : LAST;
        static_assert(2 * GRID >= LEFT + GRID, "where one sum takes all x, two take all squares");
        if (last < top + GRID) return far_apart();
        for (FloatSums &set : sums)
            set.first = start_of(top), set.square = start_of(2 * top), set.square_left = start_of(2 * top + LEFT);
        for_sets<MASKED, SETS>(x, n, bits, STREAMBN_TAKE(T) {
            FloatSums &set = sums[k];
            Pack v = load_as_double(from);
            if (MASKED) v = select(mask_of(present), v, zero);
            set.first = set.first + v;
            const Pack h = v * v, square = set.square + h;
            set.square_left = set.square_left + left_of(h, set.square, square);
            set.square = square;
        });
        const FloatSums &a = sums[0], &b = sums[SETS - 1];
        if (any(not_finite(a.first + b.first))) return Verdict::not_finite;
        out->totals = 1, out->squares = 2;
        out->total[0] = term_of(a.first, b.first, top);
        out->square[0] = term_of(a.square, b.square, 2 * top);
        out->square[1] = term_of(a.square_left, b.square_left, 2 * top + LEFT);
    }
    return Verdict::taken;
}

}  // namespace streambn::STREAMBN_SIMD
