// The columns of a Python object that holds a batch.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "arrow/columns.hpp"
#include "arrow/matrix.hpp"
#include "buffer.hpp"

namespace streambn {

// Returns the numbers of a layout, in the form that `find_columns` reads.
inline std::vector<int32_t> unpacked(nb::handle layout) {
    const nb::bytes packed = nb::borrow<nb::bytes>(layout.attr("packed"));
    if (packed.size() % sizeof(int32_t))
        throw std::invalid_argument("the layout of the columns is damaged");
    std::vector<int32_t> numbers(packed.size() / sizeof(int32_t));
    if (!numbers.empty()) std::memcpy(numbers.data(), packed.c_str(), packed.size());
    return numbers;
}

// Owns access to the bound columns of a batch or a matrix.
//
// A pyarrow record batch exports only its array, because the layout keeps the exported schema. For
// 10 columns this takes 4 µs instead of 6. Other objects export schema and array by the Arrow
// PyCapsule interface.
class Batch {
  public:
    Batch(nb::handle batch, nb::handle layout) {
        const nb::object schema = layout.attr("schema");
        const std::vector<int32_t> numbers = unpacked(layout);
        if (PyObject_CheckBuffer(batch.ptr())) {
            matrix_.reset(new Matrix(batch));
            // Columns of lists read each cache line of adjacent columns once.
            set(matrix_->columns(numbers, matrix_->by_rows()), matrix_->rows());
        } else if (schema.is_none()) {
            capsules_ = batch.attr("__arrow_c_array__")();
            if (!PyTuple_Check(capsules_.ptr()) || PyTuple_Size(capsules_.ptr()) != 2)
                throw MalformedBatch("__arrow_c_array__ did not return a pair of capsules");
            find(pointer<ArrowSchema>(PyTuple_GetItem(capsules_.ptr(), 0), "arrow_schema"),
                 pointer<ArrowArray>(PyTuple_GetItem(capsules_.ptr(), 1), "arrow_array"), numbers);
        } else {
            batch.attr("_export_to_c")(reinterpret_cast<uintptr_t>(&own_));
            try {
                find(pointer<ArrowSchema>(schema.ptr(), "arrow_schema"), &own_, numbers);
            } catch (...) {
                release();
                throw;
            }
        }
    }
    Batch(const Batch &) = delete;
    Batch &operator=(const Batch &) = delete;
    ~Batch() { release(); }

    const Matrix *matrix() const { return matrix_.get(); }  // null if it is not a matrix

    std::vector<Column> columns;
    int64_t rows = 0, features = 0, bytes = 0;

  private:
    template <class T>
    static const T *pointer(PyObject *capsule, const char *name) {
        void *p = PyCapsule_GetPointer(capsule, name);
        if (!p) throw nb::python_error();
        return static_cast<const T *>(p);
    }
    void find(const ArrowSchema *schema, const ArrowArray *array, const std::vector<int32_t> &layout) {
        if (!schema->release || !array->release) throw MalformedBatch("the batch was already released");
        set(find_columns(*schema, *array, layout.data(), layout.size()), array->length);
    }
    void set(std::vector<Column> found, int64_t length) {
        columns = std::move(found);
        rows = length;
        const Extents extents(columns);
        features = extents.features, bytes = extents.bytes;
    }
    void release() {
        if (own_.release) own_.release(&own_);
    }
    ArrowArray own_{};
    nb::object capsules_;
    std::unique_ptr<Matrix> matrix_;
};

}  // namespace streambn
