#include "hybrid.hpp"

#include <algorithm>

namespace streambn {

namespace {

// Numbers of `width` bits each, the first one at a bit.
void unpack(const uint8_t *from, int64_t bit, int width, uint32_t *out, int64_t count) {
    const uint64_t mask = (uint64_t{1} << width) - 1;
    int64_t i = 0;
    if (bit % 8 == 0) {
        // Eight of them end where a byte does, and the next eight begin alike.
        int byte[8], shift[8];
        for (int j = 0; j < 8; ++j) byte[j] = j * width / 8, shift[j] = j * width % 8;
        const uint8_t *at = from + bit / 8;
        for (; i + 8 <= count; i += 8, at += width)
            for (int j = 0; j < 8; ++j)
                out[i + j] = static_cast<uint32_t>(load_word(at + byte[j]) >> shift[j] & mask);
    }
    for (; i < count; ++i) {
        const int64_t at = bit + i * width;
        out[i] = static_cast<uint32_t>(load_word(from + at / 8) >> (at % 8) & mask);
    }
}

}  // namespace

void append_bits(uint8_t *out, int64_t to, const uint8_t *bits, int64_t from, int64_t count) {
    for (int64_t i = 0; i < count;) {
        const int64_t at = to + i, n = std::min<int64_t>({count - i, 8 - (at & 7), 8 - ((from + i) & 7)});
        const int part = bits[(from + i) >> 3] >> ((from + i) & 7) & ((1 << n) - 1);
        out[at >> 3] = static_cast<uint8_t>(out[at >> 3] | part << (at & 7));
        i += n;
    }
}

void append_ones(uint8_t *out, int64_t to, int64_t count) {
    const uint8_t ones = 0xff;
    while (count && to & 7) append_bits(out, to++, &ones, 0, 1), --count;
    std::memset(out + (to >> 3), 0xff, static_cast<size_t>(count >> 3));
    append_bits(out, to + (count & ~int64_t{7}), &ones, 0, count & 7);
}

int64_t count_bits(const uint8_t *bits, int64_t from, int64_t count) {
    int64_t set = 0, i = from;
    const int64_t stop = from + count;
    for (; i < stop && i & 7; ++i) set += is_set(bits, i);
    for (; i + 64 <= stop; i += 64) set += __builtin_popcountll(load_word(bits + (i >> 3)));
    for (; i < stop; ++i) set += is_set(bits, i);
    return set;
}

// Have a run under way.
bool Hybrid::run() {
    if (left_) return true;
    uint64_t head = 0;
    for (int shift = 0;; shift += 7) {
        if (at_ == end_ || shift > 28) return false;
        head |= static_cast<uint64_t>(*at_ & 0x7f) << shift;
        if (*at_++ < 0x80) break;
    }
    const auto size = static_cast<uint64_t>(end_ - at_);
    const auto count = static_cast<int64_t>(head >> 1);
    if (!count) return false;
    if (head & 1) {  // groups of eight
        if (static_cast<uint64_t>(count) * static_cast<uint64_t>(width_) > size) return false;
        packed_ = at_;
        at_ += count * width_;
        left_ = 8 * count;
        bit_ = 0;
        return true;
    }
    const auto bytes = static_cast<size_t>((width_ + 7) / 8);
    if (bytes > size) return false;
    same_ = 0;
    for (size_t i = 0; i < bytes; ++i) same_ |= static_cast<uint32_t>(at_[i]) << (8 * i);
    at_ += bytes;
    packed_ = nullptr;
    left_ = count;
    return true;
}

bool Hybrid::take(uint32_t *out, int64_t count) {
    while (count) {
        if (!run()) return false;
        const int64_t n = std::min(count, left_);
        if (packed_) {
            unpack(packed_, bit_, width_, out, n);
            bit_ += n * width_;
        } else {
            std::fill(out, out + n, same_);
        }
        out += n;
        count -= n;
        left_ -= n;
    }
    return true;
}

bool Hybrid::take_bits(uint8_t *out, int64_t count) {
    for (int64_t to = 0; to < count;) {
        if (!run()) return false;
        const int64_t n = std::min(count - to, left_);
        if (packed_) {
            append_bits(out, to, packed_, bit_, n);
            bit_ += n;
        } else if (same_ == 1) {
            append_ones(out, to, n);
        } else if (same_ != 0) {
            return false;
        }
        to += n;
        left_ -= n;
    }
    return true;
}

bool Hybrid::ones(int64_t count) {
    return run() && !packed_ && same_ == 1 && left_ == count && at_ == end_;
}

}  // namespace streambn
