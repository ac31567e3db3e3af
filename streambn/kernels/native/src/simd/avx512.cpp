#define STREAMBN_SIMD avx512
#include "simd/table.hpp"

const streambn::Kernels streambn::avx512_kernels = streambn::avx512::table("avx512");
