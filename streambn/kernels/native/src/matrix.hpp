// A matrix of numbers, such as NumPy's, in the place of a batch: no array a column is made.
#pragma once

#include <vector>

#include "arrow.hpp"
#include "python.hpp"

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
    // Find columns, in the words of `find_leaves`.
    std::vector<Leaf> leaves(const std::vector<int32_t> &steps) const {
        if (view_.ndim != 2) throw MalformedBatch("a matrix must have two dimensions");
        const Type type = type_of(view_.format);
        const int64_t rows = view_.shape[0], columns = view_.shape[1], item = view_.itemsize;
        if (item != size_of(type) || reinterpret_cast<uintptr_t>(view_.buf) % static_cast<size_t>(item))
            throw MalformedBatch("a matrix has items of another size than their type");
        std::vector<Leaf> found;
        found.reserve(steps.size() / 3);
        for (size_t i = 0; i < steps.size(); i += 3) {
            if (steps.size() - i < 3 || steps[i] < 0 || steps[i + 1] != 1)
                throw std::invalid_argument("the layout of the columns is damaged");
            Leaf leaf{};
            leaf.rows = rows, leaf.type = Type::null;
            leaf.width = steps[i] > 0 ? steps[i] : 1, leaf.is_list = steps[i] > 0;
            const int64_t first = steps[i + 2];
            if (first != ABSENT) {
                if (first < 0 || first > columns - leaf.width)
                    throw MalformedBatch("a matrix has " + std::to_string(columns) +
                                         " columns, and others were bound");
                const bool dense = (rows <= 1 || view_.strides[0] == leaf.width * item) &&
                                   (leaf.width == 1 || view_.strides[1] == item);
                if (!dense) throw MalformedBatch("a matrix has a bound column in several pieces");
                leaf.type = type;
                leaf.values = static_cast<const uint8_t *>(view_.buf) + first * view_.strides[1];
            }
            found.push_back(std::move(leaf));
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
        throw MalformedBatch("a matrix has items of format '" + std::string(format ? format : "") +
                             "', which are no numbers of this machine");
    }
    Py_buffer view_{};
};

}  // namespace streambn
