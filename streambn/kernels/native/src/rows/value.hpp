// A value of a row, which may be any Python object.
#pragma once

#include <cstdint>

#include "buffer.hpp"
#include "moments/doubledouble.hpp"

namespace streambn {

enum class ValueKind : uint8_t { number, missing, nan, infinite, other };

struct Value {
    ValueKind kind = ValueKind::number;
    bool exact = true;  // whether it is an integer or a decimal
    Pair x{0, 0};
};

inline bool small_integer(PyObject *object, Pair &x) {
    int overflow = 0;
    const long long whole = PyLong_AsLongLongAndOverflow(object, &overflow);
    constexpr long long LIMIT = 1ll << 53;
    if (overflow || whole > LIMIT || whole < -LIMIT) return false;
    x.hi = static_cast<double>(whole);
    return true;
}

// Reads a value without running Python code. Returns false if that is not possible.
inline bool read_value(PyObject *object, Value &value) {
    if (PyFloat_Check(object)) {  // numpy.float64 is a subclass of float
        value.x.hi = PyFloat_AsDouble(object);
        value.exact = false;
        if (!__builtin_isfinite(value.x.hi))
            value.kind = __builtin_isnan(value.x.hi) ? ValueKind::nan : ValueKind::infinite;
    } else if (object == Py_None) {
        value.kind = ValueKind::missing;
    } else if (PyUnicode_CheckExact(object) || PyBool_Check(object)) {
        value.kind = ValueKind::other;
    } else {
        return PyLong_CheckExact(object) && small_integer(object, value.x);
    }
    return true;
}

// Converts a value with the function `number` of streambn/kernels/rows.py, which runs Python code.
inline Value convert_value(nb::handle object, nb::handle key, nb::handle number) {
    Value value;
    const nb::object found = number(object, key);
    if (found.is_none()) {
        value.kind = ValueKind::other;
        return value;
    }
    const nb::tuple parts = nb::cast<nb::tuple>(found);
    if (parts.size() == 0) {
        value.kind = ValueKind::missing;
        return value;
    }
    value.x = {nb::cast<double>(parts[0]), nb::cast<double>(parts[1])};
    value.exact = nb::cast<bool>(parts[2]);
    if (!__builtin_isfinite(value.x.hi))
        value.kind = __builtin_isnan(value.x.hi) ? ValueKind::nan : ValueKind::infinite;
    return value;
}

}  // namespace streambn
