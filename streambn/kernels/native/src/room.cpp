#include "room.hpp"

#include <map>
#include <mutex>

namespace streambn {

namespace {

constexpr size_t MOST_KEPT = 128 << 20, STEP = 64 << 10;  // bytes

struct Shelf {
    std::mutex mutex;
    std::multimap<size_t, uint8_t *> rooms;
    size_t kept = 0;
    int64_t keepers = 0;
};
// Never destroyed, for threads may still be at work when the process ends.
Shelf &shelf = *new Shelf;

// Whoever would have to wait does without: in a forked process it could be for ever.
std::unique_lock<std::mutex> attempt() { return {shelf.mutex, std::try_to_lock}; }

}  // namespace

uint8_t *Room::of(size_t size) {
    if (data_ && size_ >= size + BEYOND) return data_;
    clear();
    const size_t wanted = (size + BEYOND + STEP - 1) / STEP * STEP;
    if (const auto lock = attempt()) {
        const auto found = shelf.rooms.lower_bound(wanted);
        if (found != shelf.rooms.end() && found->first <= 4 * wanted) {
            size_ = found->first;
            data_ = found->second;
            shelf.kept -= size_;
            shelf.rooms.erase(found);
            return data_;
        }
    }
    data_ = new uint8_t[wanted];
    size_ = wanted;
    return data_;
}

void Room::clear() {
    if (!data_) return;
    const auto lock = attempt();
    if (lock && shelf.keepers && shelf.kept + size_ <= MOST_KEPT) {
        shelf.rooms.emplace(size_, data_);
        shelf.kept += size_;
    } else {
        delete[] data_;
    }
    data_ = nullptr;
}

Keeping::Keeping() {
    const auto lock = attempt();
    counted_ = lock.owns_lock();
    if (counted_) ++shelf.keepers;
}

Keeping::~Keeping() {
    if (!counted_) return;
    const std::lock_guard<std::mutex> guard(shelf.mutex);
    if (--shelf.keepers) return;
    for (const auto &kept : shelf.rooms) delete[] kept.second;
    shelf.rooms.clear();
    shelf.kept = 0;
}

}  // namespace streambn
