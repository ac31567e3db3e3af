#include "transform/transform.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>

#include "arrow/int256.hpp"
#include "arrow/reader.hpp"
#include "parallel.hpp"
#include "simd/kernels.hpp"

namespace streambn {

namespace {

constexpr int64_t TASK_VALUES = 64 * PIECE;
// float64 outputs of at least this size bypass the cache, which could not hold them. Bypassing is
// 8 % faster for an output of 128 MB. It would be 75 % slower for 512 KB, which fit into the cache.
constexpr int64_t STREAMED_BYTES = 32 << 20;

// One column and its parameters. Each parameter array has one entry per element of a period of
// rows.
struct Plan {
    const Column *column;
    Output *output;
    int64_t first_feature, elements, period;
    Maps maps;
    // The integers nearest to the locations. Subtracting them before values are rounded to float64
    // keeps the low digits.
    std::vector<int64_t> origins;  // for 64-bit integers; 2**63 is subtracted from unsigned ones
    std::vector<Int256> bases;     // for decimals beyond 64 bits
    double unit;                   // 10**scale of a decimal
    bool all_known;
    bool gathered;   // whether the values of the column have gaps
    bool scattered;  // whether those of the output have
    bool stream;
    int64_t first_task;
};

enum { HI, LO, SCALE, INVERSE, GAMMA, BETA, ARRAYS };  // the arrays of parameters

int64_t period_of(const Column &column) { return std::lcm<int64_t>(column.width, 8); }

// Writes the parameters to `arrays`, which has room for ARRAYS periods.
Plan make_plan(const Column &column, const FeatureTransform &features, int64_t first_feature, Output &output,
               double *arrays) {
    Plan plan{};
    plan.column = &column, plan.output = &output, plan.first_feature = first_feature;
    plan.elements = column.rows * column.width;
    plan.period = period_of(column);
    plan.all_known = std::all_of(features.known + first_feature, features.known + first_feature + column.width,
                                 [](uint8_t k) { return k; });
    const int size = size_of(output.type);
    plan.gathered = column.type != Type::null && !column.is_contiguous();
    plan.scattered = output.row_step != column.width * size || (column.width > 1 && output.value_step != size);
    // Only whole cache lines can bypass the cache.
    plan.stream = plan.elements * size >= STREAMED_BYTES && !plan.scattered &&
                  reinterpret_cast<uintptr_t>(output.values) % 64 == 0;
    const Pair unit = power_of_ten(column.decimal_scale);
    plan.unit = unit.hi;

    const Type type = loop_type(column.type);
    static thread_local std::vector<double> subtracted;
    subtracted.assign(static_cast<size_t>(column.width), 0.0);
    for (int64_t k = 0; k < column.width; ++k) {
        double near = std::rint(features.location_hi[first_feature + k] * (column.decimal_scale ? unit.hi : 1.0));
        if (features.inverse || !std::isfinite(near)) near = 0;
        if (is_wide(type)) {
            // Clamp to the range of float64 numbers that the type can represent.
            near = type == Type::uint64 ? std::min(std::max(near, 0.0), 0x1p64 - 2048)
                                        : std::min(std::max(near, -0x1p63), 0x1p63 - 1024);
            plan.origins.push_back(type == Type::uint64 ? static_cast<int64_t>(static_cast<uint64_t>(near) ^
                                                                               (uint64_t{1} << 63))
                                                        : static_cast<int64_t>(near));
        } else if (is_large_decimal(column.type) && std::fabs(near) < 0x1p253) {
            plan.bases.push_back(Int256::from_double(near));
        } else {
            if (is_large_decimal(column.type)) plan.bases.emplace_back();
            near = 0;
        }
        subtracted[static_cast<size_t>(k)] = near;
    }

    for (int64_t i = 0; i < plan.period; ++i) {
        const int64_t feature = first_feature + i % column.width;
        Pair location{features.location_hi[feature], features.location_lo[feature]};
        double scale = features.scale[feature];
        if (!features.inverse) {
            if (column.decimal_scale) {
                location = multiply(location, unit);
                scale *= unit.hi;
            }
            location = add(location, {-subtracted[static_cast<size_t>(i % column.width)], 0});
        }
        arrays[HI * plan.period + i] = location.hi;
        arrays[LO * plan.period + i] = location.lo;
        arrays[SCALE * plan.period + i] = scale;
        arrays[INVERSE * plan.period + i] = 1.0 / scale;
        arrays[GAMMA * plan.period + i] = features.gamma ? features.gamma[feature] : 1.0;
        arrays[BETA * plan.period + i] = features.beta ? features.beta[feature] : 0.0;
    }
    plan.maps = {arrays + HI * plan.period,      arrays + LO * plan.period,
                 arrays + SCALE * plan.period,   arrays + INVERSE * plan.period,
                 arrays + GAMMA * plan.period,   arrays + BETA * plan.period,
                 features.clip,                     features.gamma != nullptr,
                 plan.period};
    return plan;
}

// Writes the validity of `n` elements from `start` on, and returns the number of valid elements.
// `with_outer` includes the validity of the enclosing structs and lists. If `known` is not null,
// elements of features without statistics are invalid.
int element_bits(const Plan &plan, int64_t start, int n, bool with_outer, const uint8_t *known,
                 PieceBits &bits) {
    const Column &column = *plan.column;
    int count = 0;
    for (int i = 0; i < n; i += 64) {
        const int m = std::min(64, n - i);
        uint64_t word = m == 64 ? ~uint64_t{0} : (uint64_t{1} << m) - 1;
        for (const Bitmap &map : column.validity) word &= map.word(start + i, m);
        if (with_outer && column.width == 1) {
            for (const Bitmap &map : column.outer) word &= map.word(start + i, m);
        } else if (with_outer && !column.outer.empty()) {
            for (int k = 0; k < m; ++k)
                for (const Bitmap &map : column.outer)
                    if (!map.bit((start + i + k) / column.width)) word &= ~(uint64_t{1} << k);
        }
        if (known)
            for (int k = 0; k < m; ++k)
                if (!known[plan.first_feature + (start + i + k) % column.width]) word &= ~(uint64_t{1} << k);
        bits.word[i / 64] = word;
        count += __builtin_popcountll(word);
    }
    return count;
}

// Writes the n values at `from` to the elements of an output from `start` on.
template <class T>
void scatter_values(const Plan &plan, const void *from, int64_t start, int n) {
    const Output &output = *plan.output;
    const int64_t width = plan.column->width;
    const auto *values = static_cast<const uint8_t *>(from);
    int64_t feature = start % width;
    uint8_t *row = output.values + start / width * output.row_step;
    for (int i = 0; i < n; ++i) {
        std::memcpy(row + feature * output.value_step, values + i * sizeof(T), sizeof(T));
        if (++feature == width) feature = 0, row += output.row_step;
    }
}

// Converts the values of a piece to float64, for types that the inner loops do not read.
void widen(const Plan &plan, const Kernels &inner, bool inverse, const uint8_t *from, int64_t start, int n,
           double *to) {
    const Column &column = *plan.column;
    const int size = size_of(column.type);
    if (column.type == Type::null) {
        std::fill(to, to + n, 0.0);
    } else if (is_large_decimal(column.type)) {
        for (int i = 0; i < n; ++i) {
            const Int256 &base = plan.bases[static_cast<size_t>((start + i) % column.width)];
            to[i] = difference(from + i * size, size, base);
        }
    } else if (is_wide(loop_type(column.type))) {
        const int64_t flip = column.type == Type::uint64 ? INT64_MIN : 0;
        int64_t feature = start % column.width;
        for (int i = 0; i < n; ++i) {
            int64_t value, difference;
            std::memcpy(&value, from + i * 8, 8);
            const int64_t origin = plan.origins[static_cast<size_t>(feature)];
            feature = feature + 1 == column.width ? 0 : feature + 1;
            // A difference beyond 64 bits is computed in 128 bits and rounded once.
            to[i] = __builtin_sub_overflow(value ^ flip, origin, &difference)
                        ? static_cast<double>(static_cast<__int128>(value ^ flip) - origin)
                        : static_cast<double>(difference);
        }
    } else {
        Origin zero;
        zero.number = 0;
        inner.widen[static_cast<int>(loop_type(column.type))](from, n, zero, to);
    }
    if (inverse && column.decimal_scale)
        for (int i = 0; i < n; ++i) to[i] /= plan.unit;
}

void count_not_finite(const Plan &plan, const double *x, const PieceBits *bits, int64_t start, int n,
                      int64_t *nans, int64_t *infs) {
    for (int i = 0; i < n; ++i) {
        if (std::isfinite(x[i]) || (bits && !bits->at(i))) continue;
        const int64_t feature = plan.first_feature + (start + i) % plan.column->width;
        (std::isnan(x[i]) ? nans : infs)[feature] += 1;
    }
}

}  // namespace

uint16_t half_of(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = static_cast<uint16_t>(bits >> 48 & 0x8000);
    if (std::isnan(value)) return sign | 0x7e00;
    const double magnitude = std::fabs(value);
    if (magnitude == 0) return sign;
    if (magnitude >= 65520.0) return sign | 0x7c00;
    // Count in units in the last place of float16. rint rounds ties to even.
    int exponent;
    (void)std::frexp(magnitude, &exponent);
    const int lowest = std::max(exponent - 11, -24);
    const auto steps = static_cast<uint16_t>(std::rint(std::ldexp(magnitude, -lowest)));
    // The eleventh bit of the count is the hidden bit. Adding it increments the exponent field.
    return sign | static_cast<uint16_t>(steps + ((lowest + 24) << 10));
}

bool needs_validity(const Column &column, const uint8_t *known) {
    return !column.validity.empty() || column.type == Type::null ||
           !std::all_of(known, known + column.width, [](uint8_t k) { return k; });
}

void transform(const std::vector<Column> &columns, const FeatureTransform &features,
               std::vector<Output> &outputs, int64_t *nans, int64_t *infs, int threads) {
    const Kernels &inner = kernels();
    std::vector<Plan> plans;
    plans.reserve(columns.size());
    int64_t numbers = 0;
    for (const Column &column : columns) numbers += ARRAYS * period_of(column);
    std::vector<double> parameters(static_cast<size_t>(numbers));
    double *arrays = parameters.data();
    int64_t first = 0, tasks = 0, bytes = 0;
    for (size_t i = 0; i < columns.size(); ++i) {
        plans.push_back(make_plan(columns[i], features, first, outputs[i], arrays));
        arrays += ARRAYS * plans.back().period;
        plans.back().first_task = tasks;
        tasks += (plans.back().elements + TASK_VALUES - 1) / TASK_VALUES;
        bytes += plans.back().elements * size_of(columns[i].type);
        first += columns[i].width;
        outputs[i].null_count = 0;
    }
    std::mutex mutex;
    const auto work = [&](int64_t task, std::nullptr_t) {
        const auto after = std::upper_bound(plans.begin(), plans.end(), task, [](int64_t t, const Plan &p) {
            return t < p.first_task;
        });
        const Plan &plan = *(after - 1);
        const Column &column = *plan.column;
        Output &output = *plan.output;
        const int64_t begin = (task - plan.first_task) * TASK_VALUES, end = std::min(begin + TASK_VALUES, plan.elements);
        const bool direct = column.type == Type::float64 || column.type == Type::float32;
        const bool to_half = output.type == Type::float16;
        const auto &maps = features.inverse ? inner.denormalize : inner.normalize;
        const MapPiece map = maps[column.type == Type::float32][!to_half && output.type == Type::float32];
        const uint8_t *const known = plan.all_known ? nullptr : features.known;
        const bool missing = column.has_nulls() || !plan.all_known || column.type == Type::null;
        alignas(64) double wide[PIECE + 8], mapped[PIECE + 8], gathered[PIECE + 8];
        int64_t null_count = 0;
        for (int64_t start = begin; start < end; start += PIECE) {
            const int n = static_cast<int>(std::min<int64_t>(PIECE, end - start));
            PieceBits bits, own;
            int there = n;
            if (missing) {
                there = column.type == Type::null ? 0 : element_bits(plan, start, n, true, known, bits);
                if (column.type == Type::null) std::memset(&bits, 0, sizeof bits);
                if (output.validity) {
                    own = bits;
                    const int valid = column.outer.empty() || column.type == Type::null
                                          ? there
                                          : element_bits(plan, start, n, false, known, own);
                    null_count += n - valid;
                    std::memcpy(output.validity + start / 8, own.word, static_cast<size_t>((n + 7) / 8));
                }
            }
            const int size = size_of(column.type);
            const uint8_t *from = reinterpret_cast<const uint8_t *>(gathered);
            if (plan.gathered)
                gather_values(column, start, n, reinterpret_cast<uint8_t *>(gathered));
            else
                from = column.values + start * size;
            const void *values = direct ? static_cast<const void *>(from) : wide;
            if (!direct) widen(plan, inner, features.inverse, from, start, n, wide);
            void *const out = to_half || plan.scattered
                                  ? static_cast<void *>(mapped)
                                  : output.values + start * size_of(output.type);
            const bool bad = map(values, n, start % plan.period, there < n ? bits.octets() : nullptr,
                                 plan.maps, out, plan.stream && !to_half);
            if (to_half) {
                uint16_t halves[PIECE];
                for (int i = 0; i < n; ++i) halves[i] = half_of(mapped[i]);
                scatter_values<uint16_t>(plan, halves, start, n);
            } else if (plan.scattered) {
                if (output.type == Type::float32)
                    scatter_values<float>(plan, mapped, start, n);
                else
                    scatter_values<double>(plan, mapped, start, n);
            }
            // Count the values of features without statistics as well.
            if (bad || (known && is_float(column.type))) {
                Origin zero;
                zero.number = 0;
                if (known) there = element_bits(plan, start, n, true, nullptr, bits);
                if (direct) inner.widen[static_cast<int>(column.type)](values, n, zero, wide);
                const std::lock_guard<std::mutex> guard(mutex);
                count_not_finite(plan, wide, there < n ? &bits : nullptr, start, n, nans, infs);
            }
        }
        if (null_count) {
            const std::lock_guard<std::mutex> guard(mutex);
            output.null_count += null_count;
        }
    };
    run_tasks<std::nullptr_t>(tasks, bytes, threads, work);
}

}  // namespace streambn
