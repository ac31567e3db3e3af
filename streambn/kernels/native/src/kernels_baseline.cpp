#define STREAMBN_SIMD baseline
#include "kernels_table.hpp"

const streambn::Kernels streambn::baseline_kernels = streambn::baseline::table("baseline");
