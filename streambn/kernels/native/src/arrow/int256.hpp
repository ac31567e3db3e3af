// Integers of 256 bits, for decimals.
#pragma once

#include <cstdint>
#include <cstring>

#include "moments/doubledouble.hpp"

namespace streambn {

struct Int256 {
    uint64_t word[4] = {};  // two's complement, lowest first

    static Int256 load(const uint8_t *from, int size) {
        Int256 r;
        std::memcpy(r.word, from, static_cast<size_t>(size));
        if (size == 16 && r.word[1] >> 63) r.word[2] = r.word[3] = ~uint64_t{0};
        return r;
    }
    static Int256 from_integer(__int128 value) {
        return load(reinterpret_cast<const uint8_t *>(&value), sizeof value);
    }
    bool negative() const { return word[3] >> 63; }
    bool is_zero() const { return !(word[0] | word[1] | word[2] | word[3]); }

    Int256 operator-(const Int256 &other) const {
        Int256 r;
        uint64_t borrow = 0;
        for (int i = 0; i < 4; ++i) {
            const unsigned __int128 difference =
                static_cast<unsigned __int128>(word[i]) - other.word[i] - borrow;
            r.word[i] = static_cast<uint64_t>(difference);
            borrow = static_cast<uint64_t>(difference >> 64) & 1;
        }
        return r;
    }
    bool operator<(const Int256 &other) const {
        if (negative() != other.negative()) return negative();
        for (int i = 3; i >= 0; --i)
            if (word[i] != other.word[i]) return word[i] < other.word[i];
        return false;
    }
    // Returns the value as float64, which is exact below 2**53.
    double rounded() const {
        // Nearly all differences fit into one word.
        const uint64_t extension = word[0] >> 63 ? ~uint64_t{0} : 0;
        if (word[1] == extension && word[2] == extension && word[3] == extension)
            return static_cast<double>(static_cast<int64_t>(word[0]));
        const Int256 magnitude = negative() ? Int256{} - *this : *this;
        double sum = 0, unit = 1;
        for (int i = 0; i < 4; ++i, unit *= 0x1p64) sum += static_cast<double>(magnitude.word[i]) * unit;
        return negative() ? -sum : sum;
    }
    static Int256 from_double(double whole) {
        Int256 r;
        double rest = whole < 0 ? -whole : whole;
        for (int i = 3; i >= 0; --i) {
            const double unit = i == 3 ? 0x1p192 : i == 2 ? 0x1p128 : i == 1 ? 0x1p64 : 1.0;
            r.word[i] = static_cast<uint64_t>(rest / unit);
            rest -= static_cast<double>(r.word[i]) * unit;
        }
        return whole < 0 ? Int256{} - r : r;
    }
    // Returns the value as hi + lo, to about 106 bits.
    Pair pair() const {
        const double hi = rounded();
        return two_sum(hi, (*this - from_double(hi)).rounded());
    }
};

// Returns a decimal of 16 or 32 bytes minus a base as float64, which is exact below 2**53.
inline double difference(const uint8_t *from, int size, const Int256 &base) {
    const uint64_t extension = base.word[1] >> 63 ? ~uint64_t{0} : 0;
    if (size == 16 && base.word[2] == extension && base.word[3] == extension) {
        __int128 value, whole, less;
        std::memcpy(&value, from, sizeof value);
        std::memcpy(&whole, base.word, sizeof whole);
        if (!__builtin_sub_overflow(value, whole, &less)) {
            const auto narrow = static_cast<int64_t>(less);
            return narrow == less ? static_cast<double>(narrow) : static_cast<double>(less);
        }
    }
    return (Int256::load(from, size) - base).rounded();
}

// Returns 10**power to about 106 bits.
inline Pair power_of_ten(int power) {
    Pair ten{1, 0};
    for (int i = 0; i < (power < 0 ? -power : power); ++i) ten = multiply(ten, {10, 0});
    return power < 0 ? divide({1, 0}, ten) : ten;
}

// Returns a 64-bit integer as hi + lo. Adds 2**63 if the integer represents an unsigned value.
inline Pair pair_of(int64_t value, bool is_unsigned) {
    const __int128 whole = static_cast<__int128>(value) + (is_unsigned ? __int128{1} << 63 : 0);
    const double hi = static_cast<double>(whole);
    return {hi, static_cast<double>(whole - static_cast<__int128>(hi))};
}

}  // namespace streambn
