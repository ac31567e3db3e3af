#include "pages.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "snappy.hpp"
#include "thrift.hpp"

namespace streambn {

namespace {

// Writers make pages of a megabyte. Larger ones are left to Arrow, which knows how to bear them.
constexpr int64_t LARGEST_PAGE = 16 << 20;
// Of a page of numbers: a few integers, and perhaps the smallest and the largest value.
constexpr size_t LARGEST_HEADER = 512;
constexpr int64_t MOST_ROWS = LARGEST_PAGE * 8;  // of a page; their bits are held
constexpr int64_t AT_ONCE = 1024, IN_FRONT = ChunkReader::IN_FRONT;

enum Encoding : int64_t { PLAIN = 0, PLAIN_DICTIONARY = 2, RLE = 3, RLE_DICTIONARY = 8 };
enum PageType : int64_t { DATA_PAGE = 0, DICTIONARY_PAGE = 2 };

struct PageHeader {
    int64_t type = -1, size = -1, stored = -1, values = -1, encoding = -1, levels = RLE;
    bool declined = false;
    size_t length = 0;
};

PageHeader page_header(const uint8_t *data, size_t size) {
    PageHeader page;
    Thrift thrift(data, size);
    const auto about = [&](bool dictionary) {
        thrift.fields([&](int64_t number, int type) {
            if (number == 1)
                page.values = thrift.integer_of(type);
            else if (number == 2)
                page.encoding = thrift.integer_of(type);
            else if (number == 3 && !dictionary)
                page.levels = thrift.integer_of(type);
            else
                thrift.skip(type);
        });
    };
    thrift.fields([&](int64_t number, int type) {
        if (number == 1)
            page.type = thrift.integer_of(type);
        else if (number == 2)
            page.size = thrift.integer_of(type);
        else if (number == 3)
            page.stored = thrift.integer_of(type);
        else if ((number == 5 && page.type == DATA_PAGE) || (number == 7 && page.type == DICTIONARY_PAGE))
            type == Thrift::STRUCT ? about(number == 7) : thrift.skip(type);
        else {
            // A checksum, 4, is for Arrow to check; the rest is of other kinds of pages.
            page.declined = true;
            thrift.skip(type);
        }
    });
    page.length = thrift.used();
    const bool fits = page.size >= 0 && page.size <= LARGEST_PAGE && page.stored >= 0 &&
                      page.stored <= LARGEST_PAGE && page.values >= 0;
    page.declined |= !thrift.sound() || !fits || page.levels != RLE;
    return page;
}

// Read all of it. False: the file ends before, or cannot be read.
bool read_at(int file, int64_t offset, uint8_t *to, size_t size) {
    while (size) {
        const ssize_t got = pread(file, to, size, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        to += got;
        offset += got;
        size -= static_cast<size_t>(got);
    }
    return true;
}

uint64_t load_word(const uint8_t *from) {
    uint64_t word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

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

bool is_set(const uint8_t *bits, int64_t i) { return bits[i >> 3] >> (i & 7) & 1; }

// Append bits to others, of which those from `to` on are 0.
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

// Give values their places among nulls: they lie at the end of where they are to be.
template <class Word>
void spread(uint8_t *values, const uint8_t *bits, int64_t from, int64_t count, int64_t there) {
    auto *to = reinterpret_cast<Word *>(values);
    const Word *next = to + (count - there);
    for (int64_t i = 0; i < count; ++i) to[i] = is_set(bits, from + i) ? *next++ : Word{0};
}

// The memory of values is aligned for any of them: it is Arrow's, and a page's comes from `new`.
template <class Word>
void look_up(uint8_t *values, const uint8_t *dictionary, const uint32_t *indices, int64_t count) {
    auto *const to = reinterpret_cast<Word *>(values);
    const auto *const words = reinterpret_cast<const Word *>(dictionary);
    for (int64_t i = 0; i < count; ++i) to[i] = words[indices[i]];
}

}  // namespace

// --- levels and indices ----------------------------------------------------------------

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

// --- pages -----------------------------------------------------------------------------

ChunkReader::ChunkReader(int file, const Chunk &chunk, bool optional)
    : file_(file),
      width_(chunk.type == static_cast<int64_t>(Physical::int64) ||
             chunk.type == static_cast<int64_t>(Physical::float64) ? 8 : 4),
      snappy_(chunk.codec == static_cast<int64_t>(Codec::snappy)),
      optional_(optional),
      at_(chunk.offset), end_(chunk.offset + chunk.length), unread_(chunk.values) {}

int64_t ChunkReader::read(int64_t rows, uint8_t *values, uint8_t *validity, Room &scratch) {
    int64_t nulls = 0;
    if (validity) std::memset(validity, 0, static_cast<size_t>((rows + 63) / 64 * 8));
    for (int64_t at = 0; at < rows;) {
        if (done_ == rows_) {
            int64_t whole = 0;
            if (!next_page(scratch, values + at * width_, rows - at, &whole)) return DECLINED;
            if (whole) {
                if (validity) append_ones(validity, at, whole);
                at += whole;
                continue;
            }
        }
        const int64_t n = std::min(rows - at, rows_ - done_);
        const bool full = there_ == rows_;
        const int64_t there = full ? n : count_bits(present_.data(), done_, n);
        uint8_t *const to = values + at * width_;
        if (!decode(there, to + (n - there) * width_)) return DECLINED;
        if (there < n) {
            if (width_ == 8)
                spread<uint64_t>(to, present_.data(), done_, n, there);
            else
                spread<uint32_t>(to, present_.data(), done_, n, there);
        }
        if (validity) {
            if (full)
                append_ones(validity, at, n);
            else
                append_bits(validity, at, present_.data(), done_, n);
        }
        nulls += n - there;
        done_ += n;
        at += n;
    }
    if (!unread_ && done_ == rows_) {
        if (at_ != end_) return DECLINED;  // there are pages of more rows than there are
        for (Room *room : {&dictionary_, &page_, &present_}) room->clear();
    }
    return nulls;
}

// Find the next page, and have its values ready; or decode it at once, if it is one that can be
// and `wanted` rows are: then `whole` is told how many these were.
bool ChunkReader::next_page(Room &scratch, uint8_t *to, int64_t wanted, int64_t *whole) {
    for (;;) {
        uint8_t head[LARGEST_HEADER];
        const auto peek = static_cast<size_t>(std::min<int64_t>(sizeof head, end_ - at_));
        if (!peek || !read_at(file_, at_, head, peek)) return false;
        const PageHeader page = page_header(head, peek);
        at_ += static_cast<int64_t>(page.length);
        if (page.declined || page.stored > end_ - at_) return false;
        const auto size = static_cast<size_t>(page.size), stored = static_cast<size_t>(page.stored);
        if (page.type == DICTIONARY_PAGE) {
            const bool plain = page.encoding == PLAIN || page.encoding == PLAIN_DICTIONARY;
            if (words_ >= 0 || !plain || page.values > LARGEST_PAGE || page.values * width_ != page.size)
                return false;
            if (!load(dictionary_.of(size), size, stored, scratch)) return false;
            words_ = page.values;
            at_ += page.stored;
            continue;
        }
        if (page.type != DATA_PAGE || page.values > std::min(unread_, MOST_ROWS)) return false;
        rows_ = page.values;
        done_ = 0;
        const int64_t before = page.size - rows_ * width_;  // the levels, if nothing is null
        if (page.encoding == PLAIN && rows_ && rows_ <= wanted && before >= 0 && before <= IN_FRONT) {
            // Its values are to lie where they are wanted, so the levels lie in front of them for
            // a moment, and what is there is put back.
            uint8_t kept[IN_FRONT];
            std::memcpy(kept, to - before, static_cast<size_t>(before));
            if (!load(to - before, size, stored, scratch)) return false;
            const bool full = !optional_ || all_there(to - before, before);
            if (!full) std::memcpy(page_.of(size), to - before, size);
            std::memcpy(to - before, kept, static_cast<size_t>(before));
            if (full) *whole = done_ = rows_;
        } else if (!load(page_.of(size), size, stored, scratch)) {
            return false;
        }
        at_ += page.stored;
        unread_ -= rows_;
        return *whole || begin(page.encoding, size);
    }
}

bool ChunkReader::load(uint8_t *to, size_t size, size_t stored, Room &scratch) const {
    if (!snappy_) return size == stored && read_at(file_, at_, to, size);
    uint8_t *const compressed = scratch.of(stored);
    return read_at(file_, at_, compressed, stored) && unsnap(compressed, stored, to, size);
}

// Whether levels of just this size are a run of ones. Where they are not, the page is not as it was
// thought to be.
bool ChunkReader::all_there(const uint8_t *levels, int64_t size) const {
    uint32_t length;
    if (size < static_cast<int64_t>(sizeof length)) return false;
    std::memcpy(&length, levels, sizeof length);
    return length == size - sizeof length && Hybrid(levels + sizeof length, length, 1).ones(rows_);
}

// Read the levels of the page, which say what is there, and find its values behind them.
bool ChunkReader::begin(int64_t encoding, size_t size) {
    const uint8_t *data = page_.data();
    there_ = rows_;
    if (optional_) {
        uint32_t length;
        if (size < sizeof length) return false;
        std::memcpy(&length, data, sizeof length);
        data += sizeof length;
        size -= sizeof length;
        if (length > size) return false;
        const auto bytes = static_cast<size_t>((rows_ + 63) / 64 * 8);
        std::memset(present_.of(bytes), 0, bytes);
        if (!Hybrid(data, length, 1).take_bits(present_.data(), rows_)) return false;
        there_ = count_bits(present_.data(), 0, rows_);
        data += length;
        size -= length;
    }
    plain_ = nullptr;
    if (encoding == PLAIN) {
        plain_ = data;
        return size == static_cast<size_t>(there_ * width_);
    }
    if ((encoding != PLAIN_DICTIONARY && encoding != RLE_DICTIONARY) || words_ < 0) return false;
    if (!there_) return true;
    if (!size || *data > 32) return false;
    indices_ = Hybrid(data + 1, size - 1, *data);
    return true;
}

// The next values that are not null.
bool ChunkReader::decode(int64_t count, uint8_t *to) {
    const auto bytes = static_cast<size_t>(count * width_);
    if (!count) return true;
    if (plain_) {
        std::memcpy(to, plain_, bytes);
        plain_ += bytes;
        return true;
    }
    uint32_t indices[AT_ONCE];
    while (count) {
        const int64_t n = std::min(count, AT_ONCE);
        if (!indices_.take(indices, n)) return false;
        uint32_t largest = 0;
        for (int64_t i = 0; i < n; ++i) largest = std::max(largest, indices[i]);
        if (largest >= words_) return false;
        if (width_ == 8)
            look_up<uint64_t>(to, dictionary_.data(), indices, n);
        else
            look_up<uint32_t>(to, dictionary_.data(), indices, n);
        to += n * width_;
        count -= n;
    }
    return true;
}

}  // namespace streambn
