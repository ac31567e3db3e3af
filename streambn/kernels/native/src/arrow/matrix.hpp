// A matrix of numbers in place of a batch, such as a NumPy array. It needs no Arrow arrays.
#pragma once

#include <vector>

#include "arrow/columns.hpp"
#include "buffer.hpp"

namespace streambn {

class Matrix {
  public:
    explicit Matrix(nb::handle object) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_STRIDES | PyBUF_FORMAT) != 0)
            throw nb::python_error();
    }
    Matrix(const Matrix &) = delete;
    Matrix &operator=(const Matrix &) = delete;
    ~Matrix() { PyBuffer_Release(&view_); }

    int64_t rows() const { return view_.ndim == 2 ? view_.shape[0] : 0; }
    // Returns the bound columns. `layout` has the form that `find_columns` reads.
    std::vector<Column> columns(const std::vector<int32_t> &layout) const {
        if (view_.ndim != 2) throw MalformedBatch("a matrix must have two dimensions");
        const Type type = type_of(view_.format);
        const int64_t rows = view_.shape[0], width = view_.shape[1], item = view_.itemsize;
        if (item != size_of(type) || reinterpret_cast<uintptr_t>(view_.buf) % static_cast<size_t>(item))
            throw MalformedBatch("the items of a matrix do not have the size of their type");
        std::vector<Column> found;
        found.reserve(layout.size() / 3);
        for (size_t i = 0; i < layout.size(); i += 3) {
            if (layout.size() - i < 3 || layout[i] < 0 || layout[i + 1] != 1)
                throw std::invalid_argument("the layout of the columns is damaged");
            Column column{};
            column.rows = rows, column.type = Type::null;
            column.width = layout[i] > 0 ? layout[i] : 1, column.is_list = layout[i] > 0;
            const int64_t first = layout[i + 2];
            if (first != ABSENT) {
                if (first < 0 || first > width - column.width)
                    throw MalformedBatch("a matrix has " + std::to_string(width) +
                                         " columns, and others were bound");
                const bool contiguous = (rows <= 1 || view_.strides[0] == column.width * item) &&
                                        (column.width == 1 || view_.strides[1] == item);
                if (!contiguous) throw MalformedBatch("a bound column of a matrix is not contiguous");
                column.type = type;
                column.values = static_cast<const uint8_t *>(view_.buf) + first * view_.strides[1];
            }
            found.push_back(std::move(column));
        }
        return found;
    }

  private:
    static Type type_of(const char *format) {
        static const struct {
            char letter;
            Type type;
        } TYPES[] = {
            {'d', Type::float64}, {'f', Type::float32}, {'e', Type::float16},
            {'b', Type::int8},    {'h', Type::int16},   {'i', Type::int32},
            {'l', Type::int64},   {'q', Type::int64},   {'B', Type::uint8},
            {'H', Type::uint16},  {'I', Type::uint32},  {'L', Type::uint64},
            {'Q', Type::uint64},
        };
        if (format && format[0] && !format[1])
            for (const auto &known : TYPES)
                if (known.letter == format[0]) return known.type;
        throw MalformedBatch("the items of a matrix have the format '" +
                             std::string(format ? format : "") +
                             "', which is not a native number format");
    }
    Py_buffer view_{};
};

}  // namespace streambn
