#define STREAMBN_SIMD baseline
#if defined(STREAMBN_X86_VARIANTS)
#define STREAMBN_FEW_LOOPS
#endif
#include "simd/table.hpp"

const streambn::Kernels streambn::baseline_kernels = streambn::baseline::table("baseline");
