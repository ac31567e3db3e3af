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
nb::object py_transform(const Batch &data, nb::handle location_hi, nb::handle location_lo,
                        nb::handle scale, std::optional<nb::object> gamma,
                        std::optional<nb::object> beta, double clip, nb::handle known, bool inverse,
                        nb::handle schema, nb::handle nans, nb::handle infs, int threads,
                        nb::handle allocate, nb::handle import_batch) {
    const int64_t features = data.features;
    const Buffer hi(location_hi, 8, "d"), lo(location_lo, 8, "d"), by(scale, 8, "d");
    const Buffer is_known(known, 1, "?");
    const Buffer nan_counts(nans, 8, INTEGER, true), inf_counts(infs, 8, INTEGER, true);
    for (const Buffer *buffer : {&hi, &lo, &by, &is_known, &nan_counts, &inf_counts})
        buffer->expect(features, "an array over features");
    const bool affine = gamma && beta;
    const auto factor = optional_buffer(affine ? gamma : std::nullopt, "d", features, "gamma");
    const auto summand = optional_buffer(affine ? beta : std::nullopt, "d", features, "beta");
    const FeatureTransform transformed{hi.as<double>(), lo.as<double>(), by.as<double>(),
                                       affine ? factor->as<double>() : nullptr,
                                       affine ? summand->as<double>() : nullptr,
                                       clip, is_known.as<uint8_t>(), inverse};
    for (int64_t k = 0; k < features; ++k)
        if (std::fabs(transformed.location_hi[k]) > 0x1p969 || transformed.scale[k] > 0x1p500 ||
            transformed.scale[k] < 0x1p-500)
            return nb::none();
    OutputBatch out(data.columns, schema, allocate, [&](size_t i, int64_t first) {
        return needs_validity(data.columns[i], transformed.known + first);
    });
    without_gil(data.bytes, [&] {
        transform(data.columns, transformed, out.outputs, nan_counts.as<int64_t>(),
                  inf_counts.as<int64_t>(), threads);
    });
    return out.import(import_batch);
}

}  // namespace

void bind_transform(nb::module_ &module) { module.def("transform", &py_transform); }

}  // namespace streambn
