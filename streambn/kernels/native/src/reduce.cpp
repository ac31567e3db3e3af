#include "reduce.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "careful.hpp"
#include "chunk.hpp"
#include "int256.hpp"
#include "lanes.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

// Adjacent lanes of one column over one range of rows.
struct Task {
    const Leaf *leaf;
    int64_t first_lane, lanes;   // of the column
    int64_t start, stop;
    Moments *out;                // of `lanes`
};

// The extremes of decimals, of which a float64 less the base lost the low digits.
void exact_extremes(const Leaf &leaf, const LaneReader &lane, int64_t start, int64_t stop,
                    const Units &units, Moments &m) {
    if (size_of(leaf.type) <= 8 || m.count == 0) return;
    const double base = units.base.hi / units.ten.hi;
    if (std::max(m.max - base, base - m.min) * units.ten.hi < 0x1p52) return;
    Int256 low, high;
    lane.extremes(start, stop, low, high);
    const Units plain{{0, 0}, units.ten, units.decimal};
    m.min = plain.restored(low.pair());
    m.max = plain.restored(high.pair());
}

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
        if (conclude(context, lane.reader, start, stop, lane.units, lane.sums, m)) break;
        if (attempt == CENTRINGS)
            lane.sums.outcome = Outcome::careful;
        else
            sum_chunk(context, lane.reader, start, stop, lane.sums);
    }
    if (lane.sums.outcome == Outcome::careful)
        m = careful_chunk(context, lane.reader, start, stop, lane.units);
    // What weighs nothing has no mean: it is then the identity of `merge` in all but what is
    // counted.
    if (m.weight == 0) m.mean = m.m2 = {0, 0}, m.exponent = ZERO_EXPONENT;
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

// `weigh`: the rows were not weighed before.
void reduce_range(Context &context, const Task &task, bool weigh, Scratch &scratch) {
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
        if (weigh) context.weigh(start, stop);
        if (lanes.size() == 1) {
            sum_chunk(context, lanes[0].reader, start, stop, lanes[0].sums);
        } else {
            for (LaneState &lane : lanes) lane.sums.clear(lane.reader.type());
            int n = context.first_piece(stop - start);
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
            Moments m = chunk_moments(context, lanes[k], start, stop);
            exact_extremes(leaf, lanes[k].reader, start, stop, lanes[k].units, m);
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
    Context context(weighing, rows);
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
    // One task a range: it weighs a chunk when it reads it, and the weights are read once.
    const bool late = static_cast<int64_t>(tasks.size()) == ranges;
    if (weighing.weights && !late)
        run_tasks<std::nullptr_t>((rows + CHUNK - 1) / CHUNK, rows * 8, threads,
                                  [&](int64_t i, std::nullptr_t) {
                                      context.weigh(i * CHUNK, std::min(rows, (i + 1) * CHUNK));
                                  });
    run_tasks<Scratch>(static_cast<int64_t>(tasks.size()), bytes, threads,
                       [&](int64_t i, Scratch &scratch) {
                           reduce_range(context, tasks[static_cast<size_t>(i)],
                                        weighing.weights && late, scratch);
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
