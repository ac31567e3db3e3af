#include <cstdlib>
#include <cstring>

#include "simd/kernels.hpp"

namespace streambn {

namespace {

const Kernels &best() {
#if defined(STREAMBN_X86_VARIANTS)
    const char *variable = std::getenv("STREAMBN_SIMD");
    const char *requested = variable ? variable : "";
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512bw");
    if (std::strcmp(requested, "baseline") == 0) return baseline_kernels;
    if (avx512 && std::strcmp(requested, "avx2") != 0) return avx512_kernels;
    if (avx2) return avx2_kernels;
#endif
    return baseline_kernels;
}

}  // namespace

const Kernels &kernels() {
    static const Kernels &chosen = best();
    return chosen;
}

}  // namespace streambn
