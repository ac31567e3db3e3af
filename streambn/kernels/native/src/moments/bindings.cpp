// The Python functions for moments and weights. They check all arguments.
#include <nanobind/stl/optional.h>

#include <algorithm>

#include "arrow/batch.hpp"
#include "buffer.hpp"
#include "moments/block.hpp"
#include "moments/recursion.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

using OptionalObject = std::optional<nb::object>;

// Writes the moments of a batch. If `older` is given, writes the merge of `older` with the batch.
void py_block_moments(nb::handle batch, nb::handle layout, double decay, bool ignore_missing,
                      OptionalObject weights, int threads, OptionalObject older, nb::handle out) {
    const Batch data(batch, layout);
    const int64_t features = data.features;
    const Buffer memory(out, 8, INTEGER, true);
    memory.expect(FIELDS * features, "the array of moments");
    const auto before = optional_buffer(older, INTEGER, FIELDS * features, "the array of older moments");
    if (!(decay >= 0 && decay <= 1)) throw std::invalid_argument("decay must be in [0, 1]");
    const auto given = optional_buffer(weights, "d", data.rows, "the array of weights");
    const Weighting weighting{decay, ignore_missing, given ? given->as<double>() : nullptr};
    std::vector<Moments> moments;
    without_gil(data.bytes, [&] { moments = block_moments(data.columns, weighting, threads); });
    for (int64_t k = 0; k < features; ++k) {
        const Moments &m = moments[static_cast<size_t>(k)];
        store_moments(memory.as<int64_t>(), features, k,
                      before ? merge(load_moments(before->as<int64_t>(), features, k), m) : m);
    }
}

void py_merge_moments(nb::handle older, nb::handle newer, nb::handle out) {
    const Buffer a(older, 8, INTEGER), b(newer, 8, INTEGER), memory(out, 8, INTEGER, true);
    const auto features = static_cast<int64_t>(memory.items()) / FIELDS;
    memory.expect(FIELDS * features, "the array of merged moments");
    a.expect(FIELDS * features, "the array of older moments");
    b.expect(FIELDS * features, "the array of newer moments");
    for (int64_t k = 0; k < features; ++k)
        store_moments(memory.as<int64_t>(), features, k,
                      merge(load_moments(a.as<int64_t>(), features, k),
                            load_moments(b.as<int64_t>(), features, k)));
}

// Writes the weights of rows by their event times. streambn/kernels/reference/times.py has the
// formula.
void py_time_weights(nb::handle ticks, nb::handle latest, double halflives, OptionalObject weights,
                     int threads, nb::handle out) {
    const Buffer times(ticks, 8, "dlq"), memory(out, 8, "d", true);
    const auto rows = static_cast<int64_t>(times.items());
    memory.expect(rows, "the output array of weights");
    const auto given = optional_buffer(weights, "d", rows, "the array of weights");
    const bool whole = times.format() != 'd';
    Origin now;
    if (whole)
        now.integer = nb::cast<int64_t>(latest);
    else
        now.number = nb::cast<double>(latest);
    const double *from = given ? given->as<double>() : nullptr;
    const int64_t bytes = rows * (given ? 24 : 16);
    without_gil(bytes, [&] {
        run_tasks<std::nullptr_t>((rows + CHUNK - 1) / CHUNK, bytes, threads,
                                  [&](int64_t i, std::nullptr_t) {
            const int64_t start = i * CHUNK, n = std::min(CHUNK, rows - start);
            kernels().time_weights(times.as<char>() + 8 * start, whole, n, now, -halflives,
                                   from ? from + start : nullptr, memory.as<double>() + start);
        });
    });
}

// Writes the weights of the recursion, and returns the tuple (decay, before, since).
nb::tuple py_recursion_weights(nb::handle valid, double decay, double alpha, nb::handle out) {
    const Buffer present(valid, 1, "?"), memory(out, 8, "d", true);
    const auto rows = static_cast<int64_t>(present.items());
    memory.expect(rows, "the array of weights");
    if (!(decay >= 0 && decay <= 1 && alpha > 0 && alpha <= 1))
        throw std::invalid_argument("decay must be in [0, 1] and alpha in (0, 1]");
    RecursionSummary summary;
    {
        const nb::gil_scoped_release released;
        summary = recursion_weights(present.as<bool>(), rows, decay, alpha, memory.as<double>());
    }
    return nb::make_tuple(summary.decay, summary.before, summary.since);
}

}  // namespace

void bind_moments(nb::module_ &module) {
    module.def("block_moments", &py_block_moments);
    module.def("merge_moments", &py_merge_moments);
    module.def("time_weights", &py_time_weights);
    module.def("recursion_weights", &py_recursion_weights);
}

}  // namespace streambn
