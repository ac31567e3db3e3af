// The table of inner loops for one instruction set.
#pragma once

#include "simd/integer_sums.hpp"
#include "simd/maps.hpp"
#include "simd/plain_sums.hpp"
#include "simd/precise_sums.hpp"
#include "simd/row.hpp"
#include "simd/series.hpp"
#include "simd/times.hpp"
#include "simd/transpose.hpp"
#include "simd/weights.hpp"

#define STREAMBN_OF_EACH_TYPE(f)                                                             \
    {                                                                                        \
        f<double>, f<float>, f<Half>, f<int8_t>, f<int16_t>, f<int32_t>, f<int64_t>,         \
            f<uint8_t>, f<uint16_t>, f<uint32_t>, f<uint64_t>                                \
    }
#define STREAMBN_MAPS(inverse)                                                               \
    {                                                                                        \
        {map<double, double, inverse>, map<double, float, inverse>}, {                       \
            map<float, double, inverse>, map<float, float, inverse>                          \
        }                                                                                    \
    }

namespace streambn::STREAMBN_SIMD {
constexpr Kernels table(const char *name) {
    return {name,
            count_bits,
            STREAMBN_OF_EACH_TYPE(sum),
            STREAMBN_OF_EACH_TYPE(sum_precisely),
            STREAMBN_OF_EACH_TYPE(sum_to_integers),
            weigh,
            time_weights,
            {find_finite<double>, find_finite<float>, find_finite<Half>},
            STREAMBN_OF_EACH_TYPE(widen),
            STREAMBN_MAPS(false),
            STREAMBN_MAPS(true),
            add_value,
            read_variance,
            map_series,
            copy_plain,
            find_shares,
            {transpose<int32_t>, transpose<int64_t>}};
}
}  // namespace streambn::STREAMBN_SIMD
