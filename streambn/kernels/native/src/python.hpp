// What the files that speak to Python share.
#pragma once

#include <nanobind/nanobind.h>

#include <cstring>
#include <stdexcept>
#include <string>

namespace streambn {

namespace nb = nanobind;

// A contiguous block of memory of a Python object, for as long as this lives.
class Block {
  public:
    // `formats`: those of the struct module that are taken for the item; native byte order.
    Block(nb::handle object, size_t item, const char *formats, bool writable = false) {
        const int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nb::python_error();
        const char *format = view_.format ? view_.format : "B";
        if (static_cast<size_t>(view_.itemsize) != item || !format[0] || format[1] ||
            !std::strchr(formats, format[0]) || reinterpret_cast<uintptr_t>(view_.buf) % item) {
            const std::string got = format;
            PyBuffer_Release(&view_);
            throw std::invalid_argument("an array has items of format '" + got +
                                        "' instead of one of '" + formats + "'");
        }
    }
    Block(const Block &) = delete;
    Block &operator=(const Block &) = delete;
    ~Block() { PyBuffer_Release(&view_); }

    template <class T>
    T *as() const { return static_cast<T *>(view_.buf); }
    char format() const { return view_.format ? view_.format[0] : 'B'; }
    size_t items() const { return static_cast<size_t>(view_.len / view_.itemsize); }

  private:
    Py_buffer view_;
};

constexpr char INTEGER[] = "lq";  // int64 in the struct module's letters

inline void expect(size_t items, int64_t wanted, const char *what) {
    if (static_cast<int64_t>(items) != wanted)
        throw std::invalid_argument(std::string(what) + " has " + std::to_string(items) +
                                    " items instead of " + std::to_string(wanted));
}

// Adds the class RowLanes; see rows.cpp.
void bind_rows(nb::module_ &module);
// Adds recursion_weights; see recursion.cpp.
void bind_recursion(nb::module_ &module);
// Adds FlatFile and FlatReader; see parquet.cpp.
void bind_parquet(nb::module_ &module);

}  // namespace streambn
