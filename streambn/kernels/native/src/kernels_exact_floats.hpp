// Exact sums of floats. A sum s that starts at 1.5 * 2**K is a multiple of 2**(K - 52) for as long as it stays
// in [2**K, 2**(K + 1)], so s + v rounds v to that grid, and what is cut off, v - ((s + v) - s),
// is exact (S. M. Rump, T. Ogita and S. Oishi, 2008, "Accurate floating-point summation", part
// I). With |v| <= 2**E and DEPTH = 64 terms, K = E + 8 does: the sum moves by no more than
// 64 * (2**E + 2**(K - 53)) < 2**(K - 1). What is left of a v is at most 2**(K - 53) = 2**(E - 45)
// and enters a second sum in the same way, with E - 45 in the place of E. Its grid is
// 2**(E - 89): where all values are multiples of that, nothing is left, and all is exact. The
// bits of such a sum less those of its start are the integer by which it moved, in grid units.
//
// A square is the sum of h, itself rounded, and l, the rounding error: two numbers.
#pragma once

#include "exact_packs.hpp"

namespace streambn::STREAMBN_SIMD {

constexpr int DEPTH = PIECE / WIDTH;
static_assert(DEPTH <= 64, "the bounds of the sums");
constexpr int HEADROOM = 8;                // K - E
constexpr int GRID = HEADROOM - 52;        // the exponent of the grid, less E
constexpr int LEFT = GRID - 1;             // that of what is left
// Of float64: values and squares in this range have neither a part below the normal numbers nor
// a sum above them. Beyond, and where values are more than WIDE apart, it is for the caller.
constexpr int TOP_EXPONENT = 480, BOTTOM_EXPONENT = -428, WIDE = 300;
// The greatest distance of exponents at which two sums take all of h: its last bit is
// 2 * BOTTOM - 52, and 2 * (TOP + 1) + LEFT + GRID is not above that. Of l two sums take more.
constexpr int NARROW = 17;
static_assert(2 * NARROW + 52 + 2 <= -(LEFT + GRID), "h is exact");
static_assert(2 * NARROW + 104 + 2 <= 54 - (LEFT + GRID), "l is exact");
static_assert(NARROW + 52 + 1 <= -(LEFT + GRID), "x is exact");

STREAMBN_INLINE Ints bits_of(const Pack &x) {
    return each<int64_t>(STREAMBN_PART((Register<int64_t>)x.part[i]));
}

STREAMBN_INLINE Pack magnitude(const Pack &x) {
    return each<double>(STREAMBN_PART((Register<double>)(
        (Register<int64_t>)x.part[i] & (Register<int64_t>{} + INT64_MAX))));
}

// The least exponent E of |x| < 2**E, x a normal number.
STREAMBN_INLINE int exponent_above(double x) {
    uint64_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return (int)(bits >> 52 & 0x7ff) - 1022;
}

STREAMBN_INLINE Pack start_of(int exponent) { return broadcast(1.5 * power_of_two(exponent + HEADROOM)); }

// What a sum that was `before` and is `after` did not take of v. The sum itself is not handed over:
// returned along with what is left, it took three times as long with AVX2 (GCC 12).
STREAMBN_INLINE Pack left_of(const Pack &v, const Pack &before, const Pack &after) {
    return v - (after - before);
}

// x*x - square, exactly, of a square rounded once.
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

// By how much a sum moved, of an E.
STREAMBN_INLINE ExactTerm term_of(const Pack &sum, int exponent) {
    return {sum_of(bits_of(sum) - bits_of(start_of(exponent))), exponent + GRID};
}

// The sums of a piece, in as many sets as one addition takes cycles that others could use: where
// a pack is one register there are registers for two.
constexpr int SETS = PARTS == 1 ? 2 : 1;
struct Floats {
    Pack first, first_left, square, square_left, error, error_left;
};
STREAMBN_INLINE ExactTerm term_of(const Pack &a, const Pack &b, int exponent) {
    const Ints start = bits_of(start_of(exponent));
    Ints moved = bits_of(a) - start;
    if (SETS > 1) moved = moved + (bits_of(b) - start);
    return {sum_of(moved), exponent + GRID};
}

// What one look at a piece finds; `least` is of |x| of floats, zeros apart.
template <class T>
struct Extent {
    T low, high, least;
};

// The least or the greatest of a register's values, by halves.
template <class T, int BYTES, class Better>
STREAMBN_INLINE T best_of_register(const T *values, const Better &better) {
    if constexpr (BYTES > 16) {
        typedef T Half __attribute__((vector_size(BYTES / 2)));
        Half a, b;
        __builtin_memcpy(&a, values, sizeof a);
        __builtin_memcpy(&b, values + BYTES / 2 / sizeof(T), sizeof b);
        const Half best = better(a, b);
        alignas(64) T left[BYTES / 2 / sizeof(T)];
        __builtin_memcpy(left, &best, sizeof best);
        return best_of_register<T, BYTES / 2>(left, better);
    } else {
        T best = values[0];
        for (unsigned i = 1; i < BYTES / sizeof(T); ++i) best = better(best, values[i]);
        return best;
    }
}

// Of the values at the front, by whole registers: as many numbers are compared at once as there
// is room for, which of float32 and short integers are more than a pack. Two of each, because
// a comparison takes four cycles. Returns how many values these are.
template <class T>
STREAMBN_INLINE int extent_of_registers(const T *x, int n, Extent<T> *extent) {
    constexpr bool FLOAT = !std::is_integral<T>::value;
    constexpr int LENGTH = REGISTER / sizeof(T);
    using Bits = typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type;
    typedef T Values __attribute__((vector_size(REGISTER)));
    typedef Bits ValueBits __attribute__((vector_size(REGISTER)));
    const Values none = Values{} + extent->least;
    Values low[2], high[2], least[2] = {none, none};
    for (int i = 0; i < 2; ++i) low[i] = Values{} + extent->low, high[i] = Values{} + extent->high;
    int k = 0;
    for (; k + 2 * LENGTH <= n; k += 2 * LENGTH) {
        for (unsigned j = 0; j < 2 * REGISTER; j += 64)
            ask_for(reinterpret_cast<const char *>(x + k) + j);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            Values v;
            __builtin_memcpy(&v, x + k + i * LENGTH, sizeof v);
            low[i] = v < low[i] ? v : low[i];
            high[i] = v > high[i] ? v : high[i];
            if constexpr (FLOAT) {
                const ValueBits sign = ValueBits{} + (Bits)((uint64_t)1 << (8 * sizeof(T) - 1));
                Values size = (Values)((ValueBits)v & ~sign);
                size = size == Values{} ? none : size;
                least[i] = size < least[i] ? size : least[i];
            }
        }
    }
    const auto lesser = [](const auto &a, const auto &b) __attribute__((always_inline)) { return b < a ? b : a; };
    const auto greater = [](const auto &a, const auto &b) __attribute__((always_inline)) { return b > a ? b : a; };
    const auto fold = [](const Values &values, const auto &better) __attribute__((always_inline)) {
        alignas(64) T v[LENGTH];
        __builtin_memcpy(v, &values, sizeof v);
        return best_of_register<T, REGISTER>(v, better);
    };
    extent->low = fold(lesser(low[0], low[1]), lesser);
    extent->high = fold(greater(high[0], high[1]), greater);
    if (FLOAT) extent->least = fold(lesser(least[0], least[1]), lesser);
    return k;
}

template <class T, bool MASKED>
STREAMBN_INLINE Extent<double> extent_of(const T *x, int n, const uint8_t *bits, const Pack &filler) {
    Extent<double> whole{INFINITE, -INFINITE, INFINITE};
    if constexpr (!MASKED && !std::is_same<T, Half>::value) {
        constexpr T TOP = (T)INFINITE;
        Extent<T> front{TOP, -TOP, TOP};
        const int done = extent_of_registers(x, n, &front);
        whole = {front.low, front.high, front.least};
        if (done == n) return whole;
        x += done, n -= done;
    }
    Pack low = broadcast(whole.low), high = broadcast(whole.high), least = broadcast(whole.least);
    const Pack zero = broadcast(0.0), none = broadcast(INFINITE);
    for_packs<MASKED>(x, n, bits, STREAMBN_TAKE(T) {
        if (MASKED && (k * WIDTH * sizeof(T)) % 64 == 0) ask_for(x + k * WIDTH);
        Pack v = load_as_double(from);
        if (masked) v = select(mask_of(present), v, filler);
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

// Which zero is the least, and which the greatest: -0.0 comes before 0.0, and a comparison of
// numbers does not see it.
template <class T, bool MASKED>
inline void order_zeros(const T *x, int n, const uint8_t *bits, const Pack &filler, ExactPiece *out) {
    Ints some = broadcast<int64_t>(0), all = broadcast<int64_t>(-1);
    for_packs<MASKED>(x, n, bits, STREAMBN_TAKE(T) {
        (void)k;
        Pack v = load_as_double(from);
        if (masked) v = select(mask_of(present), v, filler);
        some = some | bits_of(v);
        all = all & bits_of(v);
    });
    alignas(64) int64_t any_bits[WIDTH], all_bits[WIDTH];
    store(any_bits, some);
    store(all_bits, all);
    bool any_negative = false, all_negative = true;
    for (int k = 0; k < WIDTH; ++k) any_negative |= any_bits[k] < 0, all_negative &= all_bits[k] < 0;
    if (out->low == 0) out->low = any_negative ? -0.0 : 0.0;
    if (out->high == 0) out->high = all_negative ? -0.0 : 0.0;
}

// Sum what is in `rest`, all below 2**exponent, level by level until nothing is left. Every
// level takes at least 44 bits off the greatest. Returns how many there were, or -1 where there
// is a NaN or an infinity.
inline int sum_levels(double *rest, int packs, int exponent, ExactTerm *terms) {
    for (int level = 0;; ++level) {
        // Two sums of each, so that an addition need not wait for the one before.
        Pack a = start_of(exponent), b = a, largest_a = broadcast(0.0), largest_b = largest_a;
        int k = 0;
        for (; k + 1 < packs; k += 2) {
            const Pack v = load<double>(rest + k * WIDTH), w = load<double>(rest + (k + 1) * WIDTH);
            const Pack s = a + v, t = b + w;
            const Pack p = left_of(v, a, s), q = left_of(w, b, t);
            a = s, b = t;
            store(rest + k * WIDTH, p);
            store(rest + (k + 1) * WIDTH, q);
            largest_a = maximum(magnitude(p), largest_a);
            largest_b = maximum(magnitude(q), largest_b);
        }
        if (k < packs) {
            const Pack v = load<double>(rest + k * WIDTH), s = a + v, p = left_of(v, a, s);
            a = s;
            store(rest + k * WIDTH, p);
            largest_a = maximum(magnitude(p), largest_a);
        }
        if (any(not_finite(a) | not_finite(b))) return -1;
        ExactTerm &term = terms[level] = term_of(a, exponent);
        term.amount += term_of(b, exponent).amount;
        const double largest = best_of(maximum(largest_a, largest_b),
                                       [](double x, double y) { return y > x ? y : x; });
        if (largest == 0) return level + 1;
        exponent = exponent_above(largest);
    }
}

// A piece whose values are too far apart for two sums.
template <class T, bool MASKED>
inline Verdict sum_far_apart(const T *x, int n, const uint8_t *bits, int exponent, ExactPiece *out) {
    constexpr bool DOUBLE = std::is_same<T, double>::value;
    alignas(64) double value[PIECE], square[PIECE], error[DOUBLE ? PIECE : 8];
    for_packs<MASKED>(x, n, bits, STREAMBN_TAKE(T) {
        Pack v = load_as_double(from);
        if (masked) v = select(mask_of(present), v, broadcast(0.0));
        const Pack h = v * v;
        store(value + k * WIDTH, v);
        store(square + k * WIDTH, h);
        if (DOUBLE) store(error + k * WIDTH, error_of_square(h, v));
    });
    const int packs = (n + WIDTH - 1) / WIDTH;
    out->totals = sum_levels(value, packs, exponent, out->total);
    if (out->totals < 0) return Verdict::not_finite;
    out->squares = sum_levels(square, packs, 2 * exponent, out->square);
    if (DOUBLE)
        out->squares += sum_levels(error, packs, 2 * exponent - 54, out->square + out->squares);
    return Verdict::taken;
}

template <class T, bool MASKED>
inline bool has_not_finite(const T *x, int n, const uint8_t *bits) {
    Pack sum = broadcast(0.0);
    for_packs<MASKED>(x, n, bits, STREAMBN_TAKE(T) {
        (void)k;
        Pack v = load_as_double(from);
        if (masked) v = select(mask_of(present), v, broadcast(0.0));
        sum = sum + (v - v);
    });
    return any(not_finite(sum));
}

template <class T, bool MASKED>
STREAMBN_INLINE Verdict sum_floats(const T *x, int n, const uint8_t *bits, ExactPiece *out) {
    constexpr bool DOUBLE = std::is_same<T, double>::value;
    const Tail<T> first_there(x + (MASKED ? first_present(bits) : 0), 1, nullptr);
    alignas(64) int64_t number[WIDTH];
    store(number, bits_of(load_as_double(first_there.values)));
    // By its bits: `broadcast` makes 0.0 of -0.0.
    const Ints same = broadcast(number[0]);
    const Pack filler = each<double>(STREAMBN_PART((Register<double>)same.part[i]));
    const Extent<double> extent = extent_of<T, MASKED>(x, n, bits, filler);
    // Not so where there is nothing but NaN; beside numbers, the sums will tell.
    if (!(extent.low > -INFINITE && extent.high < INFINITE && extent.low <= extent.high))
        return Verdict::not_finite;
    out->low = extent.low, out->high = extent.high;
    if (extent.low == 0 || extent.high == 0) order_zeros<T, MASKED>(x, n, bits, filler, out);
    const double largest = -extent.low > extent.high ? -extent.low : extent.high;
    // |x| < 2**top; and where anything is not zero, bottom is the exponent of its leading bit.
    const int top = largest == 0 ? 0 : exponent_above(largest);
    const int bottom = largest == 0 ? top - 1 : exponent_above(extent.least) - 1;
    const Pack zero = broadcast(0.0);
    if constexpr (DOUBLE) {
        if (top > TOP_EXPONENT || bottom < BOTTOM_EXPONENT || top - 1 - bottom > WIDE)
            return has_not_finite<T, MASKED>(x, n, bits) ? Verdict::not_finite : Verdict::out_of_range;
        if (top - 1 - bottom > NARROW) return sum_far_apart<T, MASKED>(x, n, bits, top, out);
        Floats sums[SETS];
        for (Floats &set : sums)
            set = {start_of(top),        start_of(top + LEFT),     start_of(2 * top),
                   start_of(2 * top + LEFT), start_of(2 * top - 54), start_of(2 * top - 54 + LEFT)};
        for_sets<MASKED, SETS>(x, n, bits, STREAMBN_TAKE(T) {
            Floats &set = sums[k];
            Pack v = load<double>(from);
            if (masked) v = select(mask_of(present), v, zero);
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
        out->totals = 2, out->squares = 4;
        out->total[0] = term_of(sums[0].first, sums[SETS - 1].first, top);
        out->total[1] = term_of(sums[0].first_left, sums[SETS - 1].first_left, top + LEFT);
        out->square[0] = term_of(sums[0].square, sums[SETS - 1].square, 2 * top);
        out->square[1] = term_of(sums[0].square_left, sums[SETS - 1].square_left, 2 * top + LEFT);
        out->square[2] = term_of(sums[0].error, sums[SETS - 1].error, 2 * top - 54);
        out->square[3] = term_of(sums[0].error_left, sums[SETS - 1].error_left, 2 * top - 54 + LEFT);
        if (any(not_finite(sums[0].first + sums[SETS - 1].first))) return Verdict::not_finite;
    } else {
        // 24 bits or 11, or what is left of them at the end of the range; squares have no error.
        constexpr int DIGITS = std::is_same<T, float>::value ? 24 : 11;
        constexpr int LAST = std::is_same<T, float>::value ? -149 : -24;
        const int last = bottom - (DIGITS - 1) > LAST ? bottom - (DIGITS - 1) : LAST;
        static_assert(2 * GRID >= LEFT + GRID, "where one sum takes all x, two take all squares");
        if (last < top + GRID) return sum_far_apart<T, MASKED>(x, n, bits, top, out);
        Floats sums[SETS];
        for (Floats &set : sums)
            set.first = start_of(top), set.square = start_of(2 * top), set.square_left = start_of(2 * top + LEFT);
        for_sets<MASKED, SETS>(x, n, bits, STREAMBN_TAKE(T) {
            Floats &set = sums[k];
            Pack v = load_as_double(from);
            if (masked) v = select(mask_of(present), v, zero);
            set.first = set.first + v;
            const Pack h = v * v, square = set.square + h;
            set.square_left = set.square_left + left_of(h, set.square, square);
            set.square = square;
        });
        out->totals = 1, out->squares = 2;
        out->total[0] = term_of(sums[0].first, sums[SETS - 1].first, top);
        out->square[0] = term_of(sums[0].square, sums[SETS - 1].square, 2 * top);
        out->square[1] = term_of(sums[0].square_left, sums[SETS - 1].square_left, 2 * top + LEFT);
        if (any(not_finite(sums[0].first + sums[SETS - 1].first))) return Verdict::not_finite;
    }
    return Verdict::taken;
}

}  // namespace streambn::STREAMBN_SIMD
