// Rows normalized one after the other: eight features learn and map each row together. The
// operations and their order are those of `learn_value`, `map_of` and `mapped` in rows/feature.hpp,
// so the bits agree.
#pragma once

#include "simd/row.hpp"

namespace streambn::STREAMBN_SIMD {

STREAMBN_INLINE Pack square_root(const Pack &a) {
#if defined(__AVX512F__)
    // The masked form avoids a false warning of GCC 12.
    return {{(Register<double>)_mm512_maskz_sqrt_pd(0xff, a.part[0])}};
#elif defined(__AVX2__)
    return each<double>(STREAMBN_PART((Register<double>)_mm256_sqrt_pd(a.part[i])));
#else
    return each<double>([&](auto i) __attribute__((always_inline)) {
        Register<double> root;
        for (int k = 0; k < EACH; ++k) root[k] = __builtin_sqrt(a.part[i][k]);
        return root;
    });
#endif
}
STREAMBN_INLINE Mask less(const Pack &a, const Pack &b) {
    return each<int64_t>(STREAMBN_PART(a.part[i] < b.part[i]));
}
STREAMBN_INLINE Mask not_of(const Mask &mask) {
    return each<int64_t>(STREAMBN_PART(~mask.part[i]));
}

// The same as `shares_of` in rows/feature.hpp.
inline void find_shares(const double *older, const double *newer, int n, const SeriesShares &shares) {
    for (int i = 0; i < n; i += WIDTH) {
        const Pack a = load<double>(older + i), b = load<double>(newer + i), sum = a + b;
        const Mask from_newer = less(a, b);
        const Pack light = select(from_newer, a, b), heavy = select(from_newer, b, a);
        const Pack q = light / sum, p = q * sum;
        const Two<Pack> share = quick_two_sum<Pack>(q, ((light - p) - error_of_product(q, sum, p)) / sum);
        store(shares.light_hi + i, share.hi), store(shares.light_lo + i, share.lo);
        store(shares.heavy + i, heavy);
        for (int k = 0; k < WIDTH; ++k) shares.from_newer[i + k] = newer[i + k] > older[i + k];
    }
}

STREAMBN_INLINE Mask is_unusual(const Pack &x) {
    const Pack size = magnitude(x), least = broadcast(0x1p-400), most = broadcast(0x1p400);
    return each<int64_t>(STREAMBN_PART(
        ~(size.part[i] <= most.part[i]) | ((size.part[i] < least.part[i]) & (size.part[i] > 0.0))));
}

inline bool copy_plain(const void *values, int n, double *to) {
    const char *from = static_cast<const char *>(values);
    Mask unusual = broadcast((int64_t)0);
    int i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        const Pack x = load<double>(from + i * sizeof(double));
        unusual = unusual | is_unusual(x);
        store(to + i, x);
    }
    double last[WIDTH] = {};
    __builtin_memcpy(last, from + i * sizeof(double), (n - i) * sizeof(double));
    unusual = unusual | is_unusual(load<double>(last));
    __builtin_memcpy(to + i, last, (n - i) * sizeof(double));
    return !any(unusual);
}

// Returns the scale for a variance within the range in which float64 keeps its digits, or a slow
// root for the few variances beyond.
__attribute__((noinline)) inline Pack careful_scale(const Pack &var, const Pack &std, const Pack &scale,
                                                    double eps) {
    double vars[WIDTH], stds[WIDTH], scales[WIDTH];
    store(vars, var), store(stds, std), store(scales, scale);
    for (int k = 0; k < WIDTH; ++k)
        if (!(vars[k] > 1e-290 && __builtin_isfinite(vars[k] + eps)))
            scales[k] = __builtin_hypot(stds[k], __builtin_sqrt(eps));
    return load<double>(scales);
}

// Returns the moments from which the maps of eight features follow. With a prior, those are the
// moments of the first value, merged with those of all others.
template <bool PRIOR>
STREAMBN_INLINE Learned<Pack> all_values(const Learned<Pack> &m, const Two<Pack> &first,
                                         const SeriesRows &rows, int i) {
    if constexpr (!PRIOR) {
        return m;
    } else {
        const Two<Pack> light{broadcast(rows.first_light_hi[i]), broadcast(rows.first_light_lo[i])};
        return with_first<Pack>(m, first, light, broadcast(rows.first_heavy[i]), rows.from_others[i]);
    }
}

template <bool PRIOR>
STREAMBN_INLINE Pack map_row(const Pack &x, const Learned<Pack> &m, const Two<Pack> &first,
                             const SeriesRows &rows, int i, const SeriesMap &by, const SeriesPack &pack) {
    const Pack zero = broadcast(0.0), one = broadcast(1.0);
    const Learned<Pack> all = all_values<PRIOR>(m, first, rows, i);
    Pack hi = all.mean.hi, lo = all.mean.lo;
    const Pack size = magnitude(hi);
    lo = select(less(magnitude(lo), broadcast(0x1p-96) * size), zero, lo);
    Pack scale = one, gamma = load<double>(pack.gamma);
    if (by.scale) {
        const double divisor = rows.divisor[i];
        // A variance that is undefined counts as zero: either makes a feature constant.
        const Pack var =
            divisor > 0
                ? maximum(quotient_of<Pack>(all.m2, broadcast(divisor), broadcast(rows.inverse[i])), zero)
                : zero;
        Pack std = square_root(var);
        const Pack rounding = maximum(load<double>(pack.relative) * size, load<double>(pack.least));
        const Mask varies = less(rounding, std);
        std = select(varies, std, zero);
        if (by.eps == 0) {
            scale = select(varies, std, one);
            if (by.zero_constant) gamma = select(varies, gamma, zero);
        } else {
            const Pack sum = var + broadcast(by.eps);
            const Mask ordinary = less(broadcast(1e-290), var);
            scale = select(varies, square_root(sum), broadcast(__builtin_sqrt(by.eps)));
            if (any(varies & (not_of(ordinary) | not_finite(sum))))
                scale = select(varies, careful_scale(var, std, scale, by.eps), scale);
        }
    }
    const Two<Pack> at = by.center ? Two<Pack>{hi, lo} : Two<Pack>{zero, zero};
    Pack y = (((x - at.hi) + zero) - at.lo) / scale;
    y = minimum(broadcast(by.clip), maximum(broadcast(-by.clip), y));
    return y * gamma + load<double>(pack.beta);
}

template <bool PRIOR>
STREAMBN_INLINE void map_rows(const double *values, int n, const SeriesRows &rows, const SeriesMap &by,
                              SeriesPack &pack, double *mapped) {
    Learned<Pack> m{{load<double>(pack.mean_hi), load<double>(pack.mean_lo)},
                    {load<double>(pack.m2_hi), load<double>(pack.m2_lo)}};
    const Two<Pack> first{load<double>(pack.first_hi), load<double>(pack.first_lo)};
    Pack low = load<double>(pack.low), high = load<double>(pack.high);
    const Pack zero = broadcast(0.0);
    for (int i = 0; i < n; ++i) {
        const Pack x = load<double>(values + i * WIDTH);
        if (by.before) store(mapped + i * WIDTH, map_row<PRIOR>(x, m, first, rows, i, by, pack));
        const double decay = rows.decay[i];
        learn<Pack>(m, {x, zero}, {broadcast(rows.light_hi[i]), broadcast(rows.light_lo[i])},
                    broadcast(rows.heavy[i]), broadcast(decay), decay != 1, rows.from_value[i]);
        low = minimum(x, low), high = maximum(x, high);
        if (!by.before) store(mapped + i * WIDTH, map_row<PRIOR>(x, m, first, rows, i, by, pack));
    }
    store(pack.mean_hi, m.mean.hi), store(pack.mean_lo, m.mean.lo);
    store(pack.m2_hi, m.m2.hi), store(pack.m2_lo, m.m2.lo);
    store(pack.low, low), store(pack.high, high);
}

inline void map_series(const double *values, int n, const SeriesRows &rows, const SeriesMap &by,
                       SeriesPack *pack, double *mapped) {
    if (rows.first_heavy)
        map_rows<true>(values, n, rows, by, *pack, mapped);
    else
        map_rows<false>(values, n, rows, by, *pack, mapped);
}

}  // namespace streambn::STREAMBN_SIMD
