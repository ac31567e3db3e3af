// Memory for the pages of files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streambn {

// Bytes to be written over, a few more than asked for: bits are read eight bytes at a time.
//
// While files are open their memory goes from one to the next: what is given back to the system
// is cleared by it before it is there again, and that took a third of the time.
class Room {
  public:
    Room() = default;
    Room(Room &&other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
    Room &operator=(Room &&) = delete;
    ~Room() { clear(); }

    uint8_t *of(size_t size);
    void clear();
    uint8_t *data() const { return data_; }

    static constexpr size_t BEYOND = 8;

  private:
    uint8_t *data_ = nullptr;
    size_t size_ = 0;
};

// While there is one, the memory of rooms is kept.
class Keeping {
  public:
    Keeping();
    ~Keeping();
    Keeping(const Keeping &) = delete;
    Keeping &operator=(const Keeping &) = delete;

  private:
    bool counted_;
};

}  // namespace streambn
