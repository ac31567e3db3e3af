#include "arrow/reader.hpp"

#include <algorithm>
#include <cstring>

namespace streambn {

namespace {

constexpr int BASE_SAMPLE = 9;  // the number of values that determine the base of a decimal

template <class T>
void gather_one(const uint8_t *from, int64_t step, int n, void *buffer) {
    uint8_t *to = static_cast<uint8_t *>(buffer);
    for (int i = 0; i < n; ++i) std::memcpy(to + i * sizeof(T), from + i * step, sizeof(T));
}

template <class T>
void gather_some(const Column &column, int64_t first_feature, int features, int64_t start, int n,
                 uint8_t *buffer) {
    constexpr int64_t SIZE = sizeof(T);
    const int64_t step = column.row_step, apart = column.value_step;
    const uint8_t *from = column.at(start, first_feature);
    if constexpr (SIZE >= 4)
        if (apart == SIZE)
            return kernels().transpose[SIZE / 8](from, step, features, n, buffer, FEATURE_STRIDE);
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < features; ++k)
            std::memcpy(buffer + k * FEATURE_STRIDE + i * SIZE, from + i * step + k * apart, sizeof(T));
}

template <class T>
void gather_rows(const Column &column, int64_t start, int n, uint8_t *to) {
    int64_t row = start / column.width, feature = start % column.width;
    for (int i = 0; i < n; ++i, to += sizeof(T)) {
        std::memcpy(to, column.at(row, feature), sizeof(T));
        if (++feature == column.width) feature = 0, ++row;
    }
}

}  // namespace

void PieceBits::set_all() { std::memset(word, 0xff, sizeof word); }

FeatureReader::FeatureReader(const Column &column, int64_t feature, int64_t range_start,
                             int64_t range_stop)
    : column_(&column), feature_(feature), type_(loop_type(column.type)) {
    if (!is_large_decimal(column.type)) return;
    // The base is a median. If a single outlier at the start set it, the differences of all later
    // values would lose digits.
    Int256 sample[BASE_SAMPLE];
    int found = 0;
    for (int64_t start = range_start; start < range_stop && found < BASE_SAMPLE; start += 64) {
        const int n = static_cast<int>(std::min<int64_t>(64, range_stop - start));
        PieceBits bits;
        valid(start, n, bits);
        for (int i = 0; i < n && found < BASE_SAMPLE; ++i)
            if (bits.at(i)) sample[found++] = Int256::load(value(start + i), size_of(column.type));
    }
    std::sort(sample, sample + found);
    if (found) base_ = sample[found / 2];
}

const void *FeatureReader::values(int64_t start, int n, void *buffer) const {
    const int size = size_of(column_->type);
    if (is_large_decimal(column_->type)) {
        double *to = static_cast<double *>(buffer);
        for (int i = 0; i < n; ++i) to[i] = difference(value(start + i), size, base_);
        return buffer;
    }
    const uint8_t *from = value(start);
    const int64_t step = column_->row_step;
    if (step == size) return from;
    switch (size) {
        case 1: gather_one<uint8_t>(from, step, n, buffer); break;
        case 2: gather_one<uint16_t>(from, step, n, buffer); break;
        case 4: gather_one<uint32_t>(from, step, n, buffer); break;
        default: gather_one<uint64_t>(from, step, n, buffer);
    }
    return buffer;
}

int FeatureReader::valid(int64_t start, int n, PieceBits &bits) const {
    const Column &column = *column_;
    if (n == PIECE && column.width == 1 && column.outer.empty() && column.validity.size() == 1 &&
        column.validity[0].starts_octet(start)) {
        // This is the most common case. Assembling the bits would delay the loads of the values.
        std::memcpy(bits.word, column.validity[0].octet(start), PIECE / 8);
        return kernels().count_bits(bits.word, PIECE / 64);
    }
    for (int i = 0; i < n; i += 64) {
        const int m = std::min(64, n - i);
        uint64_t word = m == 64 ? ~uint64_t{0} : (uint64_t{1} << m) - 1;
        for (const Bitmap &map : column.outer) word &= map.word(start + i, m);
        for (const Bitmap &map : column.validity) {
            if (column.width == 1) {
                word &= map.word(start + i, m);
                continue;
            }
            for (int k = 0; k < m; ++k)
                word &= ~(static_cast<uint64_t>(!map.bit((start + i + k) * column.width + feature_)) << k);
        }
        bits.word[i / 64] = word;
    }
    return kernels().count_bits(bits.word, (n + 63) / 64);
}

void FeatureReader::extremes(int64_t start, int64_t stop, Int256 &low, Int256 &high) const {
    bool found = false;
    for (int64_t at = start; at < stop; at += PIECE) {
        const int n = static_cast<int>(std::min<int64_t>(PIECE, stop - at));
        PieceBits bits;
        valid(at, n, bits);
        for (int i = 0; i < n; ++i) {
            if (!bits.at(i)) continue;
            const auto number = Int256::load(value(at + i), size_of(column_->type));
            if (!found || number < low) low = number;
            if (!found || high < number) high = number;
            found = true;
        }
    }
}

void gather_features(const Column &column, int64_t first_feature, int features, int64_t start,
                     int n, uint8_t *buffer) {
    switch (size_of(column.type)) {
        case 1: return gather_some<uint8_t>(column, first_feature, features, start, n, buffer);
        case 2: return gather_some<uint16_t>(column, first_feature, features, start, n, buffer);
        case 4: return gather_some<uint32_t>(column, first_feature, features, start, n, buffer);
        default: return gather_some<uint64_t>(column, first_feature, features, start, n, buffer);
    }
}

void gather_values(const Column &column, int64_t start, int n, uint8_t *buffer) {
    switch (size_of(column.type)) {
        case 1: return gather_rows<uint8_t>(column, start, n, buffer);
        case 2: return gather_rows<uint16_t>(column, start, n, buffer);
        case 4: return gather_rows<uint32_t>(column, start, n, buffer);
        default: return gather_rows<uint64_t>(column, start, n, buffer);
    }
}

}  // namespace streambn
