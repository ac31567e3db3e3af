// Snappy, undone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streambn {

// Undo Snappy's compression of a block into exactly `size` bytes. False: it is not that.
bool unsnap(const uint8_t *from, size_t length, uint8_t *to, size_t size);

}  // namespace streambn
