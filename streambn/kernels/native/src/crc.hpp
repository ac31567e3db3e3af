// The checksum of Parquet's pages, which is that of gzip.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streambn {

uint32_t crc32(const uint8_t *data, size_t size);

}  // namespace streambn
