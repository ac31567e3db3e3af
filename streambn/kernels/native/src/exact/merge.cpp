// The merge of exact sums, and their form in memory.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "exact/sums.hpp"

namespace streambn {

namespace {

// Adds counts. The addition is unsigned, because the counts of a handmade state may overflow.
int64_t plus(int64_t a, int64_t b) {
    return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}

// Gives a feature a larger decimal scale. Returns false if the sums do not fit, or if a feature in
// units of 2**-1074 has sums that are not integers.
bool rescale(ExactFeature &feature, int64_t scale) {
    if (!feature.decimal && !(divide_by_power_of_two(feature.total, TOTAL_WORDS, UNIT) &&
                           divide_by_power_of_two(feature.squares, SQUARES_WORDS, 2 * UNIT)))
        return false;
    const uint64_t by = static_cast<uint64_t>(scale) - static_cast<uint64_t>(feature.scale);
    feature.decimal = 1;
    feature.scale = scale;
    // Multiply the squares twice, because 2 * by may not fit into a word.
    return multiply_by_power_of_ten(feature.total, TOTAL_WORDS, by) &&
           multiply_by_power_of_ten(feature.squares, SQUARES_WORDS, by) &&
           multiply_by_power_of_ten(feature.squares, SQUARES_WORDS, by);
}

}  // namespace

bool merge(ExactFeature &a, const ExactFeature &b) {
    a.nulls = plus(a.nulls, b.nulls);
    a.nans = plus(a.nans, b.nans);
    a.pos_infs = plus(a.pos_infs, b.pos_infs);
    a.neg_infs = plus(a.neg_infs, b.neg_infs);
    extend_range(a, b.min, b.max);
    if (b.count == 0) return true;
    const bool first = a.count == 0;
    a.count = plus(a.count, b.count);
    if (first) {
        a.decimal = b.decimal, a.scale = b.scale;
        std::memcpy(a.total, b.total, sizeof a.total);
        std::memcpy(a.squares, b.squares, sizeof a.squares);
        return true;
    }
    if (a.decimal == b.decimal && a.scale == b.scale)
        return add(a.total, b.total, TOTAL_WORDS) && add(a.squares, b.squares, SQUARES_WORDS);
    // The scale of a feature that is not decimal is 0.
    const int64_t scale = std::max(a.scale, b.scale);
    ExactFeature other = b;
    return rescale(a, scale) && rescale(other, scale) && add(a.total, other.total, TOTAL_WORDS) &&
           add(a.squares, other.squares, SQUARES_WORDS);
}

ExactFeature load_exact(const int64_t *memory, int64_t features, int64_t feature) {
    const auto at = [&](int row) { return memory[row * features + feature]; };
    ExactFeature r;
    r.count = at(0), r.nulls = at(1), r.nans = at(2), r.pos_infs = at(3), r.neg_infs = at(4);
    const int64_t low = at(5), high = at(6);
    std::memcpy(&r.min, &low, sizeof low);
    std::memcpy(&r.max, &high, sizeof high);
    r.decimal = at(7) != 0, r.scale = at(8);
    for (int i = EXACT_TOTAL; i < EXACT_SQUARES; ++i) r.total[i - EXACT_TOTAL] = static_cast<Word>(at(i));
    for (int i = EXACT_SQUARES; i < EXACT_ROWS; ++i) r.squares[i - EXACT_SQUARES] = static_cast<Word>(at(i));
    return r;
}

void store_exact(int64_t *memory, int64_t features, int64_t feature, const ExactFeature &from) {
    const auto put = [&](int row, int64_t value) { memory[row * features + feature] = value; };
    int64_t low, high;
    std::memcpy(&low, &from.min, sizeof low);
    std::memcpy(&high, &from.max, sizeof high);
    const int64_t fields[EXACT_TOTAL] = {from.count,    from.nulls, from.nans, from.pos_infs,
                                         from.neg_infs, low,        high,      from.decimal,
                                         from.scale};
    for (int i = 0; i < EXACT_TOTAL; ++i) put(i, fields[i]);
    for (int i = EXACT_TOTAL; i < EXACT_SQUARES; ++i) put(i, static_cast<int64_t>(from.total[i - EXACT_TOTAL]));
    for (int i = EXACT_SQUARES; i < EXACT_ROWS; ++i) put(i, static_cast<int64_t>(from.squares[i - EXACT_SQUARES]));
}

double rounded_decimal(const Int256 &x, int scale) {
    // 10**400 has 1329 bits, and a decimal has at most 255. Their product fits into 28 words.
    constexpr size_t WORDS = 28;
    if (x.is_zero()) return 0;
    Word numerator[WORDS] = {}, denominator[WORDS] = {1};
    const Int256 size = x.negative() ? Int256{} - x : x;
    std::memcpy(numerator, size.word, sizeof size.word);
    multiply_by_power_of_ten(scale < 0 ? numerator : denominator, WORDS,
                             static_cast<uint64_t>(scale < 0 ? -scale : scale));
    // After both have the same length, the quotient is in (1/2, 2).
    const int shift = bit_length(numerator, WORDS) - bit_length(denominator, WORDS);
    shift_left(shift < 0 ? numerator : denominator, WORDS, static_cast<size_t>(shift < 0 ? -shift : shift));
    // Compute 62 bits of the quotient, of which the first may be 0.
    constexpr int BITS = 62;
    uint64_t quotient = 0;
    for (int i = 0; i < BITS; ++i) {
        Word rest[WORDS];
        std::memcpy(rest, denominator, sizeof rest);
        negate(rest, WORDS);
        add(rest, numerator, WORDS);
        quotient *= 2;
        if (!is_negative(rest, WORDS)) {
            std::memcpy(numerator, rest, sizeof rest);
            ++quotient;
        }
        shift_left(numerator, WORDS, 1);
    }
    // The number is (quotient + a fraction) * 2**exponent. Round it to 53 bits, or to the last bit
    // of a subnormal number.
    const bool more = !is_zero(numerator, WORDS);
    const int exponent = shift - (BITS - 1);
    const int length = 64 - __builtin_clzll(quotient);
    const int dropped = std::min(std::max(length - 53, -UNIT - exponent), 63);
    const uint64_t half = uint64_t{1} << (dropped - 1), rest = quotient & (2 * half - 1);
    uint64_t kept = quotient >> dropped;
    if (rest > half || (rest == half && (more || kept % 2))) ++kept;
    const double result = std::ldexp(static_cast<double>(kept), exponent + dropped);
    return x.negative() ? -result : result;
}

}  // namespace streambn
