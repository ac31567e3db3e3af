// Access to the memory of Python objects.
#pragma once

#include <nanobind/nanobind.h>

#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

namespace streambn {

namespace nb = nanobind;

// Owns a view of the C-contiguous memory of a Python object, and releases it on destruction.
class Buffer {
  public:
    // `item` is the size of an item in bytes. `formats` lists the accepted item formats, as letters
    // of the struct module in native byte order.
    Buffer(nb::handle object, size_t item, const char *formats, bool writable = false) {
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
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { PyBuffer_Release(&view_); }

    template <class T>
    T *as() const { return static_cast<T *>(view_.buf); }
    char format() const { return view_.format ? view_.format[0] : 'B'; }
    size_t items() const { return static_cast<size_t>(view_.len / view_.itemsize); }
    void expect(int64_t items_wanted, const char *what) const {
        if (static_cast<int64_t>(items()) != items_wanted)
            throw std::invalid_argument(std::string(what) + " has " + std::to_string(items()) +
                                        " items instead of " + std::to_string(items_wanted));
    }

  private:
    Py_buffer view_;
};

constexpr char INTEGER[] = "lq";  // the formats of int64 in the struct module

// Returns the buffer of an optional argument, or null if the argument is absent.
inline std::unique_ptr<Buffer> optional_buffer(const std::optional<nb::object> &object,
                                               const char *formats, int64_t items,
                                               const char *what, bool writable = false) {
    if (!object) return nullptr;
    std::unique_ptr<Buffer> buffer(new Buffer(*object, 8, formats, writable));
    buffer->expect(items, what);
    return buffer;
}

// Runs `work`, and releases the GIL if the input has at least 16 KB. Less work does not repay the
// release, because the thread that acquires the GIL may hold it for milliseconds.
template <class Work>
void without_gil(int64_t bytes, const Work &work) {
    if (bytes < (16 << 10)) return work();
    const nb::gil_scoped_release released;
    work();
}

// These functions add the functions and classes of one folder each to the Python module.
void bind_moments(nb::module_ &module);
void bind_exact(nb::module_ &module);
void bind_rows(nb::module_ &module);
void bind_row_maps(nb::module_ &module);
void bind_series(nb::module_ &module);
void bind_transform(nb::module_ &module);

}  // namespace streambn
