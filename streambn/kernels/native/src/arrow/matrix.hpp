// A matrix of numbers in place of a batch, such as a NumPy array. It needs no Arrow arrays, and is
// read in place whatever its strides.
#pragma once

#include <cstdlib>
#include <vector>

#include "arrow/columns.hpp"
#include "buffer.hpp"

namespace streambn {

class Matrix {
  public:
    explicit Matrix(nb::handle object, bool writable = false) {
        const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nb::python_error();
        if (view_.ndim != 2) {
            PyBuffer_Release(&view_);
            throw MalformedBatch("a matrix must have two dimensions");
        }
    }
    Matrix(const Matrix &) = delete;
    Matrix &operator=(const Matrix &) = delete;
    ~Matrix() { PyBuffer_Release(&view_); }

    int64_t rows() const { return view_.shape[0]; }
    int64_t width() const { return view_.shape[1]; }
    // Whether the values of a row lie closer together than those of a column.
    bool by_rows() const { return std::abs(view_.strides[1]) <= std::abs(view_.strides[0]); }
    // Returns the bound columns. `layout` has the form that `find_columns` reads. If `lists` is true,
    // adjacent columns become one column of lists, which has the same features.
    std::vector<Column> columns(const std::vector<int32_t> &layout, bool lists) const {
        const Type type = type_of(view_.format);
        const int64_t rows = view_.shape[0], width = view_.shape[1], item = view_.itemsize;
        const int64_t row_step = view_.strides[0], value_step = view_.strides[1];
        if (item != size_of(type) || reinterpret_cast<uintptr_t>(view_.buf) % static_cast<size_t>(item) ||
            (rows > 1 && row_step % item) || (width > 1 && value_step % item))
            throw MalformedBatch("the items of a matrix do not have the size of their type");
        std::vector<Column> found;
        found.reserve(layout.size() / 3);
        int64_t next = ABSENT;  // the column after a run of plain columns
        for (size_t i = 0; i < layout.size(); i += 3) {
            if (layout.size() - i < 3 || layout[i] < 0 || layout[i + 1] != 1)
                throw std::invalid_argument("the layout of the columns is damaged");
            const int64_t size = layout[i], first = layout[i + 2];
            Column column{};
            column.rows = rows, column.type = Type::null;
            column.width = size > 0 ? size : 1, column.is_list = size > 0;
            if (first != ABSENT) {
                if (first < 0 || first > width - column.width)
                    throw MalformedBatch("a matrix has " + std::to_string(width) +
                                         " columns, and others were bound");
                if (size == 0 && lists && first == next) {
                    found.back().width += 1, found.back().is_list = true;
                    next += 1;
                    continue;
                }
                column.type = type;
                column.values = static_cast<const uint8_t *>(view_.buf) + first * value_step;
                column.row_step = row_step, column.value_step = value_step;
            }
            next = first != ABSENT && size == 0 ? first + 1 : ABSENT;
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
