// The Python function `map_series`, which returns an Arrow batch and the state after it.
#include <nanobind/stl/optional.h>

#include <cmath>

#include "arrow/batch.hpp"
#include "buffer.hpp"
#include "rows/series.hpp"
#include "transform/output.hpp"

namespace streambn {

namespace {

using Optional = std::optional<nb::object>;

// Returns the times of the rows as double-doubles. A tick of 0 means plain numbers.
std::vector<Pair> times_of(nb::handle ticks, int64_t tick, int64_t rows) {
    const Buffer given(ticks, 8, "lqd");
    given.expect(rows, "the array of times");
    std::vector<Pair> times;
    times.reserve(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) {
        if (given.format() == 'd') {
            times.push_back({given.as<double>()[i], 0});
            continue;
        }
        const __int128 whole = static_cast<__int128>(given.as<int64_t>()[i]) * (tick ? tick : 1);
        const double hi = static_cast<double>(whole);
        times.push_back({hi, static_cast<double>(whole - static_cast<__int128>(hi))});
    }
    return times;
}

RowRules row_rules(nb::tuple fields) {
    if (fields.size() != 13) throw std::invalid_argument("the rules of the rows have 13 fields");
    const auto number = [&](size_t i) { return nb::cast<double>(fields[i]); };
    const auto whole = [&](size_t i) { return nb::cast<int64_t>(fields[i]); };
    const double decay = number(0);
    const int64_t nan = whole(8), inf = whole(9);
    if (!(decay >= 0 && decay <= 1) || nan < 0 || nan > 2 || inf < 0 || inf > 2)
        throw std::invalid_argument("a rule of the rows is out of its domain");
    return {decay, nb::cast<bool>(fields[1]), number(2), static_cast<int>(whole(3)), number(4), number(5),
            nb::cast<bool>(fields[6]), nb::cast<bool>(fields[7]), static_cast<Handling>(nan),
            static_cast<Handling>(inf), false, whole(12)};
}

// The arrays of a state. streambn/kernels/series.py documents them.
struct SeriesArrays {
    Buffer moments;
    std::unique_ptr<Buffer> first, gaps, times;
    SeriesArrays(nb::tuple state, int64_t features, bool writable)
        : moments(state[0], 8, INTEGER, writable),
          first(optional(state[1], INTEGER, FIELDS * features, "the array of first values", writable)),
          gaps(optional(state[2], INTEGER, 2 * features, "the array of gaps", writable)),
          times(optional(state[3], "d", 2 * features, "the array of times", writable)) {
        moments.expect(FIELDS * features, "the array of moments");
    }
    static std::unique_ptr<Buffer> optional(nb::handle object, const char *formats, int64_t items,
                                            const char *what, bool writable) {
        return optional_buffer(object.is_none() ? std::nullopt : Optional(nb::borrow(object)), formats, items,
                               what, writable);
    }
};

void load_feature(const SeriesArrays &state, int64_t count, int64_t i, SeriesFeature &feature) {
    RowFeature &row = feature.row;
    row.m = load_moments(state.moments.as<int64_t>(), count, i);
    if (state.first) row.first = load_moments(state.first->as<int64_t>(), count, i);
    if (state.gaps) row.before = state.gaps->as<int64_t>()[i], row.since = state.gaps->as<int64_t>()[count + i];
    if (state.times) feature.time = {state.times->as<double>()[i], state.times->as<double>()[count + i]};
}

void store_feature(const SeriesArrays &state, int64_t count, int64_t i, const SeriesFeature &feature) {
    const RowFeature &row = feature.row;
    store_moments(state.moments.as<int64_t>(), count, i, row.m);
    if (state.first) store_moments(state.first->as<int64_t>(), count, i, row.first);
    if (state.gaps) state.gaps->as<int64_t>()[i] = row.before, state.gaps->as<int64_t>()[count + i] = row.since;
    if (state.times) state.times->as<double>()[i] = feature.time.hi, state.times->as<double>()[count + i] = feature.time.lo;
}

// Returns the result of `import_batch` for the address of the output, and writes the state after
// the batch to `after`. `rules` are a `RowRules` of streambn/kernels/rows.py.
nb::object py_map_series(const Batch &data, nb::tuple rules, bool before, Optional gamma,
                         Optional beta, nb::handle exact, Optional weights, Optional ticks, int64_t tick, double halflife, nb::tuple older,
                         nb::tuple after, nb::handle nans, nb::handle infs, int threads, nb::handle schema,
                         nb::handle allocate, nb::handle import_batch) {
    const int64_t count = data.features, rows = data.rows;
    if (!(halflife > 0)) throw std::invalid_argument("the half-life is out of its domain");
    const SeriesArrays state(older, count, false), out_state(after, count, true);
    const Buffer is_exact(exact, 1, "?");
    is_exact.expect(count, "an array over features");
    const Buffer nan_counts(nans, 8, INTEGER, true), inf_counts(infs, 8, INTEGER, true);
    for (const Buffer *buffer : {&nan_counts, &inf_counts}) buffer->expect(count, "an array over features");
    const bool affine = gamma && beta;
    const auto factor = optional_buffer(affine ? gamma : std::nullopt, "d", count, "gamma");
    const auto summand = optional_buffer(affine ? beta : std::nullopt, "d", count, "beta");
    const auto given = optional_buffer(weights, "d", rows, "the array of weights");
    std::vector<Pair> times;
    if (ticks) times = times_of(*ticks, tick, rows);
    if (ticks.has_value() != (state.times != nullptr))
        throw std::invalid_argument("times of rows need times of the features, and the reverse");

    const Series series{row_rules(rules), before, given ? given->as<double>() : nullptr,
                        ticks ? times.data() : nullptr, halflife};
    std::vector<SeriesFeature> features(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
        SeriesFeature &feature = features[static_cast<size_t>(i)];
        load_feature(state, count, i, feature);
        feature.row.exact = is_exact.as<uint8_t>()[i];
        if (affine) feature.row.gamma = factor->as<double>()[i], feature.row.beta = summand->as<double>()[i];
    }
    OutputBatch out(data.columns, schema, allocate, [&](size_t i, int64_t first) {
        const Column &column = data.columns[i];
        bool may_be_null = !column.validity.empty() || column.type == Type::null;
        for (int64_t k = 0; k < column.width; ++k)
            may_be_null = may_be_null || !is_known(features[static_cast<size_t>(first + k)], series);
        return may_be_null;
    });
    without_gil(data.bytes, [&] { map_series(data.columns, series, features, out.outputs, threads); });
    for (int64_t i = 0; i < count; ++i) {
        const SeriesFeature &feature = features[static_cast<size_t>(i)];
        store_feature(out_state, count, i, feature);
        nan_counts.as<int64_t>()[i] = feature.nans, inf_counts.as<int64_t>()[i] = feature.infs;
    }
    return out.import(import_batch);
}

}  // namespace

void bind_series(nb::module_ &module) {
    module.def("map_series", &py_map_series, nb::arg(), nb::arg(), nb::arg(),
               nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg().none(),
               nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
               nb::arg(), nb::arg(), nb::arg(), nb::arg());
}

}  // namespace streambn
