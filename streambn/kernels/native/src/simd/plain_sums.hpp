// Sums of the differences from a centre, and of their squares.
#pragma once

#include "simd/reader.hpp"
#include "simd/weights.hpp"

namespace streambn::STREAMBN_SIMD {

// Sets hi to the rounded sum hi + x, and adds the rounding error to lo (Knuth's two-sum).
STREAMBN_INLINE void add_exactly(double *hi, double *lo, const Pack &x) {
    const Pack a = load<double>(hi), s = a + x, t = s - a;
    store(hi, s);
    store(lo, load<double>(lo) + ((a - (s - t)) + (x - t)));
}

template <class T>
STREAMBN_INLINE void lower_and_raise(const Vector<T> &low, const Vector<T> &high, T *lows, T *highs) {
    store(lows, minimum(low, load<T>(lows)));
    store(highs, maximum(high, load<T>(highs)));
}

// The weights that a loop applies: none, `weights`, or `weights` * `given`.
enum class Applies { none, weights, both };

// The sums of one pass. Four interleaved sets keep additions from waiting for each other.
template <class R>
struct Gathered {
    Pack first[4], second[4];
    Vector<typename R::Raw> low[2], high[2];
};

template <class R, bool MASKED, Applies APPLIES, class T>
STREAMBN_INLINE void gather(Gathered<R> &g, WeightSums &valid_weights, int set, const T *x,
                            uint8_t present, const Vector<typename R::Raw> &c,
                            const RowWeights &rows, int row) {
    auto value = R::raw(x);
    const Mask mask = MASKED ? mask_of(present) : Mask{};
    // The centre replaces a missing value. It adds nothing to the sums. It lies among the data, so
    // it does not change the extremes.
    if (MASKED) value = select(mask, value, c);
    const Pack d = R::offset(value, c);
    Pack wd = d;
    if (APPLIES != Applies::none) {
        Pack w = load<double>(rows.weights + row);
        if (MASKED) {
            w = select(mask, w, broadcast(0.0));
            valid_weights.add(set, w);
        }
        if (APPLIES == Applies::both) w = w * load<double>(rows.given + row);
        wd = w * d;
    }
    g.first[set] = g.first[set] + wd;
    g.second[set] = g.second[set] + wd * d;
    g.low[set & 1] = minimum(value, g.low[set & 1]);
    g.high[set & 1] = maximum(value, g.high[set & 1]);
}

// Adds the sums of a piece to `sums`. Adds nothing if a difference or a square is not finite.
template <class R, Applies APPLIES>
STREAMBN_INLINE Verdict finish(const Gathered<R> &g, double factor, Sums *sums) {
    Pack first = (g.first[0] + g.first[1]) + (g.first[2] + g.first[3]);
    Pack second = (g.second[0] + g.second[1]) + (g.second[2] + g.second[3]);
    if (any(not_finite(second) | not_finite(first)))
        return R::FLOAT ? Verdict::not_finite : Verdict::out_of_range;
    if (APPLIES != Applies::none) first = first * broadcast(factor), second = second * broadcast(factor);
    add_exactly(sums->first_hi, sums->first_lo, first);
    add_exactly(sums->second_hi, sums->second_lo, second);
    lower_and_raise(minimum(g.low[0], g.low[1]), maximum(g.high[0], g.high[1]), R::low(sums),
                    R::high(sums));
    return Verdict::taken;
}

// Gathers the values after the last group of four packs, and finishes the piece. `valid_weights` is
// null if the caller does not need the weights of the valid rows.
template <class R, Applies APPLIES, class T>
__attribute__((noinline)) Verdict finish_with_rest(Gathered<R> &g, WeightSums &weights, const T *x,
                                                   int n, const uint8_t *bits, Origin origin,
                                                   const RowWeights &rows, int row, Sums *sums,
                                                   PieceWeights *valid_weights) {
    const auto c = broadcast(R::centre(origin));
    const int whole = n / WIDTH, rest = n % WIDTH;
    const Tail<T> tail(x + whole * WIDTH, rest, rest ? bits + whole : nullptr);
    for (int k = 0; k * WIDTH < n; ++k) {
        const bool last = k == whole;
        gather<R, true, APPLIES>(g, weights, last, last ? tail.values : x + k * WIDTH,
                                 last ? tail.present : bits[k], c, rows, row + k * WIDTH);
    }
    const Verdict verdict = finish<R, APPLIES>(g, rows.factor, sums);
    if (valid_weights && verdict == Verdict::taken) *valid_weights = weights.total();
    return verdict;
}

template <class T, bool MASKED, Applies APPLIES>
STREAMBN_INLINE Verdict sum_piece(const T *x, int n, const uint8_t *bits, Origin origin,
                                  const RowWeights rows, Sums *sums, PieceWeights *valid_weights) {
    using R = Reader<T>;
    constexpr bool WEIGHS = MASKED && APPLIES != Applies::none;
    const auto c = broadcast(R::centre(origin));
    WeightSums weights;
    Gathered<R> g;
    for (int i = 0; i < 4; ++i) g.first[i] = g.second[i] = broadcast(0.0);
    for (int i = 0; i < 2; ++i) g.low[i] = broadcast(R::TOP), g.high[i] = broadcast(R::BOTTOM);
    const int whole = n / (4 * WIDTH) * (4 * WIDTH);
    for (int k = 0; k < whole; k += 4 * WIDTH) {
        for (unsigned j = 0; j < 4 * WIDTH * sizeof(T); j += 64)
            prefetch(reinterpret_cast<const char *>(x + k) + j);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
            gather<R, MASKED, APPLIES>(g, weights, i, x + k + i * WIDTH,
                                       MASKED ? bits[k / WIDTH + i] : 0, c, rows, k + i * WIDTH);
    }
    if (whole < n) {
        // Pass only copies by reference, so that the sums above stay in registers. The copy is
        // element by element, because GCC 12 keeps sums in memory that are copied as a whole.
        Gathered<R> more;
        WeightSums more_weights;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            more.first[i] = g.first[i], more.second[i] = g.second[i];
            more.low[i & 1] = g.low[i & 1], more.high[i & 1] = g.high[i & 1];
            if (!WEIGHS) continue;
            more_weights.weight[i] = weights.weight[i], more_weights.pairs[i] = weights.pairs[i];
            more_weights.squares[i] = weights.squares[i];
        }
        return finish_with_rest<R, APPLIES>(more, more_weights, x + whole, n - whole,
                                            MASKED ? bits + whole / WIDTH : FULL_BITS.octets, origin,
                                            rows, whole, sums, WEIGHS ? valid_weights : nullptr);
    }
    const Verdict verdict = finish<R, APPLIES>(g, rows.factor, sums);
    if (WEIGHS && verdict == Verdict::taken) *valid_weights = weights.total();
    return verdict;
}

template <class T>
Verdict sum(const void *values, int n, const uint8_t *bits, Origin origin, const RowWeights &rows,
            Sums *sums, PieceWeights *valid_weights) {
    const T *x = static_cast<const T *>(values);
    if constexpr (HAS_ALL_LOOPS<T>) {
        if (rows.given)
            return sum_piece<T, false, Applies::both>(x, n, bits, origin, rows, sums, valid_weights);
        if (rows.weights)
            return bits ? sum_piece<T, true, Applies::weights>(x, n, bits, origin, rows, sums, valid_weights)
                        : sum_piece<T, false, Applies::weights>(x, n, bits, origin, rows, sums, valid_weights);
        return bits ? sum_piece<T, true, Applies::none>(x, n, bits, origin, rows, sums, valid_weights)
                    : sum_piece<T, false, Applies::none>(x, n, bits, origin, rows, sums, valid_weights);
    } else {
        if (!FEW_LOOPS && n == PIECE && !bits && !rows.weights)
            return sum_piece<T, false, Applies::none>(x, PIECE, bits, origin, rows, sums, valid_weights);
        alignas(64) Wider<T> wide[PIECE];
        convert_values(wide, x, n, Reader<T>::raw);
        return sum<Wider<T>>(wide, n, bits, origin, rows, sums, valid_weights);
    }
}

}  // namespace streambn::STREAMBN_SIMD
