// Arithmetic of integers of many words, in two's complement with the lowest word first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streambn {

using Word = uint64_t;

inline bool is_negative(const Word *x, size_t words) { return x[words - 1] >> 63; }

inline bool is_zero(const Word *x, size_t words) {
    Word any = 0;
    for (size_t i = 0; i < words; ++i) any |= x[i];
    return any == 0;
}

inline void negate(Word *x, size_t words) {
    Word carry = 1;
    for (size_t i = 0; i < words; ++i) {
        x[i] = ~x[i] + carry;
        carry = carry && x[i] == 0;
    }
}

// Computes x += y. Returns false if the sum does not fit.
inline bool add(Word *x, const Word *y, size_t words) {
    const bool same_sign = is_negative(x, words) == is_negative(y, words);
    const bool sign = is_negative(y, words);
    Word carry = 0;
    for (size_t i = 0; i < words; ++i) {
        const unsigned __int128 sum = static_cast<unsigned __int128>(x[i]) + y[i] + carry;
        x[i] = static_cast<Word>(sum);
        carry = static_cast<Word>(sum >> 64);
    }
    return !same_sign || is_negative(x, words) == sign;
}

// Computes x *= by, for x >= 0. Returns false if the product does not fit.
inline bool multiply(Word *x, size_t words, Word by) {
    Word carry = 0;
    for (size_t i = 0; i < words; ++i) {
        const unsigned __int128 product = static_cast<unsigned __int128>(x[i]) * by + carry;
        x[i] = static_cast<Word>(product);
        carry = static_cast<Word>(product >> 64);
    }
    return carry == 0 && !is_negative(x, words);
}

// Computes x *= 10**power. Returns false if the product does not fit.
inline bool multiply_by_power_of_ten(Word *x, size_t words, uint64_t power) {
    if (is_zero(x, words)) return true;
    const bool negative = is_negative(x, words);
    if (negative) negate(x, words);
    // Each step adds at least one bit, so the loop soon ends even if the power is huge.
    for (bool fits = !is_negative(x, words); power > 0; --power) {
        fits = fits && multiply(x, words, 10);
        if (!fits) return false;
    }
    if (negative) negate(x, words);
    return true;
}

// Computes x /= 2**bits. Returns false if x is not a multiple of 2**bits.
inline bool divide_by_power_of_two(Word *x, size_t words, size_t bits) {
    const size_t whole = bits / 64, shift = bits % 64;
    const Word sign = is_negative(x, words) ? ~Word{0} : 0;
    for (size_t i = 0; i < whole; ++i)
        if (x[i]) return false;
    if (shift && x[whole] << (64 - shift)) return false;
    const auto at = [&](size_t i) { return i < words ? x[i] : sign; };
    for (size_t i = 0; i < words; ++i)
        x[i] = shift ? at(i + whole) >> shift | at(i + whole + 1) << (64 - shift) : at(i + whole);
    return true;
}

// Returns the number of bits of x >= 0.
inline int bit_length(const Word *x, size_t words) {
    for (size_t i = words; i-- > 0;)
        if (x[i]) return static_cast<int>(64 * i) + 64 - __builtin_clzll(x[i]);
    return 0;
}

// Computes x <<= bits. The caller must know that the result fits.
inline void shift_left(Word *x, size_t words, size_t bits) {
    const size_t whole = bits / 64, shift = bits % 64;
    // A negative index wraps around to a large one.
    const auto at = [&](size_t i) { return i < words ? x[i] : Word{0}; };
    for (size_t i = words; i-- > 0;)
        x[i] = shift ? at(i - whole) << shift | at(i - whole - 1) >> (64 - shift) : at(i - whole);
}

}  // namespace streambn
