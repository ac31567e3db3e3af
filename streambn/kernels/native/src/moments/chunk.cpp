#include "moments/chunk.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "arrow/int256.hpp"

namespace streambn {

namespace {

constexpr int SAMPLE = 7;  // the number of values that determine the first centre
// A chunk of weighted, fading rows with less weight than this ends with rows of weight 0. Such a
// chunk is summed piece by piece, because `merge` keeps the weight from falling too far.
constexpr double FADED = 0x1p-300;

// Appends the weights of the valid rows of a piece. From the first piece with a missing row on,
// each feature sums its own totals of the chunk.
void append_weights(const RowWeighting &rows, int64_t start, const RunningWeights &valid, ChunkSums &to) {
    if (!to.weighs) to.totals = rows.totals_before(start);
    to.weighs = true;
    to.totals.append(valid);
}

}  // namespace

Pair collapsed(const double *hi, const double *lo) {
    // Add in a tree, which shortens the chain of additions that wait for each other.
    const auto at = [&](int k) { return Pair{hi[k], lo[k]}; };
    return add(add(add(at(0), at(1)), add(at(2), at(3))), add(add(at(4), at(5)), add(at(6), at(7))));
}

void add_piece(const RowWeighting &rows, const FeatureReader &reader, const void *values, int64_t start,
               int n, int64_t behind, ChunkSums &to) {
    if (to.outcome != Outcome::good) return;
    const int type = static_cast<int>(reader.type());
    PieceBits bits;
    int valid = n;
    if (reader.has_nulls()) {
        valid = reader.valid(start, n, bits);
        to.nulls += n - valid;
    }
    if (rows.table && valid < n) {
        to.outcome = Outcome::careful;
        return;
    }
    const RowWeights weights = rows.piece(start, n, behind);
    const bool weighs = rows.weighted() && !rows.table;
    PieceWeights valid_weights{0, 0, 0};
    if (valid == 0) {
        if (weighs) append_weights(rows, start, RunningWeights(valid_weights), to);
        return;
    }
    const SumPiece sum = rows.precise ? rows.inner.sum_precisely[type] : rows.inner.sum[type];
    Verdict verdict =
        sum(values, n, valid < n ? bits.octets() : nullptr, to.origin, weights, &to.sums, &valid_weights);
    if (verdict == Verdict::not_finite && !rows.table) {
        if (valid == n) bits.set_all();
        const NotFinite before = to.not_finite;
        rows.inner.find_finite[type](values, n, bits.octets(), &to.not_finite);
        valid -= static_cast<int>(to.not_finite.nans - before.nans + to.not_finite.pos_infs -
                                  before.pos_infs + to.not_finite.neg_infs - before.neg_infs);
        verdict = valid == 0 ? Verdict::taken
                             : sum(values, n, bits.octets(), to.origin, weights, &to.sums, &valid_weights);
    }
    if (weighs && valid < n)
        append_weights(rows, start, RunningWeights(valid_weights), to);
    else if (to.weighs)
        to.totals.append(rows.piece_totals(start));
    to.used += valid;
    if (verdict != Verdict::taken) to.outcome = Outcome::careful;
}

void sum_chunk(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop,
               ChunkSums &to) {
    alignas(64) uint8_t buffer[8 * PIECE];
    to.clear(reader.type());
    int n = rows.first_piece(stop - start);
    for (int64_t at = start; at < stop; at += n, n = PIECE) {
        n = static_cast<int>(std::min<int64_t>(n, stop - at));
        add_piece(rows, reader, reader.values(at, n, buffer), at, n, stop - at - n, to);
    }
}

bool conclude(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop,
              const Units &units, ChunkSums &sums, Moments &m) {
    const bool wide = is_wide(reader.type()), is_unsigned = reader.type() == Type::uint64;
    m = Moments{};
    m.count = sums.used;
    m.nulls = sums.nulls;
    m.nans = sums.not_finite.nans;
    m.pos_infs = sums.not_finite.pos_infs;
    m.neg_infs = sums.not_finite.neg_infs;
    if (m.count == 0) return true;

    Pair low, high, centre;
    int64_t lowest = 0, highest = 0;
    if (wide) {
        lowest = *std::min_element(sums.sums.low_integer, sums.sums.low_integer + 8);
        highest = *std::max_element(sums.sums.high_integer, sums.sums.high_integer + 8);
        int64_t distance;
        if (__builtin_sub_overflow(lowest, sums.origin.integer, &distance) ||
            __builtin_sub_overflow(highest, sums.origin.integer, &distance)) {
            sums.outcome = Outcome::careful;
            return true;
        }
        low = pair_of(lowest, is_unsigned), high = pair_of(highest, is_unsigned);
        centre = pair_of(sums.origin.integer, is_unsigned);
    } else {
        low = {*std::min_element(sums.sums.low, sums.sums.low + 8), 0};
        high = {*std::max_element(sums.sums.high, sums.sums.high + 8), 0};
        centre = {sums.origin.number, 0};
    }
    m.min = low.hi, m.max = high.hi;
    const double largest = std::max(-m.min, m.max);
    // Restore the extremes of 64-bit integers from both halves, so that they are rounded only once.
    const auto finish = [&] {
        units.restore(m);
        if (wide) m.min = units.restored(low), m.max = units.restored(high);
        return true;
    };
    if (!is_plain(largest)) {
        sums.outcome = Outcome::careful;
        return true;
    }
    m.exponent = largest == 0 ? ZERO_EXPONENT : 0;
    if (rows.even()) {
        m.weight = m.squares = static_cast<double>(m.count);
        m.pairs = m.weight * (m.weight - 1) / 2;
    } else {
        const WeightTotals totals =
            m.count == stop - start ? rows.chunk(start, stop) : sums.totals.totals(1);
        if (rows.table && rows.weighted() && !(totals.weight >= FADED)) {
            sums.outcome = Outcome::careful;
            return true;
        }
        m.weight = totals.weight, m.pairs = totals.pairs, m.squares = totals.squares;
        m.decay = totals.decay;
    }
    if (low.hi == high.hi && low.lo == high.lo) {
        // The feature is constant. Any spread in its sums is a rounding error.
        m.mean = low;
        return finish();
    }
    const Pair first = collapsed(sums.sums.first_hi, sums.sums.first_lo);
    const Pair second = collapsed(sums.sums.second_hi, sums.sums.second_lo);
    set_from_sums(m, centre, first, second);
    const bool poor = rows.precise ? m.m2.hi < PRECISE_REST * second.hi
                                    : first.hi * first.hi > EXCESS * second.hi * m.weight;
    if (!poor) return finish();
    const double by = first.hi / m.weight;
    if (wide) {
        // The new centre must lie among the values, because it replaces missing values. No two
        // values are 2**65 apart. `by` is NaN if all weights are 0.
        const double step = std::min(std::max(-0x1p65, std::rint(by)), 0x1p65);
        const __int128 moved = __int128{sums.origin.integer} + static_cast<__int128>(step);
        const auto origin =
            static_cast<int64_t>(std::min<__int128>(std::max<__int128>(moved, lowest), highest));
        if (origin == sums.origin.integer) return finish();
        sums.origin.integer = origin;
    } else {
        const double origin = std::min(std::max(m.mean.hi, m.min), m.max);
        if (origin == sums.origin.number) return finish();
        sums.origin.number = origin;
    }
    return false;
}

Origin first_origin(const RowWeighting &rows, const FeatureReader &reader, int64_t start, int64_t stop) {
    alignas(64) uint8_t buffer[8 * PIECE];
    PieceBits bits;
    Origin origin;
    const bool wide = is_wide(reader.type());
    if (rows.precise && !wide) {
        // The differences x - 0 are exact. The centre of a precise sum may be 2**15 standard
        // deviations from the mean. Beyond that, the chunk is summed again about a better centre.
        origin.number = 0;
        return origin;
    }
    double sample[SAMPLE];
    int64_t integers[SAMPLE];
    int found = 0;
    for (int64_t at = start; at < stop && !found; at += 64) {
        const int n = static_cast<int>(std::min<int64_t>(64, stop - at));
        if (!reader.has_nulls())
            bits.set_all();
        else if (reader.valid(at, n, bits) == 0)
            continue;
        const void *values = reader.values(at, n, buffer);
        if (wide) {
            const uint64_t flip = reader.type() == Type::uint64 ? uint64_t{1} << 63 : 0;
            for (int i = 0; i < n && found < SAMPLE; ++i) {
                if (!(bits.word[0] >> i & 1)) continue;
                uint64_t value;
                std::memcpy(&value, static_cast<const uint8_t *>(values) + 8 * i, 8);
                integers[found++] = static_cast<int64_t>(value ^ flip);
            }
            continue;
        }
        alignas(64) double x[8];
        origin.number = 0;
        // Convert eight values at a time, because the first eight usually give the whole sample.
        const auto type = static_cast<size_t>(reader.type());
        const int size = size_of(reader.type());
        for (int from = 0; from < n && found < SAMPLE; from += 8) {
            const int m = std::min(8, n - from);
            const uint8_t *octets = static_cast<const uint8_t *>(values);
            rows.inner.widen[type](octets + from * size, m, origin, x);
            for (int i = 0; i < m && found < SAMPLE; ++i)
                if ((bits.word[0] >> (from + i) & 1) && std::isfinite(x[i])) sample[found++] = x[i];
        }
    }
    if (wide) {
        std::sort(integers, integers + found);
        origin.integer = found ? integers[found / 2] : 0;
        return origin;
    }
    std::sort(sample, sample + found);
    const bool surrounds_zero = found && sample[0] <= 0 && sample[found - 1] >= 0;
    origin.number = !found || surrounds_zero ? 0.0 : sample[found / 2];
    return origin;
}

}  // namespace streambn
