// Bitmaps, and numbers of a few bits each, as Parquet packs them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace streambn {

inline uint64_t load_word(const uint8_t *from) {
    uint64_t word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

inline bool is_set(const uint8_t *bits, int64_t i) { return bits[i >> 3] >> (i & 7) & 1; }

// Append bits to others, of which those from `to` on are 0.
void append_bits(uint8_t *out, int64_t to, const uint8_t *bits, int64_t from, int64_t count);
void append_ones(uint8_t *out, int64_t to, int64_t count);
int64_t count_bits(const uint8_t *bits, int64_t from, int64_t count);

// Numbers of a few bits, in runs of the same or packed.
class Hybrid {
  public:
    Hybrid() = default;
    // Eight more bytes must be readable behind the end.
    Hybrid(const uint8_t *data, size_t size, int width)
        : at_(data), end_(data + size), width_(width) {}
    // The next numbers. False: there are not so many.
    bool take(uint32_t *out, int64_t count);
    // The same of one bit each, as a bitmap, which is 0 before.
    bool take_bits(uint8_t *out, int64_t count);
    // Whether they are so many ones in a run, of one bit each.
    bool ones(int64_t count);

  private:
    bool run();
    const uint8_t *at_ = nullptr, *end_ = nullptr;
    const uint8_t *packed_ = nullptr;  // null: a run of `same_`
    int width_ = 0;
    int64_t left_ = 0, bit_ = 0;
    uint32_t same_ = 0;
};

}  // namespace streambn
