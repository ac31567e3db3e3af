// Sums of differences and of their squares to 90 bits, for short batches.
//
// Each term is split at a grid so coarse that the upper parts add up without rounding. The sum s
// starts at a bias above every sum, so s + d rounds d to the grid of s. The remainders are at most
// 2**-45 of the largest value, and are summed separately.
//
// Source: S. M. Rump, T. Ogita and S. Oishi, 2008, "Accurate floating-point summation", part I.
#pragma once

#include "simd/plain_sums.hpp"
#include "simd/reader.hpp"

namespace streambn::STREAMBN_SIMD {

// The greatest and the least distance from a centre for which the squares, and the low halves of
// their sums, are normal numbers. Values lie within 2**±400. Their distance may be as large as
// twice the greatest value, or as small as the last bit of the least.
constexpr double BIG = 0x1p402, SMALL = 0x1p-460;

struct Grid {
    Pack first, first_rest, second, second_rest;
};

template <class R, bool MASKED, class T>
STREAMBN_INLINE void extremes(Vector<typename R::Raw> &low, Vector<typename R::Raw> &high,
                              const T *x, uint8_t present, const Vector<typename R::Raw> &filler) {
    auto value = R::raw(x);
    if (MASKED) value = select(mask_of(present), value, filler);
    low = minimum(value, low);
    high = maximum(value, high);
}

// AROUND_ZERO means that the centre is 0, so nothing is subtracted.
template <class R, bool MASKED, bool AROUND_ZERO, class T>
STREAMBN_INLINE void gather_precisely(Grid &g, const T *x, uint8_t present,
                                      const Vector<typename R::Raw> &c) {
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

template <class T, bool MASKED, bool AROUND_ZERO>
STREAMBN_INLINE Verdict sum_piece_precisely(const T *x, int n, const uint8_t *bits, Origin origin,
                                            Sums *sums) {
    using R = Reader<T>;
    using Raw = typename R::Raw;
    const int packs = n / WIDTH, rest = n % WIDTH;
    const Tail<T> tail(x + packs * WIDTH, rest, MASKED && rest ? bits + packs : nullptr);
    // A valid value replaces the missing values.
    Vector<Raw> filler = broadcast((Raw)0);
    if (MASKED || rest) {
        int k = 0;
        while (k < packs && MASKED && !bits[k]) ++k;
        const uint8_t valid = k == packs ? tail.present : MASKED ? bits[k] : 0xff;
        if (!valid) return Verdict::taken;
        alignas(64) Raw some[WIDTH];
        store(some, R::raw(k == packs ? tail.values : x + k * WIDTH));
        filler = broadcast(some[__builtin_ctz(valid)]);
    }
    constexpr int CHAINS = 4;  // independent chains, because a comparison takes four cycles
    Vector<Raw> low[CHAINS], high[CHAINS];
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
    // Every comparison with NaN is false. If all values are NaN, the extremes still have their
    // initial values. If only some are NaN, the sums below become NaN.
    if (R::FLOAT && !(lowest > R::BOTTOM && highest < R::TOP && lowest <= highest))
        return Verdict::not_finite;
    const Raw centre = R::centre(origin);
    const double below = -R::distance(lowest, centre), above = R::distance(highest, centre);
    const double largest = below > above ? below : above;
    if (!(largest <= BIG) || (largest != 0 && largest < SMALL)) return Verdict::out_of_range;

    // 2**exponent is above all |d|. Each element of a pack sums at most 64 differences.
    uint64_t bits_of_largest;
    __builtin_memcpy(&bits_of_largest, &largest, sizeof largest);
    const int exponent = largest == 0 ? 0 : (int)(bits_of_largest >> 52) - 1022;
    const Pack bias = broadcast(1.5 * power_of_two(exponent + 8));
    const Pack bias_square = broadcast(1.5 * power_of_two(2 * exponent + 8));
    const auto c = broadcast(centre);
    const Pack zero = broadcast(0.0);
    Grid g[2] = {{bias, zero, bias_square, zero}, {bias, zero, bias_square, zero}};
    for (k = 0; k + 1 < packs; k += 2) {
        gather_precisely<R, MASKED, AROUND_ZERO>(g[0], x + k * WIDTH, MASKED ? bits[k] : 0, c);
        gather_precisely<R, MASKED, AROUND_ZERO>(g[1], x + (k + 1) * WIDTH, MASKED ? bits[k + 1] : 0, c);
    }
    if (packs % 2)
        gather_precisely<R, MASKED, AROUND_ZERO>(g[0], x + (packs - 1) * WIDTH,
                                                 MASKED ? bits[packs - 1] : 0, c);
    if (rest) gather_precisely<R, true, AROUND_ZERO>(g[1], tail.values, tail.present, c);
    // Both sums are on the same grid, so adding them is exact, too.
    const Pack first = (g[0].first - bias) + (g[1].first - bias);
    if (R::FLOAT && any(not_finite(first))) return Verdict::not_finite;
    add_exactly(sums->first_hi, sums->first_lo, first);
    add_exactly(sums->second_hi, sums->second_lo,
                (g[0].second - bias_square) + (g[1].second - bias_square));
    // The remainders are of the order of the low half of the sum, so plain additions are enough.
    const auto add_to = [](double *sum, const Pack &more) { store(sum, load<double>(sum) + more); };
    add_to(sums->first_lo, g[0].first_rest + g[1].first_rest);
    add_to(sums->second_lo, g[0].second_rest + g[1].second_rest);
    lower_and_raise(low[0], high[0], R::low(sums), R::high(sums));
    return Verdict::taken;
}

template <class T>
Verdict sum_precisely(const void *values, int n, const uint8_t *bits, Origin origin,
                      const RowWeights &rows, Sums *sums, PieceWeights *valid_weights) {
    const T *x = static_cast<const T *>(values);
    constexpr bool WIDE = std::is_same<typename Reader<T>::Raw, int64_t>::value;
    if constexpr (HAS_ALL_LOOPS<T>) {
        if constexpr (WIDE) {
            if (!bits) return sum_piece_precisely<T, false, false>(x, n, bits, origin, sums);
        } else {
            // The first centre is zero for all types except the 64-bit integers.
            if (!bits && origin.number == 0)
                return sum_piece_precisely<T, false, true>(x, n, bits, origin, sums);
        }
    }
    if constexpr (std::is_same<T, double>::value || std::is_same<T, int64_t>::value) {
        return sum_piece_precisely<T, true, false>(x, n, bits ? bits : FULL_BITS.octets, origin, sums);
    } else {
        alignas(64) Wider<T> wide[PIECE];
        convert_values(wide, x, n, Reader<T>::raw);
        return sum_precisely<Wider<T>>(wide, n, bits, origin, rows, sums, valid_weights);
    }
}

}  // namespace streambn::STREAMBN_SIMD
