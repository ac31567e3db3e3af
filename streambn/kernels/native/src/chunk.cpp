#include "chunk.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "int256.hpp"

namespace streambn {

namespace {

constexpr int SAMPLE = 7;  // values looked at for a first centre
// Rows that fade and end with so little weight end with rows that weigh nothing. Piece by piece
// the weight stops falling; see merge.py.
constexpr double FADED = 0x1p-300;

// A piece of which some rows are missing, or behind such a one of its chunk: `there` is what
// those that are there weigh.
void weigh_piece(const Context &context, int64_t start, const Totals &there, ChunkSums &to) {
    if (!to.weighs) to.totals = context.totals_before(start);
    to.weighs = true;
    to.totals.follow(there);
}

}  // namespace

Pair collapsed(const double *hi, const double *lo) {
    // As a tree: each addition waits for the ones below it.
    const auto at = [&](int k) { return Pair{hi[k], lo[k]}; };
    return add(add(add(at(0), at(1)), add(at(2), at(3))), add(add(at(4), at(5)), add(at(6), at(7))));
}

void add_piece(const Context &context, const LaneReader &lane, const void *values, int64_t start,
               int n, int64_t rows_behind, ChunkSums &to) {
    if (to.outcome != Outcome::good) return;
    const int type = static_cast<int>(lane.type());
    PieceBits bits;
    int valid = n;
    if (lane.has_nulls()) {
        valid = lane.valid(start, n, bits);
        to.nulls += n - valid;
    }
    if (context.table && valid < n) {
        to.outcome = Outcome::careful;
        return;
    }
    const RowWeights rows = context.piece(start, n, rows_behind);
    const bool weighs = context.weighted() && !context.table;
    PieceWeights there{0, 0, 0};
    if (valid == 0) {
        if (weighs) weigh_piece(context, start, Totals(there), to);
        return;
    }
    const SumPiece sum = context.exact ? context.inner.sum_exactly[type] : context.inner.sum[type];
    Verdict verdict =
        sum(values, n, valid < n ? bits.octets() : nullptr, to.origin, rows, &to.sums, &there);
    if (verdict == Verdict::not_finite && !context.table) {
        if (valid == n) std::memset(&bits, 0xff, sizeof bits);
        const NotFinite before = to.not_finite;
        context.inner.find_finite[type](values, n, bits.octets(), &to.not_finite);
        valid -= static_cast<int>(to.not_finite.nans - before.nans + to.not_finite.pos_infs -
                                  before.pos_infs + to.not_finite.neg_infs - before.neg_infs);
        verdict = valid == 0 ? Verdict::taken
                             : sum(values, n, bits.octets(), to.origin, rows, &to.sums, &there);
    }
    if (weighs && valid < n)
        weigh_piece(context, start, Totals(there), to);
    else if (to.weighs)
        to.totals.follow(context.piece_totals(start));
    to.used += valid;
    if (verdict != Verdict::taken) to.outcome = Outcome::careful;
}

void sum_chunk(const Context &context, const LaneReader &lane, int64_t start, int64_t stop,
               ChunkSums &to) {
    alignas(64) uint8_t room[8 * PIECE];
    to.clear(lane.type());
    int n = context.first_piece(stop - start);
    for (int64_t at = start; at < stop; at += n, n = PIECE) {
        n = static_cast<int>(std::min<int64_t>(n, stop - at));
        add_piece(context, lane, lane.values(at, n, room), at, n, stop - at - n, to);
    }
}

bool conclude(const Context &context, const LaneReader &lane, int64_t start, int64_t stop,
              const Units &units, ChunkSums &sums, Moments &m) {
    const bool wide = is_wide(lane.type()), is_unsigned = lane.type() == Type::uint64;
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
    // Without a rounding on the way: what is exact must not be rounded twice.
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
    if (context.even()) {
        m.weight = m.squares = static_cast<double>(m.count);
        m.pairs = m.weight * (m.weight - 1) / 2;
    } else {
        const Weighed weighed =
            m.count == stop - start ? context.chunk(start, stop) : sums.totals.with(1);
        if (context.table && context.weighted() && !(weighed.weight >= FADED)) {
            sums.outcome = Outcome::careful;
            return true;
        }
        m.weight = weighed.weight, m.pairs = weighed.pairs, m.squares = weighed.squares;
        m.decay = weighed.decay;
    }
    if (low.hi == high.hi && low.lo == high.lo) {
        // A constant: whatever the centre was, the differences it left are rounding.
        m.mean = low;
        return finish();
    }
    const Pair first = collapsed(sums.sums.first_hi, sums.sums.first_lo);
    const Pair second = collapsed(sums.sums.second_hi, sums.sums.second_lo);
    set_from_sums(m, centre, first, second);
    const bool poor = context.exact ? m.m2.hi < EXACT_REST * second.hi
                                    : first.hi * first.hi > EXCESS * second.hi * m.weight;
    if (!poor) return finish();
    const double by = first.hi / m.weight;
    if (wide) {
        // Amid the values, of which missing ones will be taken to be one; the sum may overflow.
        // No two of them are 2**65 apart; it is no number where the weights are none.
        const double step = std::min(std::max(-0x1p65, std::rint(by)), 0x1p65);
        const __int128 there = __int128{sums.origin.integer} + static_cast<__int128>(step);
        const auto origin =
            static_cast<int64_t>(std::min<__int128>(std::max<__int128>(there, lowest), highest));
        if (origin == sums.origin.integer) return finish();
        sums.origin.integer = origin;
    } else {
        const double origin = std::min(std::max(m.mean.hi, m.min), m.max);
        if (origin == sums.origin.number) return finish();
        sums.origin.number = origin;
    }
    return false;
}

Origin first_origin(const Context &context, const LaneReader &lane, int64_t start, int64_t stop) {
    alignas(64) uint8_t room[8 * PIECE];
    PieceBits bits;
    Origin origin;
    const bool wide = is_wide(lane.type());
    if (context.exact && !wide) {
        // There is no rounding in x - 0, and an exact sum stands as far from its mean as
        // 2**15 standard deviations; beyond, it is taken again.
        origin.number = 0;
        return origin;
    }
    double sample[SAMPLE];
    int64_t integers[SAMPLE];
    int found = 0;
    for (int64_t at = start; at < stop && !found; at += 64) {
        const int n = static_cast<int>(std::min<int64_t>(64, stop - at));
        if (!lane.has_nulls())
            std::memset(&bits, 0xff, sizeof bits);
        else if (lane.valid(at, n, bits) == 0)
            continue;
        const void *values = lane.values(at, n, room);
        if (wide) {
            const uint64_t flip = lane.type() == Type::uint64 ? uint64_t{1} << 63 : 0;
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
        // The first few are enough, unless they are missing.
        const auto type = static_cast<size_t>(lane.type());
        const int size = size_of(lane.type());
        for (int from = 0; from < n && found < SAMPLE; from += 8) {
            const int m = std::min(8, n - from);
            const uint8_t *octets = static_cast<const uint8_t *>(values);
            context.inner.widen[type](octets + from * size, m, origin, x);
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
