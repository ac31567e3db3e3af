// Vectors of eight values in the registers of one instruction set.
//
// A `Pack` holds eight float64 in one AVX-512 register, two AVX2 registers, or four SSE2 or NEON
// registers. Each operation is the IEEE operation, and the compiler contracts none of them. Apart
// from explicit FMA, all instruction sets therefore give the same bits. baseline.cpp, avx2.cpp and
// avx512.cpp include this file with different compiler flags, each in its own namespace.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace streambn::STREAMBN_SIMD {

#if defined(__AVX512F__)
constexpr int REGISTER = 64;
#elif defined(__AVX2__)
constexpr int REGISTER = 32;
#else
constexpr int REGISTER = 16;
#endif

constexpr int WIDTH = 8;             // values in a pack
constexpr int EACH = REGISTER / 8;   // values in a register
constexpr int PARTS = WIDTH / EACH;  // registers in a pack
#define STREAMBN_INLINE inline __attribute__((always_inline))
template <class T>
struct RegisterOf {
    typedef T type __attribute__((vector_size(EACH * sizeof(T))));
};
template <class T>
using Register = typename RegisterOf<T>::type;

template <class T>
struct Vector {
    Register<T> part[PARTS];
};
using Pack = Vector<double>;
using Ints = Vector<int64_t>;
using Mask = Vector<int64_t>;  // each element has all bits set or none

// Calls `part` with each index as a compile-time constant. With a variable index, even in an
// unrolled loop, GCC 12 keeps packs in memory, which is six times slower.
template <int I>
struct Index {
    constexpr operator int() const { return I; }
};
template <class T, class F>
STREAMBN_INLINE Vector<T> each(const F &part) {
    if constexpr (PARTS == 1) {
        return {{part(Index<0>{})}};
    } else if constexpr (PARTS == 2) {
        return {{part(Index<0>{}), part(Index<1>{})}};
    } else {
        return {{part(Index<0>{}), part(Index<1>{}), part(Index<2>{}), part(Index<3>{})}};
    }
}
#define STREAMBN_PART(expression) \
    [&](auto i) __attribute__((always_inline)) { return expression; }

template <class T>
STREAMBN_INLINE Vector<T> broadcast(T value) {
    return each<T>(STREAMBN_PART(((void)i, Register<T>{} + value)));
}

template <class T>
STREAMBN_INLINE Vector<T> load(const void *from) {
    const char *octets = static_cast<const char *>(from);
    return each<T>([&](auto i) __attribute__((always_inline)) {
        Register<T> r;
        __builtin_memcpy(&r, octets + i * sizeof r, sizeof r);
        return r;
    });
}

template <class T>
STREAMBN_INLINE void store(void *to, const Vector<T> &value) {
    char *octets = static_cast<char *>(to);
    constexpr int size = sizeof(Register<T>);
    __builtin_memcpy(octets, &value.part[0], size);
    if constexpr (PARTS > 1) __builtin_memcpy(octets + size, &value.part[1], size);
    if constexpr (PARTS > 2) {
        __builtin_memcpy(octets + 2 * size, &value.part[2], size);
        __builtin_memcpy(octets + 3 * size, &value.part[3], size);
    }
}

#define STREAMBN_OPERATOR(op)                                                    \
    template <class T>                                                           \
    STREAMBN_INLINE Vector<T> operator op(const Vector<T> &a, const Vector<T> &b) { \
        return each<T>(STREAMBN_PART(a.part[i] op b.part[i]));                   \
    }
STREAMBN_OPERATOR(+)
STREAMBN_OPERATOR(-)
STREAMBN_OPERATOR(*)
STREAMBN_OPERATOR(/)
STREAMBN_OPERATOR(&)
STREAMBN_OPERATOR(|)
STREAMBN_OPERATOR(^)
#undef STREAMBN_OPERATOR

template <class To, class From>
STREAMBN_INLINE Vector<To> convert(const Vector<From> &a) {
    return each<To>(STREAMBN_PART(__builtin_convertvector(a.part[i], Register<To>)));
}

// `minimum` and `maximum` return `b` where either value is NaN.
template <class T>
STREAMBN_INLINE Vector<T> minimum(const Vector<T> &a, const Vector<T> &b) {
    return each<T>(STREAMBN_PART(a.part[i] < b.part[i] ? a.part[i] : b.part[i]));
}

template <class T>
STREAMBN_INLINE Vector<T> maximum(const Vector<T> &a, const Vector<T> &b) {
    return each<T>(STREAMBN_PART(a.part[i] > b.part[i] ? a.part[i] : b.part[i]));
}

template <class T>
STREAMBN_INLINE Vector<T> select(const Mask &mask, const Vector<T> &a, const Vector<T> &b) {
    return each<T>(STREAMBN_PART(mask.part[i] ? a.part[i] : b.part[i]));
}

// Expands a byte of a validity bitmap into a mask, lowest bit first.
STREAMBN_INLINE Mask mask_of(uint8_t byte) {
    static const int64_t BITS[WIDTH] = {1, 2, 4, 8, 16, 32, 64, 128};
    const Ints bits = load<int64_t>(BITS), all = broadcast<int64_t>(byte);
    return each<int64_t>(STREAMBN_PART((all.part[i] & bits.part[i]) != 0));
}

STREAMBN_INLINE bool any(const Mask &mask) {
    Register<int64_t> together = mask.part[0];
    if constexpr (PARTS > 1) together |= mask.part[1];
    if constexpr (PARTS > 2) together |= mask.part[2] | mask.part[3];
    int64_t seen = 0;
    for (int k = 0; k < EACH; ++k) seen |= together[k];
    return seen != 0;
}

// Returns a mask that is set where a value is NaN or infinite.
STREAMBN_INLINE Mask not_finite(const Pack &x) {
    return each<int64_t>(STREAMBN_PART((x.part[i] - x.part[i]) != 0.0));
}

STREAMBN_INLINE Pack magnitude(const Pack &x) {
    return each<double>(STREAMBN_PART((Register<double>)(
        (Register<int64_t>)x.part[i] & (Register<int64_t>{} + INT64_MAX))));
}

// Computes a*b + c, rounded once.
#if defined(__AVX512F__)
#define STREAMBN_FMA(a, b, c) _mm512_fmadd_pd(a, b, c)
#elif defined(__FMA__)
#define STREAMBN_FMA(a, b, c) _mm256_fmadd_pd(a, b, c)
#endif

// Returns sum + d*d, rounded to the last place of `sum`.
STREAMBN_INLINE Pack square_onto(const Pack &sum, const Pack &d) {
#if defined(STREAMBN_FMA)
    return each<double>([&](auto i) __attribute__((always_inline)) {
        return (Register<double>)STREAMBN_FMA(d.part[i], d.part[i], sum.part[i]);
    });
#else
    return sum + d * d;
#endif
}

// Returns d*d - taken. With FMA the result is rounded once. Without FMA it is as accurate if `taken`
// is close to d*d.
STREAMBN_INLINE Pack square_less(const Pack &taken, const Pack &d) {
#if defined(STREAMBN_FMA)
    return square_onto(broadcast(0.0) - taken, d);
#else
    // Dekker's product: split d into two halves of 26 bits.
    const Pack square = d * d, t = broadcast(134217729.0) * d;
    const Pack high = t - (t - d), low = d - high;
    const Pack cross = high * low;
    return (square - taken) + (((high * high - square) + cross + cross) + low * low);
#endif
}

// The bits of a float16. Only the newest instruction sets have arithmetic for float16.
struct Half {
    uint16_t bits;
};

template <class T>
STREAMBN_INLINE Pack load_as_double(const T *from) {
    return convert<double>(load<T>(from));
}
template <>
STREAMBN_INLINE Pack load_as_double(const double *from) {
    return load<double>(from);
}
#if defined(__AVX512F__)
// Without this specialization, GCC 12 converts the two halves of the register separately.
template <>
STREAMBN_INLINE Pack load_as_double(const float *from) {
    return {{(Register<double>)_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from))}};
}
#endif
#define STREAMBN_LOAD_THROUGH_INT32(T)                               \
    template <>                                                      \
    STREAMBN_INLINE Pack load_as_double(const T *from) {             \
        return convert<double>(convert<int32_t>(load<T>(from)));     \
    }
STREAMBN_LOAD_THROUGH_INT32(int8_t)
STREAMBN_LOAD_THROUGH_INT32(uint8_t)
STREAMBN_LOAD_THROUGH_INT32(int16_t)
STREAMBN_LOAD_THROUGH_INT32(uint16_t)
#undef STREAMBN_LOAD_THROUGH_INT32

template <>
STREAMBN_INLINE Pack load_as_double(const Half *from) {
    const Vector<uint32_t> half = convert<uint32_t>(load<uint16_t>(from));
    return each<double>([&](auto i) __attribute__((always_inline)) {
        // A multiplication changes the bias of the exponent from 15 to 127. It is exact and
        // normalizes subnormal numbers. An exponent of all ones, for infinity and NaN, remains all
        // ones.
        const Register<uint32_t> magnitude = (half.part[i] & 0x7fffu) << 13;
        const Register<uint32_t> sign = (half.part[i] & 0x8000u) << 16;
        const Register<float> scaled = (Register<float>)magnitude * 0x1p112f;
        const Register<uint32_t> number =
            magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000u : (Register<uint32_t>)scaled;
        return __builtin_convertvector((Register<float>)(number | sign), Register<double>);
    });
}

}  // namespace streambn::STREAMBN_SIMD
