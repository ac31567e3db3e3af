// The Arrow C data interface, and the bound columns of a batch found in it.
// https://arrow.apache.org/docs/format/CDataInterface.html
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"

extern "C" {
#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE

struct ArrowSchema {
    const char *format, *name, *metadata;
    int64_t flags, n_children;
    struct ArrowSchema **children;
    struct ArrowSchema *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

#endif
}

namespace streambn {

// What a batch holds is not what it says, or not what is bound.
struct MalformedBatch : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A validity bitmap from some element on.
struct Bitmap {
    const uint8_t *octets;
    int64_t offset;  // in bits

    // `n` <= 64 bits from `start` on, the lowest first; no byte behind the last is touched.
    uint64_t word(int64_t start, int n) const {
        const int64_t first = offset + start;
        const uint8_t *from = octets + first / 8;
        const int shift = static_cast<int>(first % 8), needed = (shift + n + 7) / 8;
        uint64_t low = 0;
        if (needed >= 8)
            __builtin_memcpy(&low, from, 8);  // of constant length: no call
        else
            __builtin_memcpy(&low, from, static_cast<size_t>(needed));
        low >>= shift;
        if (needed > 8) low |= static_cast<uint64_t>(from[8]) << (64 - shift);
        return n == 64 ? low : low & ((uint64_t{1} << n) - 1);
    }
    bool is_octet(int64_t i) const { return (offset + i) % 8 == 0; }
    const uint8_t *octet(int64_t i) const { return octets + (offset + i) / 8; }
    bool bit(int64_t i) const { return octets[(offset + i) / 8] >> ((offset + i) % 8) & 1; }
};

// One bound column: `rows` times `width` values, row by row.
struct Leaf {
    Type type;
    int decimal_scale;  // the value is integer / 10**decimal_scale
    int64_t rows, width;
    bool is_list;                  // of fixed size, `width`
    const uint8_t *values;         // of the first row
    std::vector<Bitmap> validity;  // of the values: none or one
    std::vector<Bitmap> outer;     // of the rows: those of the structs and lists around

    bool has_nulls() const { return !validity.empty() || !outer.empty(); }
};

int size_of(Type type);  // in bytes; 0 for null

// Find columns in a batch.
//
// `layout` holds, for each: its width, the number of steps to it, and the steps, which are
// indices of children. A width above 0 means a fixed-size list of so many; 0 a plain column.
//
// A plain column that is ABSENT, its only step, is one of nulls. Throws MalformedBatch.
constexpr int ABSENT = -1;
std::vector<Leaf> find_leaves(const ArrowSchema &schema, const ArrowArray &batch,
                              const int32_t *layout, size_t size);

}  // namespace streambn
