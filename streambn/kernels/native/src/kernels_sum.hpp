// The inner loops that read and sum; see kernels.hpp for what each is to do.
#pragma once

#include <type_traits>

#include "kernels.hpp"
#include "simd.hpp"

namespace streambn::STREAMBN_SIMD {

constexpr double INFINITE = __builtin_huge_val();
// Distances from a centre whose squares, and the low halves of their sums, are normal numbers.
// A lane's values lie in 2**±400; their distance may be twice that, or the last bit of one.
constexpr double BIG = 0x1p402, SMALL = 0x1p-460;
// The sums that end a piece keep the machine from looking ahead by itself: half the speed. A line
// is asked for into the second-level cache long before it is used, and into the first when it is
// there. Alone, 3 KB ahead into the first, 1,000 columns took 9 % longer, int64 8 %.
constexpr int FAR_AHEAD = 16384, AHEAD = 2048;
STREAMBN_INLINE void ask_for(const void *line) {
    const char *octets = static_cast<const char *>(line);
    __builtin_prefetch(octets + FAR_AHEAD, 0, 2);
    __builtin_prefetch(octets + AHEAD);
}

// ------------------------------------------------------------------ reading the types

// How values of a type are read, centred and compared; `Raw` is what is compared.
template <class T, bool IS_FLOAT>
struct NumberReader {
    using Raw = double;
    static constexpr bool FLOAT = IS_FLOAT;
    static constexpr Raw TOP = INFINITE, BOTTOM = -INFINITE;
    static STREAMBN_INLINE Pack raw(const T *x) { return load_as_double(x); }
    static STREAMBN_INLINE Raw centre(Origin origin) { return origin.number; }
    static STREAMBN_INLINE Pack offset(const Pack &x, const Pack &c) { return x - c; }
    static STREAMBN_INLINE double distance(Raw x, Raw c) { return x - c; }
    static STREAMBN_INLINE double *low(Sums *s) { return s->low; }
    static STREAMBN_INLINE double *high(Sums *s) { return s->high; }
};

// 64-bit integers, which float64 does not hold: centred and compared as what they are. An
// unsigned one is read less 2**63, which keeps the order.
template <class T, uint64_t FLIP>
struct WideReader {
    using Raw = int64_t;
    static constexpr bool FLOAT = false;
    static constexpr Raw TOP = INT64_MAX, BOTTOM = INT64_MIN;
    static STREAMBN_INLINE Ints raw(const T *x) {
        const Ints value = load<int64_t>(x);
        return FLIP ? value ^ broadcast((int64_t)FLIP) : value;
    }
    static STREAMBN_INLINE Raw centre(Origin origin) { return origin.integer; }
    // Modulo 2**64, as unsigned numbers subtract; whoever calls sees to it that it fits.
    static STREAMBN_INLINE Pack offset(const Ints &x, const Ints &c) {
        return convert<double>(each<int64_t>(STREAMBN_PART((Register<int64_t>)(
            (Register<uint64_t>)x.part[i] - (Register<uint64_t>)c.part[i]))));
    }
    static STREAMBN_INLINE double distance(Raw x, Raw c) {
        int64_t d;
        if (__builtin_sub_overflow(x, c, &d)) return x < c ? -INFINITE : INFINITE;
        return (double)d;
    }
    static STREAMBN_INLINE int64_t *low(Sums *s) { return s->low_integer; }
    static STREAMBN_INLINE int64_t *high(Sums *s) { return s->high_integer; }
};

template <class T>
struct Reader : NumberReader<T, false> {};
template <>
struct Reader<double> : NumberReader<double, true> {};
template <>
struct Reader<float> : NumberReader<float, true> {};
template <>
struct Reader<Half> : NumberReader<Half, true> {};
template <>
struct Reader<int64_t> : WideReader<int64_t, 0> {};
template <>
struct Reader<uint64_t> : WideReader<uint64_t, (uint64_t)1 << 63> {};

// A pack at the end of the values, of which only some are there.
template <class T>
struct Tail {
    T values[WIDTH] = {};
    uint8_t present;
    STREAMBN_INLINE Tail(const T *x, int n, const uint8_t *bits) {
        __builtin_memcpy(values, x, n * sizeof(T));
        present = (uint8_t)((1u << n) - 1) & (bits ? *bits : 0xff);
    }
};

// 2**exponent, a normal number.
STREAMBN_INLINE double power_of_two(int exponent) {
    const uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double power;
    __builtin_memcpy(&power, &bits, sizeof power);
    return power;
}

// s + x as a new sum in `hi` and its rounding error added to `lo` (Knuth's two-sum).
STREAMBN_INLINE void add_exactly(double *hi, double *lo, const Pack &x) {
    const Pack a = load<double>(hi), s = a + x, t = s - a;
    store(hi, s);
    store(lo, load<double>(lo) + ((a - (s - t)) + (x - t)));
}

STREAMBN_INLINE void add_to(double *sum, const Pack &x) { store(sum, load<double>(sum) + x); }

template <class T>
STREAMBN_INLINE void lower_and_raise(const Lanes<T> &low, const Lanes<T> &high, T *lows, T *highs) {
    store(lows, minimum(low, load<T>(lows)));
    store(highs, maximum(high, load<T>(highs)));
}

// ----------------------------------------------------------------------------- weights

// A subnormal weight costs a hundred cycles and adds nothing.
STREAMBN_INLINE Pack flushed(const Pack &w) {
    const Pack zero = broadcast(0.0), least = broadcast(0x1p-1022);
    return each<double>(STREAMBN_PART(w.part[i] < least.part[i] ? zero.part[i] : w.part[i]));
}

// W, C and Q of the rows so far of eight interleaved series, in four sets: no sum over a piece
// is more than 16 terms deep.
struct WeightSums {
    Pack weight[4], pairs[4], squares[4];

    STREAMBN_INLINE WeightSums() {
        for (int i = 0; i < 4; ++i) weight[i] = pairs[i] = squares[i] = broadcast(0.0);
    }
    STREAMBN_INLINE void add(int set, const Pack &w) {
        pairs[set] = pairs[set] + w * weight[set];
        squares[set] = squares[set] + w * w;
        weight[set] = weight[set] + w;
    }
    // Set b's rows joined to those of set a.
    STREAMBN_INLINE void join(int a, int b) {
        pairs[a] = (pairs[a] + pairs[b]) + weight[a] * weight[b];
        squares[a] = squares[a] + squares[b];
        weight[a] = weight[a] + weight[b];
    }
    STREAMBN_INLINE PieceWeights of_all() {
        join(0, 1);
        join(2, 3);
        join(0, 2);
        alignas(64) double w[WIDTH], c[WIDTH], q[WIDTH];
        store(w, weight[0]);
        store(c, pairs[0]);
        store(q, squares[0]);
        for (int step = 1; step < WIDTH; step *= 2)
            for (int k = 0; k < WIDTH; k += 2 * step) {
                c[k] = (c[k] + c[k + step]) + w[k] * w[k + step];
                q[k] = q[k] + q[k + step];
                w[k] = w[k] + w[k + step];
            }
        return {w[0], c[0], q[0]};
    }
};

template <bool FADED>
STREAMBN_INLINE PieceWeights weigh_rows(const double *given, const double *weights, int n) {
    WeightSums sums;
    const auto add = [&](int set, const double *from, const double *by) __attribute__((always_inline)) {
        const Pack w = load<double>(from);
        sums.add(set, FADED ? flushed(w * load<double>(by)) : w);
    };
    const int packs = n / WIDTH, whole = packs / 4 * 4;
    for (int k = 0; k < whole; k += 4) {
        for (int j = 0; j < 4; ++j) ask_for(given + (k + j) * WIDTH);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
            add(i, given + (k + i) * WIDTH, FADED ? weights + (k + i) * WIDTH : nullptr);
    }
    for (int k = whole; k < packs; ++k)
        add(0, given + k * WIDTH, FADED ? weights + k * WIDTH : nullptr);
    if (n % WIDTH) {
        const Tail<double> tail(given + packs * WIDTH, n % WIDTH, nullptr);
        add(1, tail.values, FADED ? weights + packs * WIDTH : nullptr);
    }
    return sums.of_all();
}

inline PieceWeights weigh(const double *given, const double *weights, int n) {
    return weights ? weigh_rows<true>(given, weights, n) : weigh_rows<false>(given, weights, n);
}

// --------------------------------------------------------------------------- fast sums

// Which weights a loop takes: none, those of the rows, or those and others that were given.
enum class Takes { none, weights, both };

// What one pass gathers, in four interleaved sets, so that no addition waits for another.
template <class R>
struct Gathered {
    Pack first[4], second[4];
    Lanes<typename R::Raw> low[2], high[2];
};

template <class R, bool MASKED, Takes TAKES, class T>
STREAMBN_INLINE void gather(Gathered<R> &g, WeightSums &there, int set, const T *x, uint8_t present,
                            const Lanes<typename R::Raw> &c, const RowWeights &rows, int row) {
    auto value = R::raw(x);
    const Mask mask = MASKED ? mask_of(present) : Mask{};
    // A missing value becomes the centre, which lies amid the data: nothing is added to the
    // sums, and the extremes stay.
    if (MASKED) value = select(mask, value, c);
    const Pack d = R::offset(value, c);
    Pack wd = d;
    if (TAKES != Takes::none) {
        Pack w = load<double>(rows.weights + row);
        if (MASKED) {
            w = select(mask, w, broadcast(0.0));
            there.add(set, w);
        }
        if (TAKES == Takes::both) w = w * load<double>(rows.given + row);
        wd = w * d;
    }
    g.first[set] = g.first[set] + wd;
    g.second[set] = g.second[set] + wd * d;
    g.low[set & 1] = minimum(value, g.low[set & 1]);
    g.high[set & 1] = maximum(value, g.high[set & 1]);
}

template <class T, bool MASKED, Takes TAKES>
STREAMBN_INLINE Verdict sum_piece(const T *x, int n, const uint8_t *bits, Origin origin,
                                  const RowWeights rows, Sums *sums, PieceWeights *weighed) {
    using R = Reader<T>;
    const auto c = broadcast(R::centre(origin));
    WeightSums there;
    Gathered<R> g;
    for (int i = 0; i < 4; ++i) g.first[i] = g.second[i] = broadcast(0.0);
    for (int i = 0; i < 2; ++i) g.low[i] = broadcast(R::TOP), g.high[i] = broadcast(R::BOTTOM);
    const int packs = n / WIDTH, whole = packs / 4 * 4;
    for (int k = 0; k < whole; k += 4) {
        for (unsigned j = 0; j < 4 * WIDTH * sizeof(T); j += 64)
            ask_for(reinterpret_cast<const char *>(x + k * WIDTH) + j);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
            gather<R, MASKED, TAKES>(g, there, i, x + (k + i) * WIDTH, MASKED ? bits[k + i] : 0, c,
                                     rows, (k + i) * WIDTH);
    }
    for (int k = whole; k < packs; ++k)
        gather<R, MASKED, TAKES>(g, there, 0, x + k * WIDTH, MASKED ? bits[k] : 0, c, rows,
                                 k * WIDTH);
    if (n % WIDTH) {
        const Tail<T> tail(x + packs * WIDTH, n % WIDTH, MASKED ? bits + packs : nullptr);
        gather<R, true, TAKES>(g, there, 1, tail.values, tail.present, c, rows, packs * WIDTH);
    }
    Pack first = (g.first[0] + g.first[1]) + (g.first[2] + g.first[3]);
    Pack second = (g.second[0] + g.second[1]) + (g.second[2] + g.second[3]);
    if (any(not_finite(second) | not_finite(first))) {
        if (!R::FLOAT) return Verdict::out_of_range;
        return Verdict::not_finite;
    }
    if (TAKES != Takes::none) {
        const Pack factor = broadcast(rows.factor);
        first = first * factor, second = second * factor;
    }
    add_exactly(sums->first_hi, sums->first_lo, first);
    add_exactly(sums->second_hi, sums->second_lo, second);
    lower_and_raise(minimum(g.low[0], g.low[1]), maximum(g.high[0], g.high[1]), R::low(sums),
                    R::high(sums));
    if (MASKED && TAKES != Takes::none) *weighed = there.of_all();
    return Verdict::taken;
}

template <class T>
Verdict sum(const void *values, int n, const uint8_t *bits, Origin origin, const RowWeights &rows,
            Sums *sums, PieceWeights *there) {
    const T *x = static_cast<const T *>(values);
    if (rows.given)
        return sum_piece<T, false, Takes::both>(x, n, bits, origin, rows, sums, there);
    if (rows.weights)
        return bits ? sum_piece<T, true, Takes::weights>(x, n, bits, origin, rows, sums, there)
                    : sum_piece<T, false, Takes::weights>(x, n, bits, origin, rows, sums, there);
    return bits ? sum_piece<T, true, Takes::none>(x, n, bits, origin, rows, sums, there)
                : sum_piece<T, false, Takes::none>(x, n, bits, origin, rows, sums, there);
}

// -------------------------------------------------------------------------- exact sums

// Sums of d and of d*d, each cut at a grid so coarse that the upper parts add up without
// rounding: s + d is rounded to the grid of s, which is larger than any sum. What is cut
// off is summed beside it, 2**-45 of the largest at most. (S. M. Rump, T. Ogita and
// S. Oishi, 2008, "Accurate floating-point summation", part I.)
struct Grid {
    Pack first, first_rest, second, second_rest;
};

template <class R, bool MASKED, class T>
STREAMBN_INLINE void extremes(Lanes<typename R::Raw> &low, Lanes<typename R::Raw> &high, const T *x,
                              uint8_t present, const Lanes<typename R::Raw> &filler) {
    auto value = R::raw(x);
    if (MASKED) value = select(mask_of(present), value, filler);
    low = minimum(value, low);
    high = maximum(value, high);
}

template <class R, bool MASKED, bool AROUND_ZERO, class T>
STREAMBN_INLINE void gather_exactly(Grid &g, const T *x, uint8_t present,
                                    const Lanes<typename R::Raw> &c) {
    auto value = R::raw(x);
    if (MASKED) value = select(mask_of(present), value, c);
    Pack d;
    if constexpr (AROUND_ZERO)
        d = value;
    else
        d = R::offset(value, c);
    const Pack s = g.first + d;
    g.first_rest = g.first_rest + (d - (s - g.first));
    g.first = s;
    const Pack t = square_onto(g.second, d);
    g.second_rest = g.second_rest + square_less(t - g.second, d);
    g.second = t;
}

// The least or the greatest of eight, as a tree: a comparison takes four cycles.
template <class Raw, class Better>
STREAMBN_INLINE Raw best_of(const Lanes<Raw> &pack, const Better &better) {
    alignas(64) Raw v[WIDTH];
    store(v, pack);
    return better(better(better(v[0], v[1]), better(v[2], v[3])),
                  better(better(v[4], v[5]), better(v[6], v[7])));
}

// `AROUND_ZERO`: the origin is 0, and nothing is subtracted.
template <class T, bool MASKED, bool AROUND_ZERO>
STREAMBN_INLINE Verdict sum_piece_exactly(const T *x, int n, const uint8_t *bits, Origin origin,
                                          Sums *sums) {
    using R = Reader<T>;
    using Raw = typename R::Raw;
    const int packs = n / WIDTH, rest = n % WIDTH;
    const Tail<T> tail(x + packs * WIDTH, rest, MASKED ? bits + packs : nullptr);
    // One of the values there are, to stand in for those that are missing.
    Lanes<Raw> filler = broadcast((Raw)0);
    if (MASKED || rest) {
        int k = 0;
        while (k < packs && MASKED && !bits[k]) ++k;
        const uint8_t there = k == packs ? tail.present : MASKED ? bits[k] : 0xff;
        if (!there) return Verdict::taken;
        alignas(64) Raw some[WIDTH];
        store(some, R::raw(k == packs ? tail.values : x + k * WIDTH));
        filler = broadcast(some[__builtin_ctz(there)]);
    }
    constexpr int CHAINS = 4;  // a comparison takes four cycles
    Lanes<Raw> low[CHAINS], high[CHAINS];
    for (int i = 0; i < CHAINS; ++i) low[i] = broadcast(R::TOP), high[i] = broadcast(R::BOTTOM);
    int k = 0;
    for (; k + CHAINS <= packs; k += CHAINS) {
#pragma GCC unroll 4
        for (int i = 0; i < CHAINS; ++i)
            extremes<R, MASKED>(low[i], high[i], x + (k + i) * WIDTH, MASKED ? bits[k + i] : 0, filler);
    }
    for (; k < packs; ++k)
        extremes<R, MASKED>(low[0], high[0], x + k * WIDTH, MASKED ? bits[k] : 0, filler);
    if (rest) extremes<R, true>(low[1], high[1], tail.values, tail.present, filler);
    low[0] = minimum(minimum(low[0], low[1]), minimum(low[2], low[3]));
    high[0] = maximum(maximum(high[0], high[1]), maximum(high[2], high[3]));
    const Raw lowest = best_of(low[0], [](Raw a, Raw b) { return b < a ? b : a; });
    const Raw highest = best_of(high[0], [](Raw a, Raw b) { return b > a ? b : a; });
    // A NaN is neither less nor more than anything: if there is nothing else, these are as they
    // were. If there is, the sums will tell.
    if (R::FLOAT && !(lowest > R::BOTTOM && highest < R::TOP && lowest <= highest))
        return Verdict::not_finite;
    const Raw centre = R::centre(origin);
    const double below = -R::distance(lowest, centre), above = R::distance(highest, centre);
    const double largest = below > above ? below : above;
    if (!(largest <= BIG) || (largest != 0 && largest < SMALL)) return Verdict::out_of_range;

    // A power of two above all |d|; a lane of a pack sums at most 64 of them.
    uint64_t bits_of_largest;
    __builtin_memcpy(&bits_of_largest, &largest, sizeof largest);
    const int exponent = largest == 0 ? 0 : (int)(bits_of_largest >> 52) - 1022;
    const Pack bias = broadcast(1.5 * power_of_two(exponent + 8));
    const Pack bias_square = broadcast(1.5 * power_of_two(2 * exponent + 8));
    const auto c = broadcast(centre);
    const Pack zero = broadcast(0.0);
    Grid g[2] = {{bias, zero, bias_square, zero}, {bias, zero, bias_square, zero}};
    for (k = 0; k + 1 < packs; k += 2) {
        gather_exactly<R, MASKED, AROUND_ZERO>(g[0], x + k * WIDTH, MASKED ? bits[k] : 0, c);
        gather_exactly<R, MASKED, AROUND_ZERO>(g[1], x + (k + 1) * WIDTH, MASKED ? bits[k + 1] : 0, c);
    }
    if (packs % 2)
        gather_exactly<R, MASKED, AROUND_ZERO>(g[0], x + (packs - 1) * WIDTH,
                                               MASKED ? bits[packs - 1] : 0, c);
    if (rest) gather_exactly<R, true, AROUND_ZERO>(g[1], tail.values, tail.present, c);
    // On the grid this sum is exact too.
    const Pack first = (g[0].first - bias) + (g[1].first - bias);
    if (R::FLOAT && any(not_finite(first))) return Verdict::not_finite;
    add_exactly(sums->first_hi, sums->first_lo, first);
    add_exactly(sums->second_hi, sums->second_lo,
                (g[0].second - bias_square) + (g[1].second - bias_square));
    // What was cut off lies as far below the sum as its own low half does.
    add_to(sums->first_lo, g[0].first_rest + g[1].first_rest);
    add_to(sums->second_lo, g[0].second_rest + g[1].second_rest);
    lower_and_raise(low[0], high[0], R::low(sums), R::high(sums));
    return Verdict::taken;
}

template <class T>
Verdict sum_exactly(const void *values, int n, const uint8_t *bits, Origin origin,
                    const RowWeights &, Sums *sums, PieceWeights *) {
    const T *x = static_cast<const T *>(values);
    if constexpr (!std::is_same<typename Reader<T>::Raw, int64_t>::value) {
        // As all begin that are no 64-bit integers.
        if (origin.number == 0)
            return bits ? sum_piece_exactly<T, true, true>(x, n, bits, origin, sums)
                        : sum_piece_exactly<T, false, true>(x, n, bits, origin, sums);
    }
    return bits ? sum_piece_exactly<T, true, false>(x, n, bits, origin, sums)
                : sum_piece_exactly<T, false, false>(x, n, bits, origin, sums);
}

// ------------------------------------------------------------------ what is missing

inline int count_bits(const uint64_t *words, int n) {
    int count = 0;
    for (int i = 0; i < n; ++i) count += __builtin_popcountll(words[i]);
    return count;
}

template <class T>
void find_finite(const void *values, int n, uint8_t *bits, NotFinite *counts) {
    const T *x = static_cast<const T *>(values);
    for (int start = 0; start < n; start += WIDTH) {
        const int m = n - start < WIDTH ? n - start : WIDTH;
        const Tail<T> pack(x + start, m, bits + start / WIDTH);
        alignas(64) double number[WIDTH];
        store(number, load_as_double(pack.values));
        uint8_t nan = 0, above = 0, below = 0;
        for (int k = 0; k < WIDTH; ++k) {
            nan |= (uint8_t)((number[k] != number[k]) << k);
            above |= (uint8_t)((number[k] == INFINITE) << k);
            below |= (uint8_t)((number[k] == -INFINITE) << k);
        }
        counts->nans += __builtin_popcount(nan & pack.present);
        counts->pos_infs += __builtin_popcount(above & pack.present);
        counts->neg_infs += __builtin_popcount(below & pack.present);
        bits[start / WIDTH] = pack.present & (uint8_t)~(nan | above | below);
    }
}

template <class T>
void widen(const void *values, int n, Origin origin, double *offsets) {
    using R = Reader<T>;
    const T *x = static_cast<const T *>(values);
    const auto c = broadcast(R::centre(origin));
    int i = 0;
    for (; i + WIDTH <= n; i += WIDTH) store(offsets + i, R::offset(R::raw(x + i), c));
    if (i < n) {
        const Tail<T> tail(x + i, n - i, nullptr);
        alignas(64) double last[WIDTH];
        store(last, R::offset(R::raw(tail.values), c));
        __builtin_memcpy(offsets + i, last, (n - i) * sizeof(double));
    }
}

}  // namespace streambn::STREAMBN_SIMD
