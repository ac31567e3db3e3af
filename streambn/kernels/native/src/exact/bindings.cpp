// The Python functions for exact sums. They check all arguments.
#include <nanobind/stl/optional.h>

#include "arrow/batch.hpp"
#include "buffer.hpp"
#include "exact/estimates.hpp"
#include "exact/sums.hpp"
#include "moments/arrays.hpp"

namespace streambn {

namespace {

// Writes the exact sums of a batch. If `older` is given, writes the merge of `older` with the
// batch. Returns the first feature whose sums cannot be merged, or -1.
int64_t py_exact_sums(const Batch &data, int threads, std::optional<nb::object> older,
                      nb::handle out) {
    const int64_t features = data.features;
    const Buffer memory(out, 8, INTEGER, true);
    memory.expect(EXACT_ROWS * features, "the array of exact sums");
    const auto before =
        optional_buffer(older, INTEGER, EXACT_ROWS * features, "the array of older exact sums");
    std::vector<ExactFeature> sums;
    without_gil(data.bytes, [&] { sums = exact_sums(data.columns, threads); });
    for (int64_t k = 0; k < features; ++k) {
        ExactFeature &sum = sums[static_cast<size_t>(k)];
        if (before && !merge(sum, load_exact(before->as<int64_t>(), features, k))) return k;
        store_exact(memory.as<int64_t>(), features, k, sum);
    }
    return -1;
}

// Writes the merge of `older` and `newer`. Returns the first feature whose sums cannot be merged,
// or -1.
int64_t py_merge_exact(nb::handle older, nb::handle newer, nb::handle out) {
    const Buffer a(older, 8, INTEGER), b(newer, 8, INTEGER), memory(out, 8, INTEGER, true);
    const auto features = static_cast<int64_t>(memory.items()) / EXACT_ROWS;
    memory.expect(EXACT_ROWS * features, "the array of merged exact sums");
    a.expect(EXACT_ROWS * features, "the array of older exact sums");
    b.expect(EXACT_ROWS * features, "the array of newer exact sums");
    for (int64_t k = 0; k < features; ++k) {
        ExactFeature sum = load_exact(a.as<int64_t>(), features, k);
        if (!merge(sum, load_exact(b.as<int64_t>(), features, k))) return k;
        store_exact(memory.as<int64_t>(), features, k, sum);
    }
    return -1;
}

// Writes the estimates of all features. Returns those that are left to the caller because their sums
// are decimal.
nb::list py_read_exact(nb::handle sums, int ddof, nb::handle out, nb::handle defined) {
    const Buffer memory(sums, 8, INTEGER);
    const EstimateArrays to(out, defined);
    memory.expect(EXACT_ROWS * to.features, "the array of exact sums");
    nb::list left;
    for (int64_t k = 0; k < to.features; ++k) {
        const ExactFeature feature = load_exact(memory.as<int64_t>(), to.features, k);
        if (feature.decimal)
            left.append(k);
        else
            to.put(k, estimate(feature, ddof));
    }
    return left;
}

}  // namespace

void bind_exact(nb::module_ &module) {
    module.def("exact_sums", &py_exact_sums);
    module.def("read_exact", &py_read_exact);
    module.def("merge_exact", &py_merge_exact);
}

}  // namespace streambn
