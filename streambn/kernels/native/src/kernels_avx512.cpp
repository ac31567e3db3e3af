#define STREAMBN_SIMD avx512
#include "kernels_table.hpp"

const streambn::Kernels streambn::avx512_kernels = streambn::avx512::table("avx512");
