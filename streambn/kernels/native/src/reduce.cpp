#include "reduce.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "decay.hpp"
#include "int256.hpp"
#include "kernels.hpp"
#include "lanes.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

// A sum of squares about a centre c exceeds the one about the mean by n(c - mean)². Up to 3/4
// of it may go in the subtraction, which costs 2 bits; beyond, the chunk is centred anew. An
// exact sum has 40 bits to spare.
constexpr double EXCESS = 0.75, EXACT_REST = 0x1p-30;
constexpr int CENTRINGS = 4;
constexpr int SAMPLE = 7;  // values looked at for a first centre

// What is the same for all lanes of a call.
struct Context {
    const Kernels &inner = kernels();
    Weighing weighing;
    bool exact;
    std::shared_ptr<const DecayTable> table;  // null: all rows weigh 1
    Weighed whole_chunk{}, last_chunk{};

    Context(Weighing w, int64_t rows) : weighing(w), exact(w.decay == 1 && rows <= SHORT) {
        if (w.decay == 1) return;
        table = DecayTable::of(w.decay);
        if (rows >= CHUNK) whole_chunk = table->dense(CHUNK);
        last_chunk = table->dense(rows % CHUNK);
    }
    Weighed dense(int64_t rows) const { return rows == CHUNK ? whole_chunk : last_chunk; }
};

// How a chunk came out.
enum class Outcome : uint8_t {
    good,
    careful,  // it has to be taken piece by piece
};

// The sums of one lane over one chunk.
struct ChunkSums {
    Sums sums;
    Origin origin;
    int64_t used, nulls;
    NotFinite not_finite;
    Outcome outcome;

    void clear(Type type) {
        std::memset(&sums, 0, sizeof sums);
        for (int k = 0; k < 8; ++k) {
            if (is_wide(type))
                sums.low_integer[k] = INT64_MAX, sums.high_integer[k] = INT64_MIN;
            else
                sums.low[k] = INF, sums.high[k] = -INF;
        }
        used = nulls = 0;
        not_finite = {0, 0, 0};
        outcome = Outcome::good;
    }
};

Pair collapsed(const double *hi, const double *lo) {
    // As a tree: each addition waits for the ones below it.
    const auto at = [&](int k) { return Pair{hi[k], lo[k]}; };
    return add(add(add(at(0), at(1)), add(at(2), at(3))), add(add(at(4), at(5)), add(at(6), at(7))));
}

// The bounds of the pieces of a chunk. Where rows fade, the first piece is the short one: the
// others then have whole pieces behind them.
int first_piece(const Context &context, int64_t rows) {
    const int64_t odd = rows % PIECE;
    if (!context.table || odd == 0) return static_cast<int>(std::min<int64_t>(rows, PIECE));
    return static_cast<int>(odd);
}

// Add one piece of a lane.
void add_piece(const Context &context, const LaneReader &lane, const void *values, int64_t start,
               int n, int64_t rows_behind, ChunkSums &to) {
    if (to.outcome != Outcome::good) return;
    const int type = static_cast<int>(lane.type());
    PieceBits bits;
    int valid = n;
    if (lane.has_nulls()) {
        valid = lane.valid(start, n, bits);
        to.nulls += n - valid;
        if (valid == 0 && !context.table) return;
    }
    const double *weights = nullptr;
    double factor = 1;
    if (context.table) {
        if (valid < n) {
            to.outcome = Outcome::careful;
            return;
        }
        weights = context.table->weights(n);
        factor = context.table->piece_factor(rows_behind / PIECE);
    }
    const SumPiece sum = context.exact ? context.inner.sum_exactly[type] : context.inner.sum[type];
    Verdict verdict =
        sum(values, n, valid < n ? bits.octets() : nullptr, to.origin, weights, factor, &to.sums);
    if (verdict == Verdict::not_finite && !context.table) {
        if (valid == n) std::memset(&bits, 0xff, sizeof bits);
        const NotFinite before = to.not_finite;
        context.inner.find_finite[type](values, n, bits.octets(), &to.not_finite);
        valid -= static_cast<int>(to.not_finite.nans - before.nans + to.not_finite.pos_infs -
                                  before.pos_infs + to.not_finite.neg_infs - before.neg_infs);
        verdict = valid == 0 ? Verdict::taken
                             : sum(values, n, bits.octets(), to.origin, weights, factor, &to.sums);
    }
    to.used += valid;
    if (verdict != Verdict::taken) to.outcome = Outcome::careful;
}

// Sum a chunk of one lane.
void sum_chunk(const Context &context, const LaneReader &lane, int64_t start, int64_t stop,
               ChunkSums &to) {
    alignas(64) uint8_t room[8 * PIECE];
    to.clear(lane.type());
    int n = first_piece(context, stop - start);
    for (int64_t at = start; at < stop; at += n, n = PIECE) {
        n = static_cast<int>(std::min<int64_t>(n, stop - at));
        add_piece(context, lane, lane.values(at, n, room), at, n, stop - at - n, to);
    }
}

// The units in which a lane is read: the true value is (base + x) / ten.
struct Units {
    Pair base, ten;
    bool decimal;

    double restored(Pair x) const {
        const Pair whole = add(base, x);
        return decimal ? divide(whole, ten).hi : whole.hi;
    }
    // Puts moments of x into the data's units.
    void restore(Moments &m) const {
        if (m.count == 0 || (!decimal && base.hi == 0)) return;
        m.min = restored({m.min, 0});
        m.max = restored({m.max, 0});
        m.mean = add(base, m.mean);
        if (decimal) {
            m.mean = divide(m.mean, ten);
            m.m2 = divide(divide(m.m2, ten), ten);
        }
        m.exponent = m.min == 0 && m.max == 0 ? ZERO_EXPONENT : 0;
    }
};

// Mean and squares from a chunk's sums; false: they are to be summed around `to.origin` anew.
bool conclude(const Context &context, const LaneReader &lane, int64_t rows, const Units &units,
              ChunkSums &sums, Moments &m) {
    const bool wide = is_wide(lane.type()), is_unsigned = lane.type() == Type::uint64;
    m = Moments{};
    m.count = sums.used;
    m.nulls = sums.nulls;
    m.nans = sums.not_finite.nans;
    m.pos_infs = sums.not_finite.pos_infs;
    m.neg_infs = sums.not_finite.neg_infs;
    if (m.count == 0) return true;

    Pair low, high, centre;
    if (wide) {
        const int64_t lowest = *std::min_element(sums.sums.low_integer, sums.sums.low_integer + 8);
        const int64_t highest = *std::max_element(sums.sums.high_integer, sums.sums.high_integer + 8);
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
    if (context.table) {
        const Weighed weighed = context.dense(rows);
        m.weight = weighed.weight, m.pairs = weighed.pairs, m.decay = weighed.decay;
    } else {
        m.weight = static_cast<double>(m.count);
        m.pairs = m.weight * (m.weight - 1) / 2;
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
        // The mean lies amid the values, so the sum does not overflow but by its rounding.
        int64_t origin;
        if (std::fabs(by) >= 0x1p62 ||
            __builtin_add_overflow(sums.origin.integer, std::llrint(by), &origin) ||
            origin == sums.origin.integer)
            return finish();
        sums.origin.integer = origin;
    } else {
        const double origin = std::min(std::max(m.mean.hi, m.min), m.max);
        if (origin == sums.origin.number) return finish();
        sums.origin.number = origin;
    }
    return false;
}

// ------------------------------------------------------------------- piece by piece

// Moments of one piece with whatever in it: each has its own centre, its own units, and its
// weights as of its last usable value, as in the reference's `_careful_block`.
Moments careful_piece(const Context &context, const LaneReader &lane, int64_t start, int n,
                      int64_t base) {
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
    if (is_wide(lane.type())) {
        const int64_t flip = lane.type() == Type::uint64 ? INT64_MIN : 0;
        for (int i = 0; i < n; ++i) {
            int64_t value;
            std::memcpy(&value, static_cast<const uint8_t *>(values) + 8 * i, 8);
            x[i] = static_cast<double>(static_cast<__int128>(value ^ flip) - base);
        }
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
    return m;
}

Moments careful_chunk(const Context &context, const LaneReader &lane, int64_t start, int64_t stop,
                      Units units, Origin origin) {
    int64_t base = 0;
    if (is_wide(lane.type())) {
        base = origin.integer;
        units.base = pair_of(base, lane.type() == Type::uint64);
    }
    Moments m;
    for (int64_t at = start; at < stop; at += PIECE)
        m = merge(m, careful_piece(context, lane, at,
                                   static_cast<int>(std::min<int64_t>(PIECE, stop - at)), base));
    units.restore(m);
    return m;
}

// ------------------------------------------------------------------------ first centres

// A value amid the first that there are: their median, or 0 if they lie on both sides of it.
// A median, because one outlier in front must not set the centre of what comes behind.
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

// --------------------------------------------------------------------------- the ranges

// Adjacent lanes of one column over one range of rows.
struct Task {
    const Leaf *leaf;
    int64_t first_lane, lanes;   // of the column
    int64_t start, stop;
    Moments *out;                // of `lanes`
};

// A lane while its range is reduced.
struct LaneState {
    LaneReader reader;
    Units units;
    ChunkSums sums;  // not cleared here: `sum_chunk` does

    LaneState(const Context &context, const Leaf &leaf, int64_t lane, Pair ten, int64_t start,
              int64_t stop)
        : reader(leaf, lane, start, stop), units{reader.base(), ten, leaf.decimal_scale != 0} {
        sums.origin = first_origin(context, reader, start, stop);
    }
};

// What a thread needs for a task, kept for the next.
struct Scratch {
    std::vector<LaneState> lanes;
    std::vector<uint8_t> room;
};

// Moments of one lane's chunk from its sums, which are taken again where they are poor.
Moments chunk_moments(const Context &context, LaneState &lane, int64_t start, int64_t stop) {
    Moments m;
    for (int attempt = 1; lane.sums.outcome == Outcome::good; ++attempt) {
        if (conclude(context, lane.reader, stop - start, lane.units, lane.sums, m)) break;
        if (attempt == CENTRINGS)
            lane.sums.outcome = Outcome::careful;
        else
            sum_chunk(context, lane.reader, start, stop, lane.sums);
    }
    if (lane.sums.outcome == Outcome::careful)
        m = careful_chunk(context, lane.reader, start, stop, lane.units, lane.sums.origin);
    return m;
}

void reduce_nulls(const Context &context, const Task &task) {
    for (int64_t k = 0; k < task.lanes; ++k) {
        Moments &m = task.out[k];
        m.nulls = task.stop - task.start;
        if (context.table && !context.weighing.ignore_missing)
            m.decay = context.table->power(task.stop - task.start);
    }
}

void reduce_range(const Context &context, const Task &task, Scratch &scratch) {
    const Leaf &leaf = *task.leaf;
    if (leaf.type == Type::null) return reduce_nulls(context, task);
    const Pair ten = power_of_ten(leaf.decimal_scale);
    std::vector<LaneState> &lanes = scratch.lanes;
    lanes.clear();
    lanes.reserve(static_cast<size_t>(task.lanes));
    for (int64_t k = 0; k < task.lanes; ++k)
        lanes.emplace_back(context, leaf, task.first_lane + k, ten, task.start, task.stop);
    scratch.room.resize(task.lanes > 1 ? static_cast<size_t>(task.lanes * LANE_STRIDE) : 0);
    for (int64_t start = task.start; start < task.stop; start += CHUNK) {
        const int64_t stop = std::min(start + CHUNK, task.stop);
        if (lanes.size() == 1) {
            sum_chunk(context, lanes[0].reader, start, stop, lanes[0].sums);
        } else {
            for (LaneState &lane : lanes) lane.sums.clear(lane.reader.type());
            int n = first_piece(context, stop - start);
            for (int64_t at = start; at < stop; at += n, n = PIECE) {
                n = static_cast<int>(std::min<int64_t>(n, stop - at));
                gather_lanes(leaf, task.first_lane, static_cast<int>(lanes.size()), at, n,
                             scratch.room.data());
                for (size_t k = 0; k < lanes.size(); ++k)
                    add_piece(context, lanes[k].reader, scratch.room.data() + static_cast<int64_t>(k) * LANE_STRIDE, at, n,
                              stop - at - n, lanes[k].sums);
            }
        }
        for (size_t k = 0; k < lanes.size(); ++k) {
            const Moments m = chunk_moments(context, lanes[k], start, stop);
            // Amid this chunk's values is where the next one's are looked for.
            if (m.count > 0 && m.exponent == 0 && is_float(leaf.type))
                lanes[k].sums.origin.number = std::min(std::max(m.mean.hi, m.min), m.max);
            task.out[k] = start == task.start ? m : merge(task.out[k], m);
        }
    }
}

}  // namespace

std::vector<Moments> block_moments(const std::vector<Leaf> &leaves, Weighing weighing, int threads) {
    int64_t lanes = 0, bytes = 0;
    for (const Leaf &leaf : leaves) {
        lanes += leaf.width;
        bytes += leaf.rows * leaf.width * size_of(leaf.type);
    }
    const int64_t rows = leaves.empty() ? 0 : leaves.front().rows;
    if (rows == 0) return std::vector<Moments>(static_cast<size_t>(lanes));
    const Context context(weighing, rows);
    const int64_t ranges = (rows + RANGE - 1) / RANGE;
    std::vector<Moments> results(static_cast<size_t>(lanes * ranges));
    std::vector<Task> tasks;
    for (int64_t range = 0; range < ranges; ++range) {
        Moments *out = results.data() + range * lanes;
        for (const Leaf &leaf : leaves) {
            const int64_t together = lanes_together(leaf);
            for (int64_t lane = 0; lane < leaf.width; lane += together) {
                tasks.push_back({&leaf, lane, std::min(together, leaf.width - lane), range * RANGE,
                                 std::min(rows, (range + 1) * RANGE), out + lane});
            }
            out += leaf.width;
        }
    }
    run_tasks<Scratch>(static_cast<int64_t>(tasks.size()), bytes, threads,
                       [&](int64_t i, Scratch &scratch) {
                           reduce_range(context, tasks[static_cast<size_t>(i)], scratch);
                       });
    for (int64_t range = 1; range < ranges; ++range)
        for (int64_t lane = 0; lane < lanes; ++lane) {
            Moments &m = results[static_cast<size_t>(lane)];
            m = merge(m, results[static_cast<size_t>(range * lanes + lane)]);
        }
    results.resize(static_cast<size_t>(lanes));
    return results;
}

}  // namespace streambn
