// The transposition of rows of numbers to runs of numbers of each feature.
#pragma once

#include "simd/vector.hpp"

namespace streambn::STREAMBN_SIMD {

template <class T>
struct FourOf {
    typedef T type __attribute__((vector_size(4 * sizeof(T))));
};
#if defined(__clang__)
#define STREAMBN_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define STREAMBN_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Four){__VA_ARGS__})
#endif

// Transposes four features of four rows.
template <class T>
STREAMBN_INLINE void transpose_tile(const uint8_t *from, int64_t step, uint8_t *to, int64_t stride) {
    using Four = typename FourOf<T>::type;
    Four row[4];
    for (int i = 0; i < 4; ++i) __builtin_memcpy(&row[i], from + i * step, sizeof(Four));
    const Four even_first = STREAMBN_SHUFFLE(row[0], row[1], 0, 4, 2, 6),
               odd_first = STREAMBN_SHUFFLE(row[0], row[1], 1, 5, 3, 7),
               even_last = STREAMBN_SHUFFLE(row[2], row[3], 0, 4, 2, 6),
               odd_last = STREAMBN_SHUFFLE(row[2], row[3], 1, 5, 3, 7);
    const Four feature[4] = {STREAMBN_SHUFFLE(even_first, even_last, 0, 1, 4, 5),
                             STREAMBN_SHUFFLE(odd_first, odd_last, 0, 1, 4, 5),
                             STREAMBN_SHUFFLE(even_first, even_last, 2, 3, 6, 7),
                             STREAMBN_SHUFFLE(odd_first, odd_last, 2, 3, 6, 7)};
    for (int k = 0; k < 4; ++k) __builtin_memcpy(to + k * stride, &feature[k], sizeof(Four));
}
#undef STREAMBN_SHUFFLE

// Prefetches rows explicitly, because no processor predicts strides as long as a row.
template <class T>
void transpose(const uint8_t *from, int64_t step, int features, int n, uint8_t *to, int64_t stride) {
    constexpr int ROWS_AHEAD = 8;
    constexpr int64_t SIZE = sizeof(T);
    int i = 0;
    for (; features >= 4 && i + 4 <= n; i += 4) {
        const uint8_t *row = from + i * step;
        for (int64_t ahead = ROWS_AHEAD; ahead < ROWS_AHEAD + 4; ++ahead)
            for (int64_t octet = 0; octet < features * SIZE; octet += 64)
                __builtin_prefetch(row + ahead * step + octet);
        // The last tile may overlap the one before it.
        for (int k = 0; k < features; k += 4) {
            const int first = k + 4 <= features ? k : features - 4;
            transpose_tile<T>(row + first * SIZE, step, to + first * stride + i * SIZE, stride);
        }
    }
    for (; i < n; ++i)
        for (int k = 0; k < features; ++k)
            __builtin_memcpy(to + k * stride + i * SIZE, from + i * step + k * SIZE, SIZE);
}

}  // namespace streambn::STREAMBN_SIMD
