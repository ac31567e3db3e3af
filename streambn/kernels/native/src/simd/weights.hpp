// The sums W, C and Q of the weights of rows.
#pragma once

#include "simd/reader.hpp"

namespace streambn::STREAMBN_SIMD {

// Replaces subnormal weights by zero. They add nothing, and a product with them costs about a
// hundred cycles.
STREAMBN_INLINE Pack flushed(const Pack &w) {
    const Pack zero = broadcast(0.0), least = broadcast(0x1p-1022);
    return each<double>(STREAMBN_PART(w.part[i] < least.part[i] ? zero.part[i] : w.part[i]));
}

// W, C and Q of eight interleaved series in each of four sets. No sum over a piece has more than 16
// terms.
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
    // Merges set b into set a.
    STREAMBN_INLINE void join(int a, int b) {
        pairs[a] = (pairs[a] + pairs[b]) + weight[a] * weight[b];
        squares[a] = squares[a] + squares[b];
        weight[a] = weight[a] + weight[b];
    }
    STREAMBN_INLINE PieceWeights total() {
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
        for (int j = 0; j < 4; ++j) prefetch(given + (k + j) * WIDTH);
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
    return sums.total();
}

inline PieceWeights weigh(const double *given, const double *weights, int n) {
    return weights ? weigh_rows<true>(given, weights, n) : weigh_rows<false>(given, weights, n);
}

}  // namespace streambn::STREAMBN_SIMD
