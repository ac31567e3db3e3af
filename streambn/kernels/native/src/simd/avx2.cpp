#define STREAMBN_SIMD avx2
#include "simd/table.hpp"

const streambn::Kernels streambn::avx2_kernels = streambn::avx2::table("avx2");
