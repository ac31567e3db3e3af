#include "transform.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>

#include "int256.hpp"
#include "kernels.hpp"
#include "lanes.hpp"
#include "moments.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

// Values of one task.
constexpr int64_t RANGE = 64 * PIECE;
// An output beyond this is written past the cache: nobody finds it there. Of 128 MB that
// brought 8 %; of 512 KB, which the cache takes, it cost 75 %.
constexpr int64_t STREAMED_BYTES = 32 << 20;

// One column and its parameters, element for element over a period of rows.
struct Plan {
    const Leaf *leaf;
    Output *output;
    int64_t first_lane, elements, period;
    std::vector<double> parameters;
    Maps maps;
    // A lane's integer nearest to its location, which is subtracted in integers before they
    // are rounded to float64.
    std::vector<int64_t> origins;  // of 64-bit integers; of unsigned ones less 2**63
    std::vector<Int256> bases;     // of decimals beyond 64 bits
    double unit;     // of decimals: 10**scale
    bool all_known;
    bool stream;
    int64_t first_task;
};

bool is_large_decimal(Type type) { return type == Type::decimal128 || type == Type::decimal256; }

Type looped(Type type) {
    return type == Type::decimal32 ? Type::int32 : type == Type::decimal64 ? Type::int64 : type;
}

Plan make_plan(const Leaf &leaf, const LaneTransform &lanes, int64_t first_lane, Output &output) {
    Plan plan{};
    plan.leaf = &leaf, plan.output = &output, plan.first_lane = first_lane;
    plan.elements = leaf.rows * leaf.width;
    plan.period = std::lcm<int64_t>(leaf.width, 8);
    plan.all_known = std::all_of(lanes.known + first_lane, lanes.known + first_lane + leaf.width,
                                 [](uint8_t k) { return k; });
    plan.stream = plan.elements * size_of(output.type) >= STREAMED_BYTES;
    const Pair unit = power_of_ten(leaf.decimal_scale);
    plan.unit = unit.hi;

    const Type type = looped(leaf.type);
    std::vector<double> subtracted(static_cast<size_t>(leaf.width), 0.0);
    for (int64_t k = 0; k < leaf.width; ++k) {
        double near = std::rint(lanes.location_hi[first_lane + k] * (leaf.decimal_scale ? unit.hi : 1.0));
        if (lanes.inverse || !std::isfinite(near)) near = 0;
        if (is_wide(type)) {
            // The ends of the type that float64 has.
            near = type == Type::uint64 ? std::min(std::max(near, 0.0), 0x1p64 - 2048)
                                        : std::min(std::max(near, -0x1p63), 0x1p63 - 1024);
            plan.origins.push_back(type == Type::uint64 ? static_cast<int64_t>(static_cast<uint64_t>(near) ^
                                                                               (uint64_t{1} << 63))
                                                        : static_cast<int64_t>(near));
        } else if (is_large_decimal(leaf.type) && std::fabs(near) < 0x1p253) {
            plan.bases.push_back(Int256::from(near));
        } else {
            if (is_large_decimal(leaf.type)) plan.bases.emplace_back();
            near = 0;
        }
        subtracted[static_cast<size_t>(k)] = near;
    }

    enum { HI, LO, SPREAD, INVERSE, GAMMA, BETA, ARRAYS };
    plan.parameters.resize(static_cast<size_t>(ARRAYS * plan.period));
    double *const arrays = plan.parameters.data();
    for (int64_t i = 0; i < plan.period; ++i) {
        const int64_t lane = first_lane + i % leaf.width;
        Pair location{lanes.location_hi[lane], lanes.location_lo[lane]};
        double spread = lanes.spread[lane];
        if (!lanes.inverse) {
            if (leaf.decimal_scale) {
                location = multiply(location, unit);
                spread *= unit.hi;
            }
            location = add(location, {-subtracted[static_cast<size_t>(i % leaf.width)], 0});
        }
        arrays[HI * plan.period + i] = location.hi;
        arrays[LO * plan.period + i] = location.lo;
        arrays[SPREAD * plan.period + i] = spread;
        arrays[INVERSE * plan.period + i] = 1.0 / spread;
        arrays[GAMMA * plan.period + i] = lanes.gamma ? lanes.gamma[lane] : 1.0;
        arrays[BETA * plan.period + i] = lanes.beta ? lanes.beta[lane] : 0.0;
    }
    plan.maps = {arrays + HI * plan.period,      arrays + LO * plan.period,
                 arrays + SPREAD * plan.period,  arrays + INVERSE * plan.period,
                 arrays + GAMMA * plan.period,   arrays + BETA * plan.period,
                 lanes.clip,                     lanes.gamma != nullptr,
                 plan.period};
    return plan;
}

// float64 -> float16, to the nearest, ties to even.
uint16_t half_of(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = static_cast<uint16_t>(bits >> 48 & 0x8000);
    if (std::isnan(value)) return sign | 0x7e00;
    const double magnitude = std::fabs(value);
    if (magnitude == 0) return sign;
    if (magnitude >= 65520.0) return sign | 0x7c00;
    // A unit in the last place of float16; rint rounds ties to even.
    int exponent;
    (void)std::frexp(magnitude, &exponent);
    const int lowest = std::max(exponent - 11, -24);
    const auto steps = static_cast<uint16_t>(std::rint(std::ldexp(magnitude, -lowest)));
    // The step count's eleventh bit is the hidden one and carries into the exponent.
    return sign | static_cast<uint16_t>(steps + ((lowest + 24) << 10));
}

// Bits of `n` elements from `start` on: of the values, of the rows around them if `with_outer`,
// and of the lanes unless `known` is null. Returns how many are set.
int element_bits(const Plan &plan, int64_t start, int n, bool with_outer, const uint8_t *known,
                 PieceBits &bits) {
    const Leaf &leaf = *plan.leaf;
    int count = 0;
    for (int i = 0; i < n; i += 64) {
        const int m = std::min(64, n - i);
        uint64_t word = m == 64 ? ~uint64_t{0} : (uint64_t{1} << m) - 1;
        for (const Bitmap &map : leaf.validity) word &= map.word(start + i, m);
        if (with_outer && leaf.width == 1) {
            for (const Bitmap &map : leaf.outer) word &= map.word(start + i, m);
        } else if (with_outer && !leaf.outer.empty()) {
            for (int k = 0; k < m; ++k)
                for (const Bitmap &map : leaf.outer)
                    if (!map.bit((start + i + k) / leaf.width)) word &= ~(uint64_t{1} << k);
        }
        if (known)
            for (int k = 0; k < m; ++k)
                if (!known[plan.first_lane + (start + i + k) % leaf.width]) word &= ~(uint64_t{1} << k);
        bits.word[i / 64] = word;
        count += __builtin_popcountll(word);
    }
    return count;
}

// The values of a piece as float64, where no inner loop reads the type itself.
void widen(const Plan &plan, const Kernels &inner, bool inverse, int64_t start, int n, double *to) {
    const Leaf &leaf = *plan.leaf;
    const int size = size_of(leaf.type);
    const uint8_t *from = leaf.values + start * size;
    if (leaf.type == Type::null) {
        std::fill(to, to + n, 0.0);
    } else if (is_large_decimal(leaf.type)) {
        for (int i = 0; i < n; ++i) {
            const Int256 &base = plan.bases[static_cast<size_t>((start + i) % leaf.width)];
            to[i] = difference(from + i * size, size, base);
        }
    } else if (is_wide(looped(leaf.type))) {
        const int64_t flip = leaf.type == Type::uint64 ? INT64_MIN : 0;
        int64_t lane = start % leaf.width;
        for (int i = 0; i < n; ++i) {
            int64_t value, difference;
            std::memcpy(&value, from + i * 8, 8);
            const int64_t origin = plan.origins[static_cast<size_t>(lane)];
            lane = lane + 1 == leaf.width ? 0 : lane + 1;
            // Where it does not fit into 64 bits it is so large that it may be rounded.
            to[i] = __builtin_sub_overflow(value ^ flip, origin, &difference)
                        ? static_cast<double>(static_cast<__int128>(value ^ flip) - origin)
                        : static_cast<double>(difference);
        }
    } else {
        Origin zero;
        zero.number = 0;
        inner.widen[static_cast<int>(looped(leaf.type))](from, n, zero, to);
    }
    if (inverse && leaf.decimal_scale)
        for (int i = 0; i < n; ++i) to[i] /= plan.unit;
}

void count_not_finite(const Plan &plan, const double *x, const PieceBits *bits, int64_t start, int n,
                      int64_t *nans, int64_t *infs) {
    for (int i = 0; i < n; ++i) {
        if (std::isfinite(x[i]) || (bits && !(bits->word[i / 64] >> (i % 64) & 1))) continue;
        const int64_t lane = plan.first_lane + (start + i) % plan.leaf->width;
        (std::isnan(x[i]) ? nans : infs)[lane] += 1;
    }
}

}  // namespace

bool needs_validity(const Leaf &leaf, const uint8_t *known) {
    return !leaf.validity.empty() || leaf.type == Type::null ||
           !std::all_of(known, known + leaf.width, [](uint8_t k) { return k; });
}

void transform(const std::vector<Leaf> &leaves, const LaneTransform &lanes,
               std::vector<Output> &outputs, int64_t *nans, int64_t *infs, int threads) {
    const Kernels &inner = kernels();
    std::vector<Plan> plans;
    plans.reserve(leaves.size());
    int64_t lane = 0, tasks = 0, bytes = 0;
    for (size_t i = 0; i < leaves.size(); ++i) {
        plans.push_back(make_plan(leaves[i], lanes, lane, outputs[i]));
        plans.back().first_task = tasks;
        tasks += (plans.back().elements + RANGE - 1) / RANGE;
        bytes += plans.back().elements * size_of(leaves[i].type);
        lane += leaves[i].width;
        outputs[i].null_count = 0;
    }
    struct Scratch {};
    std::mutex mutex;
    const auto work = [&](int64_t task, Scratch &) {
        const auto after = std::upper_bound(plans.begin(), plans.end(), task, [](int64_t t, const Plan &p) {
            return t < p.first_task;
        });
        const Plan &plan = *(after - 1);
        const Leaf &leaf = *plan.leaf;
        Output &output = *plan.output;
        const int64_t begin = (task - plan.first_task) * RANGE, end = std::min(begin + RANGE, plan.elements);
        const bool direct = leaf.type == Type::float64 || leaf.type == Type::float32;
        const bool to_half = output.type == Type::float16;
        const auto &maps = lanes.inverse ? inner.denormalize : inner.normalize;
        const MapPiece map = maps[leaf.type == Type::float32][!to_half && output.type == Type::float32];
        const uint8_t *const known = plan.all_known ? nullptr : lanes.known;
        const bool missing = leaf.has_nulls() || !plan.all_known || leaf.type == Type::null;
        alignas(64) double wide[PIECE + 8], mapped[PIECE + 8];
        int64_t null_count = 0;
        for (int64_t start = begin; start < end; start += PIECE) {
            const int n = static_cast<int>(std::min<int64_t>(PIECE, end - start));
            PieceBits bits, own;
            int there = n;
            if (missing) {
                there = leaf.type == Type::null ? 0 : element_bits(plan, start, n, true, known, bits);
                if (leaf.type == Type::null) std::memset(&bits, 0, sizeof bits);
                if (output.validity) {
                    own = bits;
                    const int valid = leaf.outer.empty() || leaf.type == Type::null
                                          ? there
                                          : element_bits(plan, start, n, false, known, own);
                    null_count += n - valid;
                    std::memcpy(output.validity + start / 8, own.word, static_cast<size_t>((n + 7) / 8));
                }
            }
            const int size = size_of(leaf.type);
            const void *values = wide;
            if (direct)
                values = leaf.values + start * size;
            else
                widen(plan, inner, lanes.inverse, start, n, wide);
            uint8_t *const out = output.values + start * size_of(output.type);
            const bool bad = map(values, n, start % plan.period, there < n ? bits.octets() : nullptr,
                                 plan.maps, to_half ? reinterpret_cast<uint8_t *>(mapped) : out,
                                 plan.stream && !to_half);
            if (to_half) {
                for (int i = 0; i < n; ++i) {
                    const uint16_t half = half_of(mapped[i]);
                    std::memcpy(out + 2 * i, &half, 2);
                }
            }
            // What a lane that was never seen holds is looked at too.
            if (bad || (known && is_float(leaf.type))) {
                Origin zero;
                zero.number = 0;
                if (known) there = element_bits(plan, start, n, true, nullptr, bits);
                if (direct) inner.widen[static_cast<int>(leaf.type)](values, n, zero, wide);
                const std::lock_guard<std::mutex> guard(mutex);
                count_not_finite(plan, wide, there < n ? &bits : nullptr, start, n, nans, infs);
            }
        }
        if (null_count) {
            const std::lock_guard<std::mutex> guard(mutex);
            output.null_count += null_count;
        }
    };
    run_tasks<Scratch>(tasks, bytes, threads, work);
}

}  // namespace streambn
