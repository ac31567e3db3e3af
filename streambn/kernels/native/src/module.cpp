// Defines the Python module streambn.kernels.native._core.
#include "arrow/batch.hpp"
#include "buffer.hpp"
#include "simd/kernels.hpp"

namespace streambn {

namespace {

void translate(const std::exception_ptr &pointer, void *) {
    try {
        std::rethrow_exception(pointer);
    } catch (const MalformedBatch &error) {
        const nb::object kind = nb::module_::import_("streambn.errors").attr("InvalidValueError");
        PyErr_SetString(kind.ptr(), error.what());
    }
}

}  // namespace

NB_MODULE(_core, m) {
    nb::register_exception_translator(translate);
    // By default nanobind reports every object that is still alive when the interpreter exits.
    nb::set_leak_warnings(false);
    m.attr("simd") = kernels().name;
    nb::class_<Batch>(m, "Batch").def(nb::init<nb::handle, nb::handle>());
    bind_moments(m);
    bind_exact(m);
    bind_rows(m);
    bind_row_maps(m);
    bind_series(m);
    bind_transform(m);
}

}  // namespace streambn
