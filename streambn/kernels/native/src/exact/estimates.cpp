#include "exact/estimates.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace streambn {

namespace {

__extension__ typedef unsigned __int128 Word128;

// A natural number times 2**exponent: words[0] is the lowest of `size` words, and the highest is not
// zero. All exponents differ by multiples of 64, so numbers are aligned by whole words.
struct Number {
    // n·Σx² has 68 words, and so has (Σx)². Three more make room for the digits of a quotient.
    static constexpr size_t MOST = 2 * TOTAL_WORDS + 8;
    Word words[MOST] = {};
    size_t size = 0;
    int64_t exponent = 0;

    bool is_zero() const { return size == 0; }
    void trim() {
        while (size > 0 && words[size - 1] == 0) --size;
        size_t low = 0;
        while (low < size && words[low] == 0) ++low;
        if (low == 0) return;
        std::memmove(words, words + low, (size - low) * sizeof(Word));
        size -= low;
        exponent += 64 * static_cast<int64_t>(low);
    }
    // Appends zeros below, which makes room for the fraction of a quotient.
    void extend(size_t count) {
        std::memmove(words + count, words, size * sizeof(Word));
        std::memset(words, 0, count * sizeof(Word));
        size += count;
        exponent -= 64 * static_cast<int64_t>(count);
    }
    void extend_to(int64_t lowest) {
        if (exponent > lowest) extend(static_cast<size_t>((exponent - lowest) / 64));
    }
    void multiply(Word by) {
        Word carry = 0;
        for (size_t i = 0; i < size; ++i) {
            const Word128 product = static_cast<Word128>(words[i]) * by + carry;
            words[i] = static_cast<Word>(product);
            carry = static_cast<Word>(product >> 64);
        }
        if (carry) words[size++] = carry;
    }
    // Rounds the quotient down, and returns whether there is a remainder.
    bool divide(Word by) {
        Word rest = 0;
        for (size_t i = size; i-- > 0;) {
            const Word128 part = static_cast<Word128>(rest) << 64 | words[i];
            words[i] = static_cast<Word>(part / by);
            rest = static_cast<Word>(part % by);
        }
        while (size > 0 && words[size - 1] == 0) --size;
        return rest != 0;
    }
};

// Reads a natural number of `count` words in units of 2**exponent.
Number number_of(const Word *words, size_t count, int64_t exponent) {
    Number number;
    std::memcpy(number.words, words, count * sizeof(Word));
    number.size = count;
    number.exponent = exponent;
    number.trim();
    return number;
}

Number square(const Number &a) {
    Number out;
    out.size = 2 * a.size;
    out.exponent = 2 * a.exponent;
    std::memset(out.words, 0, out.size * sizeof(Word));
    for (size_t i = 0; i < a.size; ++i) {
        Word carry = 0;
        for (size_t k = 0; k < a.size; ++k) {
            const Word128 sum = static_cast<Word128>(a.words[i]) * a.words[k] + out.words[i + k] + carry;
            out.words[i + k] = static_cast<Word>(sum);
            carry = static_cast<Word>(sum >> 64);
        }
        out.words[i + a.size] = carry;
    }
    return out;
}

// Returns |a - b|. `less` tells whether a < b.
Number difference(Number a, Number b, bool &less) {
    const int64_t lowest = std::min(a.exponent, b.exponent);
    a.extend_to(lowest);
    b.extend_to(lowest);
    const size_t size = std::max(a.size, b.size);
    std::memset(a.words + a.size, 0, (size - a.size) * sizeof(Word));
    std::memset(b.words + b.size, 0, (size - b.size) * sizeof(Word));
    less = false;
    for (size_t i = size; i-- > 0;)
        if (a.words[i] != b.words[i]) {
            less = a.words[i] < b.words[i];
            break;
        }
    const Number &large = less ? b : a, &small = less ? a : b;
    Number out;
    out.size = size;
    out.exponent = lowest;
    Word borrow = 0;
    for (size_t i = 0; i < size; ++i) {
        const Word128 rest = static_cast<Word128>(large.words[i]) - small.words[i] - borrow;
        out.words[i] = static_cast<Word>(rest);
        borrow = static_cast<Word>(rest >> 64) & 1;
    }
    out.trim();
    return out;
}

// The 128 highest bits of a number that is not zero: top * 2**exponent, and whether there is more.
struct Top {
    Word128 top;
    int64_t exponent;
    bool more;
};

Top top_of(const Number &number, bool more) {
    const size_t size = number.size;
    const auto at = [&](size_t below) { return below < size ? number.words[size - 1 - below] : Word{0}; };
    const int shift = __builtin_clzll(at(0));
    Word128 top = static_cast<Word128>(at(0)) << 64 | at(1);
    Word cut = at(2);
    if (shift > 0) {
        top = top << shift | cut >> (64 - shift);
        cut <<= shift;
    }
    more = more || cut != 0;
    for (size_t i = 3; i < size; ++i) more = more || at(i) != 0;
    return {top, number.exponent + 64 * static_cast<int64_t>(size) - 128 - shift, more};
}

// Returns the float64 nearest to top * 2**exponent, ties to even. The highest bit of `top` is set.
double nearest(Word top, int64_t exponent, bool more) {
    const int64_t dropped = std::max<int64_t>(64 - 53, -UNIT - exponent);
    if (dropped > 64) return 0;
    // The number is at least half of the smallest float64, and half is a tie.
    if (dropped == 64) return top > Word{1} << 63 || more ? 0x1p-1074 : 0.0;
    const Word half = Word{1} << (dropped - 1), rest = top & (2 * half - 1);
    Word kept = top >> dropped;
    if (rest > half || (rest == half && (more || kept % 2))) ++kept;
    return times_two_to(static_cast<double>(kept), exponent + dropped);
}

double nearest(const Top &of) {
    return nearest(static_cast<Word>(of.top >> 64), of.exponent + 64,
                   of.more || static_cast<Word>(of.top) != 0);
}

// Returns the root of a number of 128 bits, rounded down.
Word root_of(Word128 square) {
    Word root = static_cast<Word>(std::min(std::sqrt(static_cast<double>(square)), 0x1.fffffffffffffp63));
    // Two of Newton's steps, because the first root has 52 right bits, and then the last unit.
    for (int i = 0; i < 2; ++i) {
        const Word128 next = (static_cast<Word128>(root) + square / root) / 2;
        root = next >> 64 ? ~Word{0} : static_cast<Word>(next);
    }
    while (static_cast<Word128>(root) * root > square) --root;
    while (root != ~Word{0} && static_cast<Word128>(root + 1) * (root + 1) <= square) ++root;
    return root;
}

// Returns the float64 nearest to the root.
double nearest_root(Top of) {
    if (of.exponent % 2) {
        of.more = of.more || (of.top & 1);
        of.top >>= 1;
        of.exponent += 1;
    }
    Word root = root_of(of.top);
    bool more = of.more || static_cast<Word128>(root) * root != of.top;
    const int shift = __builtin_clzll(root);  // at most 1
    return nearest(root << shift, of.exponent / 2 - shift, more);
}

// Returns the quotient of a number and n.
Top quotient(Number number, Word n) {
    number.extend(2);
    const bool more = number.divide(n);
    return top_of(number, more);
}

// Returns the double-double nearest to ±number/n.
Pair nearest_pair(const Number &number, Word n, bool negative) {
    if (number.is_zero()) return {0, 0};
    const double hi = nearest(quotient(number, n));
    // hi = mantissa * 2**power exactly, and hi * n has at most 117 bits.
    int power;
    const auto mantissa = static_cast<Word>(std::ldexp(std::frexp(hi, &power), 53));
    const int64_t exponent = int64_t{power} - 53;
    // The product is aligned with the number by whole words, after a shift by less than a word.
    const int64_t apart = exponent - number.exponent;
    const int64_t base = number.exponent + 64 * (apart / 64 - (apart % 64 < 0));
    Number product;
    const Word128 exact = static_cast<Word128>(mantissa) * n;
    const int shift = static_cast<int>(exponent - base);
    product.words[0] = static_cast<Word>(exact), product.words[1] = static_cast<Word>(exact >> 64);
    product.size = 2;
    product.exponent = base;
    product.trim();
    product.multiply(Word{1} << shift);
    bool less;
    Number rest = difference(number, product, less);
    if (rest.is_zero()) return {negative ? -hi : hi, 0};
    double lo = nearest(quotient(rest, n));
    if (less) lo = -lo;
    // A rest just below half a unit in the last place may round up to that half. Added to an odd
    // float64 it would then round to the next one.
    if (hi + lo != hi) lo = std::nextafter(lo, 0.0);
    return negative ? Pair{-hi, -lo} : Pair{hi, lo};
}

}  // namespace

Estimate estimate(const ExactFeature &sums, int ddof) {
    Estimate out{{0, 0}, NAN, NAN, sums.count > 0};
    if (!out.defined) return out;
    const auto n = static_cast<Word>(sums.count);
    const bool negative = is_negative(sums.total, TOTAL_WORDS);
    Word magnitude[TOTAL_WORDS];
    std::memcpy(magnitude, sums.total, sizeof magnitude);
    if (negative) negate(magnitude, TOTAL_WORDS);
    const Number total = number_of(magnitude, TOTAL_WORDS, -UNIT);
    out.mean = nearest_pair(total, n, negative);
    if (sums.count <= ddof) return out;
    Number squares = number_of(sums.squares, SQUARES_WORDS, -2 * UNIT);
    squares.multiply(n);
    bool less;
    Number m2 = difference(squares, square(total), less);
    out.var = out.std = 0;
    if (m2.is_zero() || less) return out;
    m2.extend(3);
    bool more = m2.divide(n);
    more = m2.divide(n - static_cast<Word>(ddof)) || more;
    const Top top = top_of(m2, more);
    out.var = nearest(top);
    out.std = nearest_root(top);
    return out;
}

}  // namespace streambn
