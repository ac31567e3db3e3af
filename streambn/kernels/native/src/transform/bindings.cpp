// The Python functions `transform`, which returns an Arrow batch, and `transform_matrix`.
#include <nanobind/stl/optional.h>

#include <cmath>

#include "arrow/batch.hpp"
#include "buffer.hpp"
#include "transform/output.hpp"

namespace streambn {

namespace {

using OptionalObject = std::optional<nb::object>;

// The arrays over features that define a map, and those that count. All are checked.
class MapArguments {
  public:
    // `numbers` and `flags` are the arrays of a `FeatureTransform` of
    // streambn/kernels/interface.py. `counts` receives the numbers of NaN, then those of infinities.
    MapArguments(int64_t features, nb::handle numbers, nb::handle flags, const OptionalObject &gamma,
                 const OptionalObject &beta, double clip, bool inverse, nb::handle counts)
        : numbers_(numbers, 8, "d"), flags_(flags, 1, "?"), counts_(counts, 8, INTEGER, true) {
        numbers_.expect(3 * features, "the array of maps");
        flags_.expect(2 * features, "the array of flags");
        counts_.expect(2 * features, "the array of counts");
        if (gamma && beta) {
            gamma_ = optional_buffer(gamma, "d", features, "gamma");
            beta_ = optional_buffer(beta, "d", features, "beta");
        }
        const double *const hi = numbers_.as<double>();
        map = {hi, hi + features, hi + 2 * features, gamma_ ? gamma_->as<double>() : nullptr,
               beta_ ? beta_->as<double>() : nullptr, clip, flags_.as<uint8_t>(), inverse};
        nans = counts_.as<int64_t>(), infs = nans + features;
        for (int64_t k = 0; k < features; ++k)
            is_extreme |= std::fabs(map.location_hi[k]) > 0x1p969 || map.scale[k] > 0x1p500 ||
                          map.scale[k] < 0x1p-500;
    }

    FeatureTransform map{};
    int64_t *nans, *infs;
    // Whether a location is so large that subtracting it could overflow, or a scale lies outside the
    // range in which the inner loops round a quotient correctly.
    bool is_extreme = false;

  private:
    Buffer numbers_, flags_, counts_;
    std::unique_ptr<Buffer> gamma_, beta_;
};

// Returns the result of `import_batch` for the address of the output. Returns None if the map is
// extreme.
nb::object py_transform(const Batch &data, nb::handle numbers, nb::handle flags, OptionalObject gamma,
                        OptionalObject beta, double clip, bool inverse, nb::handle counts, int threads,
                        nb::handle schema, nb::handle allocate, nb::handle import_batch) {
    const MapArguments arguments(data.features, numbers, flags, gamma, beta, clip, inverse, counts);
    if (arguments.is_extreme) return nb::none();
    OutputBatch out(data.columns, schema, allocate, [&](size_t i, int64_t first) {
        return needs_validity(data.columns[i], arguments.map.known + first);
    });
    without_gil(data.bytes, [&] {
        transform(data.columns, arguments.map, out.outputs, arguments.nans, arguments.infs, threads);
    });
    return out.import(import_batch);
}

// Writes the columns of a matrix that `layout` binds to the same columns of `out`, a matrix of floats
// of the same shape. Those without statistics become 0. Returns false if the map is extreme.
bool py_transform_matrix(const Batch &data, nb::handle numbers, nb::handle flags, OptionalObject gamma,
                         OptionalObject beta, double clip, bool inverse, nb::handle counts, int threads,
                         nb::handle layout, nb::handle out) {
    const Matrix to(out, true);
    const Matrix *const from = data.matrix();
    if (!from || from->rows() != to.rows() || from->width() != to.width())
        throw std::invalid_argument("an output must have the shape of its input");
    const std::vector<Column> targets = to.columns(unpacked(layout), from->by_rows());
    const MapArguments arguments(data.features, numbers, flags, gamma, beta, clip, inverse, counts);
    if (arguments.is_extreme) return false;
    std::vector<Output> outputs;
    for (size_t i = 0; i < targets.size(); ++i) {
        const Column &target = targets[i];
        if (i >= data.columns.size() || target.width != data.columns[i].width)
            throw std::invalid_argument("an output must have the layout of its input");
        if (!is_float(target.type))
            throw std::invalid_argument("an output must be float16, float32 or float64");
        // The memory is that of `out`, which is writable.
        outputs.push_back({target.type, const_cast<uint8_t *>(target.values), target.row_step,
                           target.value_step, nullptr, 0});
    }
    if (outputs.size() != data.columns.size())
        throw std::invalid_argument("an output must have the layout of its input");
    without_gil(data.bytes, [&] {
        transform(data.columns, arguments.map, outputs, arguments.nans, arguments.infs, threads);
    });
    return true;
}

}  // namespace

void bind_transform(nb::module_ &module) {
    module.def("transform", &py_transform);
    module.def("transform_matrix", &py_transform_matrix);
}

}  // namespace streambn
