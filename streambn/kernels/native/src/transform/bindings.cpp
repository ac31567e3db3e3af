// The Python function `transform`, which returns an Arrow batch.
#include <nanobind/stl/optional.h>

#include <cmath>

#include "arrow/batch.hpp"
#include "buffer.hpp"
#include "transform/output.hpp"

namespace streambn {

namespace {

// Returns the result of `import_batch` for the address of the output. Returns None if a location is
// so large that subtracting it could overflow, or if a scale lies outside the range in which the
// inner loops round a quotient correctly.
//
// `numbers` and `flags` are the arrays of a `FeatureTransform` of streambn/kernels/interface.py.
// `counts` receives the numbers of NaN, then those of infinities.
nb::object py_transform(const Batch &data, nb::handle numbers, nb::handle flags,
                        std::optional<nb::object> gamma, std::optional<nb::object> beta, double clip,
                        bool inverse, nb::handle schema, nb::handle counts, int threads,
                        nb::handle allocate, nb::handle import_batch) {
    const int64_t features = data.features;
    const Buffer maps(numbers, 8, "d"), known(flags, 1, "?"), found(counts, 8, INTEGER, true);
    maps.expect(3 * features, "the array of maps");
    known.expect(2 * features, "the array of flags");
    found.expect(2 * features, "the array of counts");
    const bool affine = gamma && beta;
    const auto factor = optional_buffer(affine ? gamma : std::nullopt, "d", features, "gamma");
    const auto summand = optional_buffer(affine ? beta : std::nullopt, "d", features, "beta");
    const double *const hi = maps.as<double>();
    const FeatureTransform transformed{hi,   hi + features, hi + 2 * features,
                                       affine ? factor->as<double>() : nullptr,
                                       affine ? summand->as<double>() : nullptr,
                                       clip, known.as<uint8_t>(), inverse};
    for (int64_t k = 0; k < features; ++k)
        if (std::fabs(transformed.location_hi[k]) > 0x1p969 || transformed.scale[k] > 0x1p500 ||
            transformed.scale[k] < 0x1p-500)
            return nb::none();
    OutputBatch out(data.columns, schema, allocate, [&](size_t i, int64_t first) {
        return needs_validity(data.columns[i], transformed.known + first);
    });
    without_gil(data.bytes, [&] {
        transform(data.columns, transformed, out.outputs, found.as<int64_t>(),
                  found.as<int64_t>() + features, threads);
    });
    return out.import(import_batch);
}

}  // namespace

void bind_transform(nb::module_ &module) { module.def("transform", &py_transform); }

}  // namespace streambn
