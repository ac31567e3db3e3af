// One or several adjacent lanes of a column, handed out in pieces that an inner loop takes.
#pragma once

#include <cstdint>

#include "arrow.hpp"
#include "int256.hpp"
#include "kernels.hpp"

namespace streambn {

// Validity of a piece, one bit a row.
struct PieceBits {
    uint64_t word[PIECE / 64 + 1];
    uint8_t *octets() { return reinterpret_cast<uint8_t *>(word); }
    const uint8_t *octets() const { return reinterpret_cast<const uint8_t *>(word); }
};

// Reads a lane. A decimal beyond 64 bits comes as float64 less the base; all else as it lies
// in memory, gathered where the lanes of a list are interleaved.
class LaneReader {
  public:
    LaneReader(const Leaf &leaf, int64_t lane, int64_t range_start, int64_t range_stop);

    Type type() const { return type_; }
    bool has_nulls() const { return leaf_->has_nulls(); }
    // What was subtracted, as an integer; 0 but for decimals beyond 64 bits.
    Pair base() const { return base_.is_zero() ? Pair{0, 0} : base_.pair(); }

    // Values of n <= PIECE rows: where they are, or in `room`, of 8 * PIECE bytes.
    const void *values(int64_t start, int n, void *room) const;
    // How many of n rows are valid; their bits.
    int valid(int64_t start, int n, PieceBits &bits) const;
    // The least and the greatest valid value of a decimal beyond 64 bits, of which there is one.
    void extremes(int64_t start, int64_t stop, Int256 &low, Int256 &high) const;

  private:
    const Leaf *leaf_;
    int64_t lane_;
    Type type_;
    Int256 base_{};
};

// Bytes between the pieces of adjacent lanes: one line more than 4 KB, or all would fall into
// the same set of the cache (a third of the speed).
constexpr int64_t LANE_STRIDE = 8 * PIECE + 64;

// Values of several adjacent lanes at once: lane k's to `room + k * LANE_STRIDE`. The lines of
// the cache are then read once and not once a lane.
//
// How many together: 256 bytes of a row. Every row of a wide list is on another page of
// memory, and it takes as long to find the page as to read four lines of it.
inline int64_t lanes_together(const Leaf &leaf) {
    const int size = size_of(leaf.type);
    return leaf.width == 1 || size == 0 || size > 8 ? 1 : 256 / size;
}
void gather_lanes(const Leaf &leaf, int64_t first_lane, int lanes, int64_t start, int n,
                  uint8_t *room);

}  // namespace streambn
