// Structures in Thrift's compact protocol, read from bytes that may be damaged.
// https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
#pragma once

#include <cstddef>
#include <cstdint>

namespace streambn {

class Thrift {
  public:
    enum Type : int { STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT };

    Thrift(const uint8_t *data, size_t size) : begin_(data), at_(data), end_(data + size) {}

    // What was read made sense so far. Once it does not, all that follows is 0.
    bool sound() const { return sound_; }
    size_t used() const { return static_cast<size_t>(at_ - begin_); }

    // Call `take(number, type)` for each field of a structure; it reads the value, or skips it.
    template <class Take>
    void fields(const Take &take) {
        int64_t number = 0;
        while (const int head = byte()) {
            number = head >> 4 ? number + (head >> 4) : integer();
            take(number, head & 15);
        }
    }
    // Call `take(type)` for each item of a list.
    template <class Take>
    void items(const Take &take) {
        const int head = byte();
        const uint64_t count = head >> 4 == 15 ? varint() : static_cast<uint64_t>(head >> 4);
        // An item takes a byte at least.
        if (count > static_cast<uint64_t>(end_ - at_)) fail();
        for (uint64_t i = 0; i < count && sound_; ++i) take(head & 15);
    }
    // A number of 32 or 64 bits, if the type is that.
    int64_t int32(int type) { return integer_if(type, I32); }
    int64_t int64(int type) { return integer_if(type, I64); }
    void skip(int type) { skip(type, 0); }

  private:
    static constexpr int DEEPEST = 32;

    int64_t integer_if(int type, Type wanted) {
        if (type == wanted) return integer();
        fail();
        return 0;
    }
    int64_t integer() {
        const uint64_t value = varint();
        return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
    }
    int byte() {
        if (at_ == end_) fail();
        return sound_ ? *at_++ : 0;
    }
    uint64_t varint() {
        uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const int next = byte();
            value |= static_cast<uint64_t>(next & 0x7f) << shift;
            if (next < 0x80) return value;
        }
        fail();
        return 0;
    }
    void take(uint64_t size) {
        if (size > static_cast<uint64_t>(end_ - at_)) return fail();
        at_ += size;
    }
    void skip(int type, int depth) {
        if (depth > DEEPEST) return fail();
        switch (type) {
        case TRUE: case FALSE: return;  // the type is all of it
        case BYTE: return take(1);
        case I16: case I32: case I64: integer(); return;
        case DOUBLE: return take(8);
        case BINARY: return take(varint());
        case LIST: case SET:
            // In a list a truth takes a byte.
            return items([&](int item) { item <= FALSE ? take(1) : skip(item, depth + 1); });
        case STRUCT: return fields([&](int64_t, int field) { skip(field, depth + 1); });
        default: return fail();  // there are no maps in a Parquet file
        }
    }
    void fail() {
        sound_ = false;
        at_ = end_;
    }
    const uint8_t *begin_, *at_, *end_;
    bool sound_ = true;
};

}  // namespace streambn
