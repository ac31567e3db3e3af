#include "moments/careful.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "arrow/int256.hpp"

namespace streambn {

namespace {

// Returns the moments of one piece of arbitrary values. The piece has its own centre and units, and
// its weights are as of its last usable value. `_general_block` in
// streambn/kernels/reference/blocks.py does the same.
Moments careful_piece(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int n,
                      Units units) {
    alignas(64) uint8_t buffer[8 * PIECE];
    alignas(64) double x[PIECE + 8], weights[PIECE + 8];
    PieceBits bits;
    Moments m;
    const void *values = reader.values(start, n, buffer);
    int usable = n;
    if (reader.has_nulls())
        usable = reader.valid(start, n, bits);
    else
        bits.set_all();
    m.nulls = n - usable;
    if (is_float(reader.type())) {
        NotFinite found{0, 0, 0};
        rows.inner.find_finite[static_cast<int>(reader.type())](values, n, bits.octets(), &found);
        m.nans = found.nans, m.pos_infs = found.pos_infs, m.neg_infs = found.neg_infs;
        usable -= static_cast<int>(found.nans + found.pos_infs + found.neg_infs);
    }
    const bool fading = rows.table != nullptr, weighted = rows.weighted();
    if (weighted) std::memcpy(weights, rows.weighting.weights + start, n * sizeof(double));
    // A subnormal weight or a NaN counts as 0.
    const auto weighs = [&](int i) { return !weighted || weights[i] >= 0x1p-1022; };
    const bool wide = is_wide(reader.type()), is_unsigned = reader.type() == Type::uint64;
    int64_t lowest = INT64_MAX, highest = INT64_MIN;
    if (wide) {
        int64_t whole[PIECE], base = 0;
        for (int i = 0; i < n; ++i) {
            std::memcpy(&whole[i], static_cast<const uint8_t *>(values) + 8 * i, 8);
            if (is_unsigned) whole[i] ^= INT64_MIN;
            if (!bits.at(i)) continue;
            // The last value becomes the base, because it weighs most. Only values far from the
            // base lose digits.
            if (weighs(i)) base = whole[i];
            lowest = std::min(lowest, whole[i]);
            highest = std::max(highest, whole[i]);
        }
        for (int i = 0; i < n; ++i) x[i] = static_cast<double>(__int128{whole[i]} - base);
        units.base = pair_of(base, is_unsigned);
    } else {
        Origin zero;
        zero.number = 0;
        rows.inner.widen[static_cast<int>(reader.type())](values, n, zero, x);
    }
    if (fading && rows.weighting.ignore_missing && usable < n) {
        int kept = 0;
        for (int i = 0; i < n; ++i) {
            if (!bits.at(i)) continue;
            if (weighted) weights[kept] = weights[i];
            x[kept++] = x[i];
        }
        n = kept;
        bits.set_all();
    }
    m.count = usable;
    // `low` and `high` are the extremes of the values with a weight. Other values enter only the
    // counts and the extremes `m.min` and `m.max`.
    double low = INF, high = -INF;
    int last = -1;
    for (int i = 0; i < n; ++i) {
        if (!bits.at(i)) continue;
        m.min = std::min(m.min, x[i]);
        m.max = std::max(m.max, x[i]);
        if (!weighs(i)) {
            bits.clear(i);
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
        if (fading) m.decay = rows.table->power(n);
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
    const uint8_t *valid = usable < n ? bits.octets() : nullptr;
    RowWeights row_weights{fading ? rows.table->weights(n) : nullptr, nullptr, 1};
    const auto count = static_cast<double>(usable);
    WeightTotals totals{count, count * (count - 1) / 2, count, 1};
    if (weighted) {
        for (int i = 0; i < n; ++i) {
            if (!bits.at(i)) weights[i] = 0;
            if (fading) weights[i] = without_subnormals(weights[i] * row_weights.weights[i]);
        }
        std::fill_n(weights + n, 8, 0.0);
        row_weights.weights = weights;
        totals = RunningWeights(rows.inner.weigh(weights, nullptr, n))
                     .totals(fading ? rows.table->power(n) : 1.0);
    } else if (fading) {
        totals = valid ? rows.table->masked(bits.word, n) : rows.table->dense(n);
    }
    double faded = 1;
    if (fading && behind > 0) {
        const double least = std::min(LEAST_WEIGHT / totals.weight, 1.0);
        faded = std::max(rows.table->power(behind), least);
    }
    m.weight = totals.weight;
    Origin origin;
    origin.number = low <= 0 && high >= 0 ? 0.0 : x[last];
    if (low == high) {
        m.mean = {low, 0};
    } else {
        for (int attempt = 0; attempt < CENTRINGS; ++attempt) {
            ChunkSums sums;
            sums.clear(Type::float64);
            const SumPiece sum =
                row_weights.weights ? rows.inner.sum[0] : rows.inner.sum_precisely[0];
            PieceWeights ignored;
            sum(x, n, valid, origin, row_weights, &sums.sums, &ignored);
            const Pair first = collapsed(sums.sums.first_hi, sums.sums.first_lo);
            const Pair second = collapsed(sums.sums.second_hi, sums.sums.second_lo);
            set_from_sums(m, {origin.number, 0}, first, second);
            const bool poor = row_weights.weights
                                  ? first.hi * first.hi > EXCESS * second.hi * m.weight
                                  : m.m2.hi < PRECISE_REST * second.hi;
            const double better = std::min(std::max(m.mean.hi, low), high);
            if (!poor || better == origin.number) break;
            origin.number = better;
        }
    }
    m.weight = totals.weight * faded;
    m.pairs = totals.pairs * faded * faded;
    m.squares = totals.squares * faded * faded;
    if (faded != 1) m.m2 = {m.m2.hi * faded, m.m2.lo * faded};
    m.decay = totals.decay * faded;
    return finish();
}

}  // namespace

Moments careful_chunk(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop,
                      const Units &units) {
    Moments m;
    for (int64_t at = start; at < stop; at += PIECE)
        m = merge(m, careful_piece(rows, reader, at,
                                   static_cast<int>(std::min<int64_t>(PIECE, stop - at)), units));
    return m;
}

}  // namespace streambn
