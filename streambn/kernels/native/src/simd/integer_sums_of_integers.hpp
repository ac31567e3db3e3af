// Exact sums of integers, and of decimals up to 64 bits.
#pragma once

#include "simd/packs.hpp"

namespace streambn::STREAMBN_SIMD {

using Words = Vector<uint64_t>;

// Returns the products of the lower 32 bits of the elements.
STREAMBN_INLINE Words multiply_low(const Words &a, const Words &b) {
    return each<uint64_t>([&](auto i) __attribute__((always_inline)) {
#if defined(__AVX512F__)
        return (Register<uint64_t>)_mm512_maskz_mul_epu32(0xff, (__m512i)a.part[i], (__m512i)b.part[i]);
#elif defined(__AVX2__)
        return (Register<uint64_t>)_mm256_mul_epu32((__m256i)a.part[i], (__m256i)b.part[i]);
#elif defined(__SSE2__)
        return (Register<uint64_t>)_mm_mul_epu32((__m128i)a.part[i], (__m128i)b.part[i]);
#else
        return (a.part[i] & 0xffffffffu) * (b.part[i] & 0xffffffffu);
#endif
    });
}
STREAMBN_INLINE Words lower(const Words &a) { return a & broadcast<uint64_t>(0xffffffff); }
STREAMBN_INLINE Words upper(const Words &a) { return each<uint64_t>(STREAMBN_PART(a.part[i] >> 32)); }

// Converts shorter integers to 32 bits. The intrinsics are needed because GCC 12 converts eight
// bytes one by one.
template <class T>
STREAMBN_INLINE Vector<int32_t> widened(const T *x) {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 1)
        return each<int32_t>([&](auto i) __attribute__((always_inline)) {
            int64_t octets = 0;
            __builtin_memcpy(&octets, x + i * EACH, EACH);
            const __m128i eight = _mm_cvtsi64_si128(octets);
            const __m256i wide = std::is_signed<T>::value ? _mm256_cvtepi8_epi32(eight)
                                                          : _mm256_cvtepu8_epi32(eight);
#if defined(__AVX512F__)
            return (Register<int32_t>)wide;
#else
            return (Register<int32_t>)_mm256_castsi256_si128(wide);
#endif
        });
#endif
    return convert<int32_t>(load<T>(x));
}

// Converts values to int64. 2**63 is subtracted from uint64 values.
template <class T>
STREAMBN_INLINE Ints ordered(const T *x) {
    if constexpr (std::is_same<T, uint64_t>::value)
        return load<int64_t>(x) ^ broadcast(INT64_MIN);
    else if constexpr (sizeof(T) < 4)
        return convert<int64_t>(widened(x));
    else
        return convert<int64_t>(load<T>(x));
}

// Sums of products below 2**64. The halves of the products are summed separately, and each element
// of a sum stays below 64 * 2**32.
struct HalfSums {
    Words low = broadcast<uint64_t>(0), high = broadcast<uint64_t>(0);
    STREAMBN_INLINE void add(const Words &product) {
        low = low + lower(product);
        high = high + upper(product);
    }
    STREAMBN_INLINE void terms(int exponent, ExactTerm *to) const {
        to[0] = {sum_of(low), exponent};
        to[1] = {sum_of(high), exponent + 32};
    }
};

// The size of the integers of a piece:
// - small: magnitudes below 2**26, so that the sum of 512 squares stays below 2**61;
// - medium: magnitudes of at most 2**32 - 1, so that squares fit into 64 bits;
// - large: all others.
enum class Size { small, medium, large };

template <class T, bool MASKED, Size SIZE>
STREAMBN_INLINE void sum_integers_of(const T *x, int n, const uint8_t *bits, ExactPiece *out) {
    constexpr bool UNSIGNED = std::is_same<T, uint64_t>::value;
    Ints first = broadcast<int64_t>(0);
    Words square = broadcast<uint64_t>(0), first_low = square;
    HalfSums low, cross, high;
    for_packs<MASKED>(x, n, bits, STREAMBN_TAKE(T) {
        Ints v;
        if constexpr (UNSIGNED)
            v = load<int64_t>(from);
        else
            v = ordered(from);
        if (MASKED) v = v & mask_of(present);
        const Words u = each<uint64_t>([&](auto i) __attribute__((always_inline)) {
            const Register<int64_t> sign = UNSIGNED ? Register<int64_t>{} : v.part[i] >> 63;
            return (Register<uint64_t>)(v.part[i] ^ sign) - (Register<uint64_t>)sign;
        });
        if (SIZE == Size::small) {
            first = first + v;
            square = square + multiply_low(u, u);
        } else if (SIZE == Size::medium) {
            first = first + v;
            low.add(multiply_low(u, u));
        } else {
            const Words word = each<uint64_t>(STREAMBN_PART((Register<uint64_t>)v.part[i]));
            first_low = first_low + lower(word);
            if (UNSIGNED)
                first = first + each<int64_t>(STREAMBN_PART((Register<int64_t>)(word.part[i] >> 32)));
            else
                first = first + each<int64_t>(STREAMBN_PART(v.part[i] >> 32));
            const Words above = upper(u);
            low.add(multiply_low(u, u));
            cross.add(multiply_low(u, above));
            high.add(multiply_low(above, above));
        }
    });
    if (SIZE == Size::large) {
        out->totals = 2, out->squares = 6;
        out->total[0] = {sum_of(first_low), 0}, out->total[1] = {sum_of(first), 32};
        low.terms(0, out->square), cross.terms(33, out->square + 2), high.terms(64, out->square + 4);
        return;
    }
    out->totals = 1, out->total[0] = {sum_of(first), 0};
    if (SIZE == Size::small)
        out->squares = 1, out->square[0] = {sum_of(square), 0};
    else
        out->squares = 2, low.terms(0, out->square);
}

template <class T, bool MASKED>
STREAMBN_INLINE Verdict sum_integers(const T *x, int n, const uint8_t *bits, ExactPiece *out) {
    constexpr bool UNSIGNED = std::is_same<T, uint64_t>::value;
    constexpr uint64_t FLIP = UNSIGNED ? (uint64_t)1 << 63 : 0;
    const auto as_ordered = [](T value) { return (int64_t)((uint64_t)value ^ FLIP); };
    const int64_t one = as_ordered(x[MASKED ? first_valid(bits) : 0]);
    int64_t least = one, most = one;
    int done = 0;
    if constexpr (!MASKED) {
        Extent<T> front{x[0], x[0], 0};
        done = extend_by_registers(x, n, &front);
        least = as_ordered(front.low), most = as_ordered(front.high);
    }
    if (done < n) {
        Ints low = broadcast(least), high = broadcast(most);
        const Ints filler = broadcast(one);
        for_packs<MASKED>(x + done, n - done, bits, STREAMBN_TAKE(T) {
            if (MASKED && (k * WIDTH * sizeof(T)) % 64 == 0) prefetch(x + k * WIDTH);
            Ints v = ordered(from);
            if (MASKED) v = select(mask_of(present), v, filler);
            low = minimum(v, low);
            high = maximum(v, high);
        });
        least = best_of(low, [](int64_t a, int64_t b) { return b < a ? b : a; });
        most = best_of(high, [](int64_t a, int64_t b) { return b > a ? b : a; });
    }
    out->low_integer = least, out->high_integer = most;
    const auto within = [&](int64_t bound) {
        // Unsigned values are bounded by the greatest value alone.
        return UNSIGNED ? ((uint64_t)most ^ FLIP) < (uint64_t)bound : least > -bound && most < bound;
    };
    if (sizeof(T) < 4 || within(1 << 26))
        sum_integers_of<T, MASKED, Size::small>(x, n, bits, out);
    else if (sizeof(T) < 8 || within((int64_t)1 << 32))
        sum_integers_of<T, MASKED, Size::medium>(x, n, bits, out);
    else
        sum_integers_of<T, MASKED, Size::large>(x, n, bits, out);
    return Verdict::taken;
}

}  // namespace streambn::STREAMBN_SIMD
