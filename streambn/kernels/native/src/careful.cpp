#include "careful.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "int256.hpp"

namespace streambn {

namespace {

// Moments of one piece with whatever in it: each has its own centre, its own units, and its
// weights as of its last usable value, as in the reference's `_careful_block`.
Moments careful_piece(const Context &context, const LaneReader &lane, int64_t start, int n,
                      Units units) {
    alignas(64) uint8_t room[8 * PIECE];
    alignas(64) double x[PIECE + 8];
    PieceBits bits;
    Moments m;
    const void *values = lane.values(start, n, room);
    int usable = n;
    if (lane.has_nulls())
        usable = lane.valid(start, n, bits);
    else
        std::memset(&bits, 0xff, sizeof bits);
    m.nulls = n - usable;
    if (is_float(lane.type())) {
        NotFinite found{0, 0, 0};
        context.inner.find_finite[static_cast<int>(lane.type())](values, n, bits.octets(), &found);
        m.nans = found.nans, m.pos_infs = found.pos_infs, m.neg_infs = found.neg_infs;
        usable -= static_cast<int>(found.nans + found.pos_infs + found.neg_infs);
    }
    const bool wide = is_wide(lane.type()), is_unsigned = lane.type() == Type::uint64;
    int64_t lowest = INT64_MAX, highest = INT64_MIN;
    if (wide) {
        int64_t whole[PIECE], base = 0;
        for (int i = 0; i < n; ++i) {
            std::memcpy(&whole[i], static_cast<const uint8_t *>(values) + 8 * i, 8);
            if (is_unsigned) whole[i] ^= INT64_MIN;
            if (!(bits.word[i / 64] >> (i % 64) & 1)) continue;
            // The last one, which weighs most: what is far from it is rounded.
            base = whole[i];
            lowest = std::min(lowest, base);
            highest = std::max(highest, base);
        }
        for (int i = 0; i < n; ++i) x[i] = static_cast<double>(__int128{whole[i]} - base);
        units.base = pair_of(base, is_unsigned);
    } else {
        Origin zero;
        zero.number = 0;
        context.inner.widen[static_cast<int>(lane.type())](values, n, zero, x);
    }
    const bool fading = context.table != nullptr;
    if (fading && context.weighing.ignore_missing && usable < n) {
        int kept = 0;
        for (int i = 0; i < n; ++i)
            if (bits.word[i / 64] >> (i % 64) & 1) x[kept++] = x[i];
        n = kept;
        std::memset(&bits, 0xff, sizeof bits);
    }
    m.count = usable;
    if (usable == 0) {
        if (fading) m.decay = context.table->power(n);
        return m;
    }
    int last = 0;
    for (int i = 0; i < n; ++i) {
        if (!(bits.word[i / 64] >> (i % 64) & 1)) continue;
        last = i;
        m.min = std::min(m.min, x[i]);
        m.max = std::max(m.max, x[i]);
    }
    const double largest = std::max(-m.min, m.max);
    const bool plain = is_plain(largest);
    int exponent = 0;
    if (!plain) {
        (void)std::frexp(largest, &exponent);
        for (int i = 0; i <= last; ++i) x[i] = times_two_to(x[i], -exponent);
    }
    m.exponent = largest == 0 ? ZERO_EXPONENT : exponent;
    const double low = times_two_to(m.min, -exponent), high = times_two_to(m.max, -exponent);

    const int behind = n - 1 - last;
    n = last + 1;
    Weighed weighed{static_cast<double>(usable), usable * (usable - 1.0) / 2, 1.0};
    double faded = 1;
    if (fading) {
        weighed = usable == n ? context.table->dense(n) : context.table->masked(bits.word, n);
        if (behind > 0) {
            const double least = std::min(LEAST_WEIGHT / weighed.weight, 1.0);
            faded = std::max(context.table->power(behind), least);
        }
    }
    m.weight = weighed.weight;
    Origin origin;
    origin.number = low <= 0 && high >= 0 ? 0.0 : x[last];
    if (m.min == m.max) {
        m.mean = {low, 0};
    } else {
        for (int attempt = 0; attempt < CENTRINGS; ++attempt) {
            ChunkSums sums;
            sums.clear(Type::float64);
            const SumPiece sum = fading ? context.inner.sum[0] : context.inner.sum_exactly[0];
            sum(x, n, usable < n ? bits.octets() : nullptr, origin,
                fading ? context.table->weights(n) : nullptr, 1.0, &sums.sums);
            const Pair first = collapsed(sums.sums.first_hi, sums.sums.first_lo);
            const Pair second = collapsed(sums.sums.second_hi, sums.sums.second_lo);
            set_from_sums(m, {origin.number, 0}, first, second);
            const bool poor = fading ? first.hi * first.hi > EXCESS * second.hi * m.weight
                                     : m.m2.hi < EXACT_REST * second.hi;
            const double better = std::min(std::max(m.mean.hi, low), high);
            if (!poor || better == origin.number) break;
            origin.number = better;
        }
    }
    m.weight = weighed.weight * faded;
    m.pairs = weighed.pairs * faded * faded;
    if (faded != 1) m.m2 = {m.m2.hi * faded, m.m2.lo * faded};
    m.decay = weighed.decay * faded;
    units.restore(m);
    if (wide) {
        units.base = {0, 0};
        m.min = units.restored(pair_of(lowest, is_unsigned));
        m.max = units.restored(pair_of(highest, is_unsigned));
    }
    return m;
}

}  // namespace

Moments careful_chunk(const Context &context, const LaneReader &lane, int64_t start, int64_t stop,
                      const Units &units) {
    Moments m;
    for (int64_t at = start; at < stop; at += PIECE)
        m = merge(m, careful_piece(context, lane, at,
                                   static_cast<int>(std::min<int64_t>(PIECE, stop - at)), units));
    return m;
}

}  // namespace streambn
