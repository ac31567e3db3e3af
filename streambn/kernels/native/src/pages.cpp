#include "pages.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "crc.hpp"
#include "page_header.hpp"
#include "snappy.hpp"

namespace streambn {

namespace {

// Writers make pages of a megabyte. Larger ones are left to Arrow, which knows how to bear them.
constexpr int64_t LARGEST_PAGE = 16 << 20;
// Of a page of numbers: a few integers, and perhaps the smallest and the largest value.
constexpr size_t LARGEST_HEADER = 512;
constexpr int64_t MOST_ROWS = LARGEST_PAGE * 8;  // of a page; their bits are held
constexpr int64_t AT_ONCE = 1024, IN_FRONT = ChunkReader::IN_FRONT;

// Give values their places among nulls: they lie at the end of where they are to be. Without a
// branch, which random nulls would have guessed wrong; behind the last value another word is read,
// where the bitmap is.
template <class Word>
void spread(uint8_t *values, const uint8_t *bits, int64_t from, int64_t count, int64_t there) {
    auto *const to = reinterpret_cast<Word *>(values);
    const Word *next = to + (count - there);
    for (int64_t i = 0; i < count; ++i) {
        const Word is_there = is_set(bits, from + i);
        to[i] = *next & (Word{0} - is_there);
        next += is_there;
    }
}

// The memory of values is aligned for any of them: it is Arrow's, and a page's comes from `new`.
template <class Word>
void look_up(uint8_t *values, const uint8_t *dictionary, const uint32_t *indices, int64_t count) {
    auto *const to = reinterpret_cast<Word *>(values);
    const auto *const words = reinterpret_cast<const Word *>(dictionary);
    for (int64_t i = 0; i < count; ++i) to[i] = words[indices[i]];
}

}  // namespace

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
        if (!page.known || page.size > LARGEST_PAGE || page.stored > std::min(LARGEST_PAGE, end_ - at_)) return false;
        const auto size = static_cast<size_t>(page.size);
        if (page.is(PageType::dictionary)) {
            const bool plain = page.is(Encoding::plain) || page.is(Encoding::plain_dictionary);
            if (words_ >= 0 || !plain || page.values > LARGEST_PAGE || page.values * width_ != page.size)
                return false;
            if (!load(page, dictionary_.of(size), scratch)) return false;
            words_ = page.values;
            at_ += page.stored;
            continue;
        }
        if (!page.is(PageType::data) || page.values > std::min(unread_, MOST_ROWS)) return false;
        if (optional_ && page.levels != static_cast<int64_t>(Encoding::rle)) return false;
        rows_ = page.values;
        done_ = 0;
        const int64_t before = page.size - rows_ * width_;  // the levels, if nothing is null
        if (page.is(Encoding::plain) && rows_ && rows_ <= wanted && before >= 0 && before <= IN_FRONT) {
            // Its values are to lie where they are wanted, so the levels lie in front of them for
            // a moment, and what is there is put back.
            uint8_t kept[IN_FRONT];
            std::memcpy(kept, to - before, static_cast<size_t>(before));
            if (!load(page, to - before, scratch)) return false;
            const bool full = !optional_ || all_there(to - before, before);
            if (!full) std::memcpy(page_.of(size), to - before, size);
            std::memcpy(to - before, kept, static_cast<size_t>(before));
            if (full) *whole = done_ = rows_;
        } else if (!load(page, page_.of(size), scratch)) {
            return false;
        }
        at_ += page.stored;
        unread_ -= rows_;
        return *whole || begin(page);
    }
}

// Read a page behind its header, and undo its compression.
bool ChunkReader::load(const PageHeader &page, uint8_t *to, Room &scratch) const {
    const auto size = static_cast<size_t>(page.size), stored = static_cast<size_t>(page.stored);
    if (!snappy_ && size != stored) return false;
    uint8_t *const bytes = snappy_ ? scratch.of(stored) : to;
    if (!read_at(file_, at_, bytes, stored)) return false;
    if (page.checked && crc32(bytes, stored) != static_cast<uint32_t>(page.checksum)) return false;
    return !snappy_ || unsnap(bytes, stored, to, size);
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
bool ChunkReader::begin(const PageHeader &page) {
    const uint8_t *data = page_.data();
    auto size = static_cast<size_t>(page.size);
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
    if (page.is(Encoding::plain)) {
        plain_ = data;
        return size == static_cast<size_t>(there_ * width_);
    }
    if (!page.is(Encoding::plain_dictionary) && !page.is(Encoding::rle_dictionary)) return false;
    if (words_ < 0) return false;
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
