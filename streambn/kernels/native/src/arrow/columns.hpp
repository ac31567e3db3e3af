// The bound columns of a batch.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrow/c_data.hpp"
#include "simd/kernels.hpp"

namespace streambn {

// Thrown if a batch violates the Arrow C data interface or lacks a bound column.
struct MalformedBatch : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A validity bitmap that starts at an offset.
struct Bitmap {
    const uint8_t *octets;
    int64_t offset;  // in bits

    // Returns n <= 64 bits from `start` on, lowest first. Does not read past the byte of the last
    // bit.
    uint64_t word(int64_t start, int n) const {
        const int64_t first = offset + start;
        const uint8_t *from = octets + first / 8;
        const int shift = static_cast<int>(first % 8), needed = (shift + n + 7) / 8;
        uint64_t low = 0;
        if (needed >= 8)
            __builtin_memcpy(&low, from, 8);  // the constant length avoids a call
        else
            __builtin_memcpy(&low, from, static_cast<size_t>(needed));
        low >>= shift;
        if (needed > 8) low |= static_cast<uint64_t>(from[8]) << (64 - shift);
        return n == 64 ? low : low & ((uint64_t{1} << n) - 1);
    }
    bool starts_octet(int64_t i) const { return (offset + i) % 8 == 0; }
    const uint8_t *octet(int64_t i) const { return octets + (offset + i) / 8; }
    bool bit(int64_t i) const { return octets[(offset + i) / 8] >> ((offset + i) % 8) & 1; }
};

// A bound column: `rows` * `width` values, row by row.
struct Column {
    Type type;
    int decimal_scale;  // a decimal is its stored integer / 10**decimal_scale
    int64_t rows, width;
    bool is_list;                  // a fixed-size list of `width` values
    const uint8_t *values;         // starts at the first row
    int64_t row_step, value_step;  // bytes from a row to the next, and between the values of a row
    std::vector<Bitmap> validity;  // of the values; at most one bitmap
    std::vector<Bitmap> outer;     // of the rows, from the enclosing structs and lists

    bool has_nulls() const { return !validity.empty() || !outer.empty(); }
    void set_contiguous();  // sets the steps for values without gaps
    bool is_contiguous() const;
    const uint8_t *at(int64_t row, int64_t feature) const {
        return values + row * row_step + feature * value_step;
    }
};

int size_of(Type type);  // in bytes; 0 for null
inline bool is_decimal(Type type) { return type >= Type::decimal32 && type <= Type::decimal256; }
inline bool is_large_decimal(Type type) {
    return type == Type::decimal128 || type == Type::decimal256;
}
// Returns the type whose inner loop reads the values. Large decimals are converted to float64
// first.
inline Type loop_type(Type type) {
    return type == Type::decimal32   ? Type::int32
           : type == Type::decimal64 ? Type::int64
           : is_large_decimal(type)  ? Type::float64
                                     : type;
}

// The total number of features and bytes of some columns.
struct Extents {
    int64_t features = 0, bytes = 0;
    explicit Extents(const std::vector<Column> &columns) {
        for (const Column &column : columns) {
            features += column.width;
            bytes += column.rows * column.width * size_of(column.type);
        }
    }
};

// Finds the bound columns in a batch.
//
// `layout` describes each column by its list size (0 for a plain column), the length of its path,
// and the path itself, a sequence of child indices. A column whose path is the single index ABSENT
// is all null. Throws MalformedBatch if the batch does not match the layout.
constexpr int ABSENT = -1;
std::vector<Column> find_columns(const ArrowSchema &schema, const ArrowArray &batch,
                                 const int32_t *layout, size_t size);

}  // namespace streambn
