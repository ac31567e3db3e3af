// Column chunks of Parquet files that hold numbers and nothing else: flat, plain or by a
// dictionary, stored as they are or compressed by Snappy.
//
// What is not so, or makes no sense, is declined, never guessed: Arrow reads it then, and tells
// what is wrong. Nothing is believed that a file says of itself.
// https://github.com/apache/parquet-format
#pragma once

#include <cstddef>
#include <cstdint>

#include "hybrid.hpp"
#include "room.hpp"

namespace streambn {

// Numbers of the format.
enum class Physical : int { int32 = 1, int64 = 2, float32 = 4, float64 = 5 };
enum class Codec : int { none = 0, snappy = 1 };

struct Chunk {
    int64_t type = -1, codec = -1, values = -1, length = -1, offset = -1;
};

// Read all of it. False: the file ends before, or cannot be read.
bool read_at(int file, int64_t offset, uint8_t *to, size_t size);

struct PageHeader;

// The rows of one column chunk, from the first to the last.
class ChunkReader {
  public:
    ChunkReader(int file, const Chunk &chunk, bool optional);

    // Decode the next rows: their values, 0 for nulls, and for each a bit that says whether it is
    // there; `validity` has room for whole words, and is null if values are never missing. In
    // front of `values` are bytes that may be written to, and are as they were in the end; behind
    // them another word may be read, if there is a bitmap.
    // `scratch` is for the time of the call. Returns how many are null; DECLINED: for Arrow.
    int64_t read(int64_t rows, uint8_t *values, uint8_t *validity, Room &scratch);

    int64_t width() const { return width_; }
    bool optional() const { return optional_; }

    static constexpr int64_t DECLINED = -1, IN_FRONT = 64;

  private:
    bool next_page(Room &scratch, uint8_t *to, int64_t wanted, int64_t *whole);
    bool load(const PageHeader &page, uint8_t *to, Room &scratch) const;
    bool all_there(const uint8_t *levels, int64_t size) const;
    bool begin(const PageHeader &page);
    bool decode(int64_t count, uint8_t *to);

    const int file_;
    const int64_t width_;
    const bool snappy_, optional_;
    int64_t at_, end_;   // in the file
    int64_t unread_;     // rows of the pages to come
    Room dictionary_, page_, present_;
    int64_t words_ = -1;                       // of the dictionary; -1: there is none
    int64_t rows_ = 0, done_ = 0, there_ = 0;  // of the page; `there_`: those that are not null
    const uint8_t *plain_ = nullptr;           // its next value; null: they are in the dictionary
    Hybrid indices_;
};

}  // namespace streambn
