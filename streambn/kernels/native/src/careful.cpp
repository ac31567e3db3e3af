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
    alignas(64) double x[PIECE + 8], weights[PIECE + 8];
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
    const bool fading = context.table != nullptr, weighted = context.weighted();
    const auto is_there = [&](int i) { return (bits.word[i / 64] >> (i % 64) & 1) != 0; };
    if (weighted) std::memcpy(weights, context.weighing.weights + start, n * sizeof(double));
    // A subnormal weight is none; neither is what is no number, which nobody promised.
    const auto weighs = [&](int i) { return !weighted || weights[i] >= 0x1p-1022; };
    const bool wide = is_wide(lane.type()), is_unsigned = lane.type() == Type::uint64;
    int64_t lowest = INT64_MAX, highest = INT64_MIN;
    if (wide) {
        int64_t whole[PIECE], base = 0;
        for (int i = 0; i < n; ++i) {
            std::memcpy(&whole[i], static_cast<const uint8_t *>(values) + 8 * i, 8);
            if (is_unsigned) whole[i] ^= INT64_MIN;
            if (!is_there(i)) continue;
            // The last one, which weighs most: what is far from it is rounded.
            if (weighs(i)) base = whole[i];
            lowest = std::min(lowest, whole[i]);
            highest = std::max(highest, whole[i]);
        }
        for (int i = 0; i < n; ++i) x[i] = static_cast<double>(__int128{whole[i]} - base);
        units.base = pair_of(base, is_unsigned);
    } else {
        Origin zero;
        zero.number = 0;
        context.inner.widen[static_cast<int>(lane.type())](values, n, zero, x);
    }
    if (fading && context.weighing.ignore_missing && usable < n) {
        int kept = 0;
        for (int i = 0; i < n; ++i) {
            if (!is_there(i)) continue;
            if (weighted) weights[kept] = weights[i];
            x[kept++] = x[i];
        }
        n = kept;
        std::memset(&bits, 0xff, sizeof bits);
    }
    m.count = usable;
    // Of those that weigh anything; the others are counted and no more.
    double low = INF, high = -INF;
    int last = -1;
    for (int i = 0; i < n; ++i) {
        if (!is_there(i)) continue;
        m.min = std::min(m.min, x[i]);
        m.max = std::max(m.max, x[i]);
        if (!weighs(i)) {
            bits.word[i / 64] &= ~(uint64_t{1} << (i % 64));
            --usable;
            continue;
        }
        last = i;
        low = std::min(low, x[i]);
        high = std::max(high, x[i]);
    }
    const auto finish = [&] {
        units.restore(m);
        if (!wide || m.count == 0) return m;
        units.base = {0, 0};
        m.min = units.restored(pair_of(lowest, is_unsigned));
        m.max = units.restored(pair_of(highest, is_unsigned));
        return m;
    };
    if (usable == 0) {
        if (fading) m.decay = context.table->power(n);
        return finish();
    }
    const double largest = std::max(-low, high);
    const bool plain = is_plain(largest);
    int exponent = 0;
    if (!plain) {
        (void)std::frexp(largest, &exponent);
        for (int i = 0; i <= last; ++i) x[i] = times_two_to(x[i], -exponent);
    }
    m.exponent = largest == 0 ? ZERO_EXPONENT : exponent;
    low = times_two_to(low, -exponent), high = times_two_to(high, -exponent);

    const int behind = n - 1 - last;
    n = last + 1;
    const uint8_t *there = usable < n ? bits.octets() : nullptr;
    RowWeights rows{fading ? context.table->weights(n) : nullptr, nullptr, 1};
    const auto count = static_cast<double>(usable);
    Weighed weighed{count, count * (count - 1) / 2, count, 1};
    if (weighted) {
        for (int i = 0; i < n; ++i) {
            if (!is_there(i)) weights[i] = 0;
            if (fading) weights[i] = flushed(weights[i] * rows.weights[i]);
        }
        std::fill_n(weights + n, 8, 0.0);
        rows.weights = weights;
        weighed = Totals(context.inner.weigh(weights, nullptr, n))
                      .with(fading ? context.table->power(n) : 1.0);
    } else if (fading) {
        weighed = there ? context.table->masked(bits.word, n) : context.table->dense(n);
    }
    double faded = 1;
    if (fading && behind > 0) {
        const double least = std::min(LEAST_WEIGHT / weighed.weight, 1.0);
        faded = std::max(context.table->power(behind), least);
    }
    m.weight = weighed.weight;
    Origin origin;
    origin.number = low <= 0 && high >= 0 ? 0.0 : x[last];
    if (low == high) {
        m.mean = {low, 0};
    } else {
        for (int attempt = 0; attempt < CENTRINGS; ++attempt) {
            ChunkSums sums;
            sums.clear(Type::float64);
            const SumPiece sum =
                rows.weights ? context.inner.sum[0] : context.inner.sum_exactly[0];
            PieceWeights known;
            sum(x, n, there, origin, rows, &sums.sums, &known);
            const Pair first = collapsed(sums.sums.first_hi, sums.sums.first_lo);
            const Pair second = collapsed(sums.sums.second_hi, sums.sums.second_lo);
            set_from_sums(m, {origin.number, 0}, first, second);
            const bool poor = rows.weights
                                  ? first.hi * first.hi > EXCESS * second.hi * m.weight
                                  : m.m2.hi < EXACT_REST * second.hi;
            const double better = std::min(std::max(m.mean.hi, low), high);
            if (!poor || better == origin.number) break;
            origin.number = better;
        }
    }
    m.weight = weighed.weight * faded;
    m.pairs = weighed.pairs * faded * faded;
    m.squares = weighed.squares * faded * faded;
    if (faded != 1) m.m2 = {m.m2.hi * faded, m.m2.lo * faded};
    m.decay = weighed.decay * faded;
    return finish();
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
