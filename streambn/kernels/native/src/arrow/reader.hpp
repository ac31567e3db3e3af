// Reads the values and the validity of features, in pieces for the inner loops.
#pragma once

#include <cstdint>
#include <memory>

#include "arrow/columns.hpp"
#include "arrow/int256.hpp"
#include "simd/kernels.hpp"

namespace streambn {

// The validity of a piece, one bit per row.
struct PieceBits {
    uint64_t word[PIECE / 64 + 1];
    uint8_t *octets() { return reinterpret_cast<uint8_t *>(word); }
    const uint8_t *octets() const { return reinterpret_cast<const uint8_t *>(word); }
    bool at(int i) const { return word[i / 64] >> (i % 64) & 1; }
    void clear(int i) { word[i / 64] &= ~(uint64_t{1} << (i % 64)); }
    void set_all();
};

// Reads one feature. Returns decimals beyond 64 bits as float64 minus a base, and all other values
// in their stored form. Gathers the elements of a list column into contiguous memory.
class FeatureReader {
  public:
    FeatureReader(const Column &column, int64_t feature, int64_t range_start, int64_t range_stop);

    Type type() const { return type_; }
    bool has_nulls() const { return column_->has_nulls(); }
    // Returns the integer that was subtracted. It is 0 unless the type is a decimal beyond 64 bits.
    Pair base() const { return base_.is_zero() ? Pair{0, 0} : base_.pair(); }

    // Returns the values of n <= PIECE rows, in place or copied to `buffer`, which has 8 * PIECE
    // bytes.
    const void *values(int64_t start, int n, void *buffer) const;
    // Writes the validity of n rows, and returns the number of valid rows.
    int valid(int64_t start, int n, PieceBits &bits) const;
    // Sets the extremes of a decimal beyond 64 bits. At least one value must be valid.
    void extremes(int64_t start, int64_t stop, Int256 &low, Int256 &high) const;

  private:
    const uint8_t *value(int64_t row) const {
        return column_->at(row, feature_);
    }
    const Column *column_;
    int64_t feature_;
    Type type_;
    Int256 base_{};
};

// Bytes between the pieces of adjacent features. At a distance of 4 KB, all pieces would map to the
// same sets of the cache, which costs a third of the speed. One more cache line avoids that.
constexpr int64_t FEATURE_STRIDE = 8 * PIECE + 64;

// Memory for one piece of each of some features. It is not cleared, which would take longer than to
// sum a few rows.
class PieceBuffer {
  public:
    uint8_t *of(int64_t features) {
        if (features > room_) {
            memory_.reset(new uint8_t[static_cast<size_t>(features * FEATURE_STRIDE)]);
            room_ = features;
        }
        return memory_.get();
    }

  private:
    std::unique_ptr<uint8_t[]> memory_;
    int64_t room_ = 0;
};

// Returns the number of adjacent features to gather at once. Gathering them together reads each
// cache line once. Each row of a wide list lies on another page of memory, and looking up the page
// takes as long as reading four cache lines, which are 256 bytes.
inline int64_t features_together(const Column &column) {
    const int size = size_of(column.type);
    return column.width == 1 || size == 0 || size > 8 ? 1 : 256 / size;
}
// Copies the values of adjacent features. Those of the k-th go to `buffer + k * FEATURE_STRIDE`.
void gather_features(const Column &column, int64_t first_feature, int features, int64_t start,
                     int n, uint8_t *buffer);
// Copies n values of a column, row by row, from the value `start` on.
void gather_values(const Column &column, int64_t start, int n, uint8_t *buffer);

// A task for a thread: adjacent features of one column over one range of rows.
template <class Result>
struct RangeTask {
    const Column *column;
    int64_t first_feature, features;  // `first_feature` counts within the column
    int64_t start, stop;
    Result *out;  // an array of `features` results
};

}  // namespace streambn
