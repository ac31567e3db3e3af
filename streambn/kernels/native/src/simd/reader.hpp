// How the values of each type are loaded, centred and compared.
#pragma once

#include <type_traits>

#include "simd/kernels.hpp"
#include "simd/vector.hpp"

namespace streambn::STREAMBN_SIMD {

constexpr double INFINITE = __builtin_huge_val();

// The distances of prefetches, in bytes. The arithmetic at the end of each piece interrupts the
// hardware prefetcher, which halves the speed. The loops therefore prefetch each cache line into
// the second-level cache long before its use, and later into the first-level cache. A single
// prefetch 3 KB ahead took 9 % longer for 1,000 columns and 8 % longer for int64.
constexpr int FAR_AHEAD = 16384, AHEAD = 2048;
STREAMBN_INLINE void prefetch(const void *line) {
    const char *octets = static_cast<const char *>(line);
    __builtin_prefetch(octets + FAR_AHEAD, 0, 2);
    __builtin_prefetch(octets + AHEAD);
}

// Reads a type whose values float64 represents exactly. Values are compared as `Raw`.
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

// Reads a 64-bit integer type. float64 does not represent all 64-bit integers, so they are centred
// and compared as integers. 2**63 is subtracted from unsigned values, which keeps their order.
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
    // The difference is modulo 2**64. The caller checks that the true difference fits.
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

// Each compiled loop costs build time in each instruction set. float64, float32 and int64 have loops
// for all cases. The other types have a single loop, for whole pieces of valid, unweighted values.
// In all other cases their values are first converted to float64 or int64. The conversion is exact,
// so the bits of the result are the same.
//
// On x86-64 the baseline serves processors from before 2013. It has loops for float64 and int64
// only.
#if defined(STREAMBN_FEW_LOOPS)
constexpr bool FEW_LOOPS = true;
#else
constexpr bool FEW_LOOPS = false;
#endif
template <class T>
constexpr bool HAS_ALL_LOOPS = std::is_same<T, double>::value || std::is_same<T, int64_t>::value ||
                               (std::is_same<T, float>::value && !FEW_LOOPS);
template <class T>
using Wider = typename std::conditional<std::is_same<T, uint64_t>::value, int64_t, double>::type;

// The last few values of a piece as a whole pack, and the bits of its valid values.
template <class T>
struct Tail {
    T values[WIDTH] = {};
    uint8_t present;
    STREAMBN_INLINE Tail(const T *x, int n, const uint8_t *bits) {
        __builtin_memcpy(values, x, n * sizeof(T));
        present = (uint8_t)((1u << n) - 1) & (bits ? *bits : 0xff);
    }
};

// The bits of a piece whose values are all valid.
struct FullBits {
    uint8_t octets[PIECE / 8];
    constexpr FullBits() : octets() {
        for (uint8_t &octet : octets) octet = 0xff;
    }
};
constexpr FullBits FULL_BITS;

template <class T>
void widen(const void *values, int n, Origin origin, double *differences) {
    using R = Reader<T>;
    const T *x = static_cast<const T *>(values);
    const auto c = broadcast(R::centre(origin));
    int i = 0;
    for (; i + WIDTH <= n; i += WIDTH) store(differences + i, R::offset(R::raw(x + i), c));
    if (i < n) {
        const Tail<T> tail(x + i, n - i, nullptr);
        alignas(64) double last[WIDTH];
        store(last, R::offset(R::raw(tail.values), c));
        __builtin_memcpy(differences + i, last, (n - i) * sizeof(double));
    }
}

// Writes `read(x)` for each pack of n values. `to` must have room for whole packs.
template <class To, class T, class Read>
STREAMBN_INLINE void convert_values(To *to, const T *x, int n, const Read &read) {
    const int whole = n / WIDTH * WIDTH;
    for (int i = 0; i < whole; i += WIDTH) store(to + i, read(x + i));
    if (whole < n) store(to + whole, read(Tail<T>(x + whole, n - whole, nullptr).values));
}

// Returns 2**exponent, which must be a normal number.
STREAMBN_INLINE double power_of_two(int exponent) {
    const uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double power;
    __builtin_memcpy(&power, &bits, sizeof power);
    return power;
}

// Returns the best of eight values. The comparisons form a tree, because each takes four cycles.
template <class Raw, class Better>
STREAMBN_INLINE Raw best_of(const Vector<Raw> &pack, const Better &better) {
    alignas(64) Raw v[WIDTH];
    store(v, pack);
    return better(better(better(v[0], v[1]), better(v[2], v[3])),
                  better(better(v[4], v[5]), better(v[6], v[7])));
}

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

}  // namespace streambn::STREAMBN_SIMD
