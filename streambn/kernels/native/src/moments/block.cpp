#include "moments/block.hpp"

#include <algorithm>
#include <cstddef>

#include "arrow/int256.hpp"
#include "arrow/reader.hpp"
#include "moments/careful.hpp"
#include "moments/chunk.hpp"
#include "moments/row_weights.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

using MomentsTask = RangeTask<Moments>;

// The state of a feature while its range is reduced.
struct FeatureState {
    FeatureReader reader;
    Units units;
    ChunkSums sums;  // `sum_chunk` clears them

    FeatureState(const RowWeighting &rows, const Column &column, int64_t feature, Pair ten,
                 int64_t start, int64_t stop)
        : reader(column, feature, start, stop), units{reader.base(), ten, column.decimal_scale != 0} {
        sums.origin = first_origin(rows, reader, start, stop);
    }
};

// Memory that a thread reuses for its next task.
struct MomentsScratch {
    std::vector<FeatureState> features;
    PieceBuffer buffer;
};

// Restores the extremes of large decimals, whose differences from the base may have lost their low
// digits in float64.
void restore_extremes(const Column &column, const FeatureReader &reader, int64_t start, int64_t stop,
                      const Units &units, Moments &m) {
    if (size_of(column.type) <= 8 || m.count == 0) return;
    const double base = units.base.hi / units.ten.hi;
    if (std::max(m.max - base, base - m.min) * units.ten.hi < 0x1p52) return;
    Int256 low, high;
    reader.extremes(start, stop, low, high);
    const Units plain{{0, 0}, units.ten, units.decimal};
    m.min = plain.restored(low.pair());
    m.max = plain.restored(high.pair());
}

// Returns the moments of a feature's chunk from its sums. Sums the chunk again if the centre was
// poor.
Moments chunk_moments(const RowWeighting &rows, FeatureState &feature, int64_t start, int64_t stop) {
    Moments m;
    for (int attempt = 1; feature.sums.outcome == Outcome::good; ++attempt) {
        if (conclude(rows, feature.reader, start, stop, feature.units, feature.sums, m)) break;
        if (attempt == CENTRINGS)
            feature.sums.outcome = Outcome::careful;
        else
            sum_chunk(rows, feature.reader, start, stop, feature.sums);
    }
    if (feature.sums.outcome == Outcome::careful)
        m = careful_chunk(rows, feature.reader, start, stop, feature.units);
    // A segment without weight has no mean. Apart from its counts, it is the identity of `merge`.
    if (m.weight == 0) m.mean = m.m2 = {0, 0}, m.exponent = ZERO_EXPONENT;
    return m;
}

void reduce_nulls(const RowWeighting &rows, const MomentsTask &task) {
    for (int64_t k = 0; k < task.features; ++k) {
        Moments &m = task.out[k];
        m.nulls = task.stop - task.start;
        if (rows.table && !rows.weighting.ignore_missing)
            m.decay = rows.table->power(task.stop - task.start);
    }
}

// Asks for some rows before they are needed. To ask for each cache line once, where rows share one,
// is faster than memory: requests are dropped, and a matrix of 80 MB takes 16 ms instead of 5.4.
void prefetch_rows(const Column &column, const MomentsTask &task, int64_t start, int64_t stop) {
    const int64_t octets = task.features * size_of(column.type);
    for (int64_t row = start; row < stop; ++row)
        for (int64_t octet = 0; octet < octets; octet += 64)
            __builtin_prefetch(column.at(row, task.first_feature) + octet, 0, 2);
}

// Reduces one range of rows. If `weigh` is true, sums the weights of each chunk first.
void reduce_range(RowWeighting &rows, const MomentsTask &task, bool weigh, MomentsScratch &scratch) {
    const Column &column = *task.column;
    if (column.type == Type::null) return reduce_nulls(rows, task);
    const Pair ten = power_of_ten(column.decimal_scale);
    std::vector<FeatureState> &features = scratch.features;
    features.clear();
    features.reserve(static_cast<size_t>(task.features));
    for (int64_t k = 0; k < task.features; ++k)
        features.emplace_back(rows, column, task.first_feature + k, ten, task.start, task.stop);
    uint8_t *const buffer = task.features > 1 ? scratch.buffer.of(task.features) : nullptr;
    for (int64_t start = task.start; start < task.stop; start += CHUNK) {
        const int64_t stop = std::min(start + CHUNK, task.stop);
        if (weigh) rows.weigh(start, stop);
        if (features.size() == 1) {
            sum_chunk(rows, features[0].reader, start, stop, features[0].sums);
        } else {
            for (FeatureState &feature : features) feature.sums.clear(feature.reader.type());
            int n = rows.first_piece(stop - start);
            for (int64_t at = start; at < stop; at += n, n = PIECE) {
                n = static_cast<int>(std::min<int64_t>(n, stop - at));
                gather_features(column, task.first_feature, static_cast<int>(features.size()), at, n, buffer);
                const uint8_t *values = buffer;
                // The next piece arrives from memory while this one is summed.
                const int64_t share = PIECE / task.features + 1;
                int64_t ahead = at + n;
                for (FeatureState &feature : features) {
                    prefetch_rows(column, task, ahead, std::min(ahead + share, stop));
                    ahead += share;
                    add_piece(rows, feature.reader, values, at, n, stop - at - n, feature.sums);
                    values += FEATURE_STRIDE;
                }
            }
        }
        for (size_t k = 0; k < features.size(); ++k) {
            Moments m = chunk_moments(rows, features[k], start, stop);
            restore_extremes(column, features[k].reader, start, stop, features[k].units, m);
            // The mean of this chunk is the centre of the next.
            if (m.count > 0 && m.exponent == 0 && is_float(column.type))
                features[k].sums.origin.number = std::min(std::max(m.mean.hi, m.min), m.max);
            task.out[k] = start == task.start ? m : merge(task.out[k], m);
        }
    }
}

}  // namespace

std::vector<Moments> block_moments(const std::vector<Column> &columns, Weighting weighting, int threads) {
    const Extents extents(columns);
    const int64_t features = extents.features;
    const int64_t row_count = columns.empty() ? 0 : columns.front().rows;
    if (row_count == 0) return std::vector<Moments>(static_cast<size_t>(features));
    RowWeighting rows(weighting, row_count);
    const int64_t ranges = (row_count + RANGE - 1) / RANGE;
    std::vector<Moments> results(static_cast<size_t>(features * ranges));
    std::vector<MomentsTask> tasks;
    for (int64_t range = 0; range < ranges; ++range) {
        Moments *out = results.data() + range * features;
        for (const Column &column : columns) {
            const int64_t together = features_together(column);
            for (int64_t first = 0; first < column.width; first += together)
                tasks.push_back({&column, first, std::min(together, column.width - first), range * RANGE,
                                 std::min(row_count, (range + 1) * RANGE), out + first});
            out += column.width;
        }
    }
    // If each range has a single task, that task sums the weights of a chunk when it reads the
    // chunk, and each weight is loaded from memory only once. Otherwise all weights are summed
    // first.
    const bool late = static_cast<int64_t>(tasks.size()) == ranges;
    if (weighting.weights && !late)
        run_tasks<std::nullptr_t>((row_count + CHUNK - 1) / CHUNK, row_count * 8, threads,
                                  [&](int64_t i, std::nullptr_t) {
                                      rows.weigh(i * CHUNK, std::min(row_count, (i + 1) * CHUNK));
                                  });
    run_tasks<MomentsScratch>(static_cast<int64_t>(tasks.size()), extents.bytes, threads,
                              [&](int64_t i, MomentsScratch &scratch) {
                                  reduce_range(rows, tasks[static_cast<size_t>(i)],
                                               weighting.weights && late, scratch);
                              });
    for (int64_t range = 1; range < ranges; ++range)
        for (int64_t k = 0; k < features; ++k) {
            Moments &m = results[static_cast<size_t>(k)];
            m = merge(m, results[static_cast<size_t>(range * features + k)]);
        }
    results.resize(static_cast<size_t>(features));
    return results;
}

}  // namespace streambn
