// The format: https://github.com/google/snappy/blob/main/format_description.txt
#include "snappy.hpp"

#include <cstring>

namespace streambn {

namespace {

// Copy bytes from `back` before: what is copied may be part of what is made.
void repeat(uint8_t *to, size_t back, size_t size) {
    const uint8_t *from = to - back;
    if (back >= size) {
        std::memcpy(to, from, size);
    } else {
        for (size_t i = 0; i < size; ++i) to[i] = from[i];
    }
}

uint32_t number(const uint8_t *at, size_t bytes) {
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= static_cast<uint32_t>(at[i]) << (8 * i);
    return value;
}

}  // namespace

bool unsnap(const uint8_t *from, size_t length, uint8_t *to, size_t size) {
    const uint8_t *at = from, *const end = from + length;
    uint8_t *out = to, *const full = to + size;
    uint64_t told = 0;
    for (int shift = 0;; shift += 7) {
        if (at == end || shift > 28) return false;
        told |= static_cast<uint64_t>(*at & 0x7f) << shift;
        if (*at++ < 0x80) break;
    }
    if (told != size) return false;
    while (at < end) {
        const uint8_t tag = *at++;
        const auto left = static_cast<size_t>(end - at), room = static_cast<size_t>(full - out);
        size_t count = tag >> 2, back = 0;
        switch (tag & 3) {
        case 0: {  // a literal
            size_t extra = 0;
            if (count >= 60) {
                extra = count - 59;
                if (extra > left) return false;
                count = number(at, extra);
                at += extra;
            }
            ++count;
            if (count > left - extra || count > room) return false;
            if (count <= 16 && left - extra >= 16 && room >= 16)
                std::memcpy(out, at, 16);  // the most frequent case, without a loop
            else
                std::memcpy(out, at, count);
            at += count;
            out += count;
            continue;
        }
        case 1:
            if (left < 1) return false;
            back = static_cast<size_t>(tag >> 5) << 8 | *at++;
            count = (count & 7) + 4;
            break;
        case 2:
            if (left < 2) return false;
            back = number(at, 2);
            at += 2;
            ++count;
            break;
        default:
            if (left < 4) return false;
            back = number(at, 4);
            at += 4;
            ++count;
        }
        if (!back || back > static_cast<size_t>(out - to) || count > room) return false;
        if (back >= 8 && room >= 72) {
            // Eight at a time, up to seven too many: a copy has 64 at most.
            const uint8_t *source = out - back;
            for (size_t i = 0; i < count; i += 8) std::memcpy(out + i, source + i, 8);
        } else {
            repeat(out, back, count);
        }
        out += count;
    }
    return out == full;
}

}  // namespace streambn
