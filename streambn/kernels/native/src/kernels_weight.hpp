// The inner loop over the weights of rows; see kernels.hpp for what it is to do.
#pragma once

#include "kernels.hpp"
#include "kernels_sum.hpp"
#include "simd.hpp"

namespace streambn::STREAMBN_SIMD {

// Of the rows so far of eight interleaved series.
struct Weights {
    Pack weight, pairs, squares;
};

// The loops below have four such sets, so that no sum is more than 16 terms deep.
STREAMBN_INLINE void add_weights(Weights &to, const Pack &w) {
    to.pairs = to.pairs + w * to.weight;
    to.squares = to.squares + w * w;
    to.weight = to.weight + w;
}

STREAMBN_INLINE Weights joined(const Weights &a, const Weights &b) {
    return {a.weight + b.weight, (a.pairs + b.pairs) + a.weight * b.weight, a.squares + b.squares};
}

STREAMBN_INLINE PieceWeights joined(const PieceWeights &a, const PieceWeights &b) {
    return {a.weight + b.weight, (a.pairs + b.pairs) + a.weight * b.weight, a.squares + b.squares};
}

template <bool MASKED>
STREAMBN_INLINE PieceWeights weigh_piece(const double *weights, int n, const uint8_t *bits) {
    const Pack zero = broadcast(0.0);
    Weights set[4];
    for (Weights &w : set) w = {zero, zero, zero};
    const auto pack = [&](int k) __attribute__((always_inline)) {
        const Pack w = load<double>(weights + k * WIDTH);
        return MASKED ? select(mask_of(bits[k]), w, zero) : w;
    };
    const int packs = n / WIDTH, whole = packs / 4 * 4;
    for (int k = 0; k < whole; k += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) add_weights(set[i], pack(k + i));
    }
    for (int k = whole; k < packs; ++k) add_weights(set[0], pack(k));
    if (n % WIDTH) {
        const Tail<double> tail(weights + packs * WIDTH, n % WIDTH, MASKED ? bits + packs : nullptr);
        add_weights(set[1], select(mask_of(tail.present), load<double>(tail.values), zero));
    }
    const Weights all = joined(joined(set[0], set[1]), joined(set[2], set[3]));
    alignas(64) double weight[WIDTH], pairs[WIDTH], squares[WIDTH];
    store(weight, all.weight);
    store(pairs, all.pairs);
    store(squares, all.squares);
    const auto at = [&](int k) { return PieceWeights{weight[k], pairs[k], squares[k]}; };
    return joined(joined(joined(at(0), at(1)), joined(at(2), at(3))),
                  joined(joined(at(4), at(5)), joined(at(6), at(7))));
}

inline PieceWeights weigh(const double *weights, int n, const uint8_t *bits) {
    return bits ? weigh_piece<true>(weights, n, bits) : weigh_piece<false>(weights, n, bits);
}

}  // namespace streambn::STREAMBN_SIMD
