#include "lanes.hpp"

#include <algorithm>
#include <cstring>

namespace streambn {

namespace {

constexpr int SAMPLE = 9;  // values looked at for the base of a decimal

bool is_large_decimal(Type type) { return type == Type::decimal128 || type == Type::decimal256; }

// The type by whose inner loop values are read.
Type looped(Type type) {
    switch (type) {
        case Type::decimal32: return Type::int32;
        case Type::decimal64: return Type::int64;
        case Type::decimal128:
        case Type::decimal256: return Type::float64;
        default: return type;
    }
}

template <class T>
void gather(const uint8_t *values, int64_t width, int64_t start, int n, void *room) {
    const uint8_t *from = values + start * width * static_cast<int64_t>(sizeof(T));
    uint8_t *to = static_cast<uint8_t *>(room);
    const int64_t step = width * static_cast<int64_t>(sizeof(T));
    for (int i = 0; i < n; ++i) std::memcpy(to + i * sizeof(T), from + i * step, sizeof(T));
}

// Some rows are asked for ahead, as no machine foresees steps of a row.
template <class T>
void gather_some(const Leaf &leaf, int64_t first_lane, int lanes, int64_t start, int n,
                 uint8_t *room) {
    constexpr int ROWS_AHEAD = 8;
    constexpr int64_t SIZE = sizeof(T);
    const int64_t step = leaf.width * SIZE;
    const uint8_t *from = leaf.values + start * step + first_lane * SIZE;
    for (int i = 0; i < n; ++i) {
        for (int64_t octet = 0; octet < lanes * SIZE; octet += 64)
            __builtin_prefetch(from + (i + ROWS_AHEAD) * step + octet);
        for (int k = 0; k < lanes; ++k)
            std::memcpy(room + k * LANE_STRIDE + i * SIZE, from + i * step + k * SIZE, sizeof(T));
    }
}

}  // namespace

LaneReader::LaneReader(const Leaf &leaf, int64_t lane, int64_t range_start, int64_t range_stop)
    : leaf_(&leaf), lane_(lane), type_(looped(leaf.type)) {
    if (!is_large_decimal(leaf.type)) return;
    // A median, because one outlier in front must not set the base: the differences behind it
    // would then be rounded.
    Int256 sample[SAMPLE];
    int found = 0;
    const int size = size_of(leaf.type);
    for (int64_t start = range_start; start < range_stop && found < SAMPLE; start += 64) {
        const int n = static_cast<int>(std::min<int64_t>(64, range_stop - start));
        PieceBits bits;
        valid(start, n, bits);
        for (int i = 0; i < n && found < SAMPLE; ++i)
            if (bits.word[0] >> i & 1)
                sample[found++] = Int256::load(leaf.values + ((start + i) * leaf.width + lane) * size, size);
    }
    std::sort(sample, sample + found);
    if (found) base_ = sample[found / 2];
}

const void *LaneReader::values(int64_t start, int n, void *room) const {
    const uint8_t *values = leaf_->values;
    const int64_t width = leaf_->width;
    const int size = size_of(leaf_->type);
    if (is_large_decimal(leaf_->type)) {
        double *to = static_cast<double *>(room);
        for (int i = 0; i < n; ++i)
            to[i] = difference(values + ((start + i) * width + lane_) * size, size, base_);
        return room;
    }
    if (width == 1) return values + start * size;
    values += lane_ * size;
    switch (size) {
        case 1: gather<uint8_t>(values, width, start, n, room); break;
        case 2: gather<uint16_t>(values, width, start, n, room); break;
        case 4: gather<uint32_t>(values, width, start, n, room); break;
        default: gather<uint64_t>(values, width, start, n, room);
    }
    return room;
}

int LaneReader::valid(int64_t start, int n, PieceBits &bits) const {
    const Leaf &leaf = *leaf_;
    if (n == PIECE && leaf.width == 1 && leaf.outer.empty() && leaf.validity.size() == 1 &&
        leaf.validity[0].is_octet(start)) {
        // As most come. While bits are put together nothing is asked of the memory.
        std::memcpy(bits.word, leaf.validity[0].octet(start), PIECE / 8);
        return kernels().count_bits(bits.word, PIECE / 64);
    }
    for (int i = 0; i < n; i += 64) {
        const int m = std::min(64, n - i);
        uint64_t word = m == 64 ? ~uint64_t{0} : (uint64_t{1} << m) - 1;
        for (const Bitmap &map : leaf.outer) word &= map.word(start + i, m);
        for (const Bitmap &map : leaf.validity) {
            if (leaf.width == 1) {
                word &= map.word(start + i, m);
                continue;
            }
            for (int k = 0; k < m; ++k)
                word &= ~(static_cast<uint64_t>(!map.bit((start + i + k) * leaf.width + lane_)) << k);
        }
        bits.word[i / 64] = word;
    }
    return kernels().count_bits(bits.word, (n + 63) / 64);
}

void LaneReader::extremes(int64_t start, int64_t stop, Int256 &low, Int256 &high) const {
    const int size = size_of(leaf_->type);
    bool found = false;
    for (int64_t at = start; at < stop; at += PIECE) {
        const int n = static_cast<int>(std::min<int64_t>(PIECE, stop - at));
        PieceBits bits;
        valid(at, n, bits);
        for (int i = 0; i < n; ++i) {
            if (!(bits.word[i / 64] >> (i % 64) & 1)) continue;
            const auto value =
                Int256::load(leaf_->values + ((at + i) * leaf_->width + lane_) * size, size);
            if (!found || value < low) low = value;
            if (!found || high < value) high = value;
            found = true;
        }
    }
}

void gather_lanes(const Leaf &leaf, int64_t first_lane, int lanes, int64_t start, int n,
                  uint8_t *room) {
    switch (size_of(leaf.type)) {
        case 1: return gather_some<uint8_t>(leaf, first_lane, lanes, start, n, room);
        case 2: return gather_some<uint16_t>(leaf, first_lane, lanes, start, n, room);
        case 4: return gather_some<uint32_t>(leaf, first_lane, lanes, start, n, room);
        default: return gather_some<uint64_t>(leaf, first_lane, lanes, start, n, room);
    }
}

}  // namespace streambn
