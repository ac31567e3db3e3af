// What stands before a page of a Parquet file.
#pragma once

#include "thrift.hpp"

namespace streambn {

// Numbers of the format.
enum class PageType : int64_t { data = 0, dictionary = 2 };
enum class Encoding : int64_t { plain = 0, plain_dictionary = 2, rle = 3, rle_dictionary = 8 };

// -1: it is not told.
struct PageHeader {
    int64_t type = -1, size = -1, stored = -1, values = -1, encoding = -1;
    int64_t levels = -1, repetition = -1;  // how they are encoded
    int64_t checksum = 0;
    bool checked = false;  // there is a checksum
    bool known = false;    // it makes sense, and is of a kind that is read here
    size_t length = 0;     // of the header

    bool is(PageType wanted) const { return type == static_cast<int64_t>(wanted); }
    bool is(Encoding wanted) const { return encoding == static_cast<int64_t>(wanted); }
};

inline PageHeader page_header(const uint8_t *data, size_t size) {
    PageHeader page;
    Thrift thrift(data, size);
    bool other = false;
    const auto about = [&](int type, bool of_data) {
        if (type != Thrift::STRUCT) return thrift.skip(type);
        thrift.fields([&](int64_t number, int field) {
            switch (number) {
            case 1: page.values = thrift.int32(field); break;
            case 2: page.encoding = thrift.int32(field); break;
            case 3: case 4:
                if (of_data) {
                    (number == 3 ? page.levels : page.repetition) = thrift.int32(field);
                    break;
                }
                [[fallthrough]];
            default: thrift.skip(field);
            }
        });
    };
    thrift.fields([&](int64_t number, int type) {
        switch (number) {
        case 1: page.type = thrift.int32(type); break;
        case 2: page.size = thrift.int32(type); break;
        case 3: page.stored = thrift.int32(type); break;
        case 4:
            page.checksum = thrift.int32(type);
            page.checked = true;
            break;
        case 5: case 7:
            if (page.is(number == 5 ? PageType::data : PageType::dictionary)) {
                about(type, number == 5);
                break;
            }
            [[fallthrough]];
        default:
            other = true;
            thrift.skip(type);
        }
    });
    page.length = thrift.used();
    // What the format requires is there.
    page.known = thrift.sound() && !other && page.size >= 0 && page.stored >= 0 &&
                 page.values >= 0 && page.encoding >= 0 &&
                 (page.is(PageType::dictionary) || (page.levels >= 0 && page.repetition >= 0));
    return page;
}

}  // namespace streambn
