// The output batch of a transform, as arrays of the Arrow C data interface.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrow/batch.hpp"
#include "buffer.hpp"
#include "transform/transform.hpp"

namespace streambn {

// The memory of an output batch. The buffers are Python objects that Arrow allocated. A consumer
// may move each array of the C data interface away by value, so each array shares ownership of the
// parcel. It counts its owners itself, because an allocation for each array would take a tenth of
// the time of a batch of one row.
struct Parcel {
    std::atomic<int64_t> owners{1};
    std::vector<nb::object> owned;
    std::vector<ArrowArray> arrays;      // the columns, then the values of list columns
    std::vector<ArrowArray *> children;  // pointers to `arrays`, in the same order
    std::vector<const void *> buffers;   // two per array, then one of the batch
    ~Parcel() {
        if (owned.empty()) return;
        // The last owner may not hold the GIL. A finalized interpreter has no GIL, and the objects
        // are leaked.
        if (!Py_IsInitialized()) {
            for (nb::object &object : owned) (void)object.release();
            return;
        }
        const nb::gil_scoped_acquire held;
        owned.clear();
    }
    Parcel *share() {
        owners.fetch_add(1, std::memory_order_relaxed);
        return this;
    }
    void let_go() {
        if (owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }
};

inline void release_array(ArrowArray *array) {
    for (int64_t i = 0; i < array->n_children; ++i)
        if (array->children[i]->release) array->children[i]->release(array->children[i]);
    array->release = nullptr;
    static_cast<Parcel *>(array->private_data)->let_go();
}

// Allocates memory from Arrow's pool. Small outputs share a buffer, because an allocation takes
// 1 µs.
class Allocator {
  public:
    // `allocate` is a Python function that returns an Arrow buffer of a given size.
    Allocator(Parcel &parcel, nb::handle allocate) : parcel_(parcel), allocate_(allocate) {}
    uint8_t *take(int64_t bytes) {
        bytes = (bytes + 63) / 64 * 64;
        if (bytes > left_) {
            left_ = std::max(bytes, SHARED);
            nb::object buffer = allocate_(left_);
            at_ = reinterpret_cast<uint8_t *>(nb::cast<uintptr_t>(buffer.attr("address")));
            if (reinterpret_cast<uintptr_t>(at_) % 64) throw std::bad_alloc();
            parcel_.owned.push_back(std::move(buffer));
        }
        uint8_t *taken = at_;
        at_ += bytes, left_ -= bytes;
        return taken;
    }
    // The size is a whole number of 64-bit words, because bits are written one word at a time.
    uint8_t *take_bits(int64_t bits) { return take((bits + 63) / 64 * 8); }

  private:
    static constexpr int64_t SHARED = 64 << 10;
    Parcel &parcel_;
    nb::handle allocate_;
    uint8_t *at_ = nullptr;
    int64_t left_ = 0;
};

// Returns the float type of a column in the output's schema.
inline Type output_type(const ArrowSchema *field, const Column &column) {
    const bool list = field && field->format && std::strncmp(field->format, "+w:", 3) == 0;
    if (list != column.is_list || (list && field->n_children != 1))
        throw std::invalid_argument("an output must be a list exactly where its input is a list");
    const char *format = list ? field->children[0]->format : field ? field->format : nullptr;
    if (format && format[0] && !format[1]) {
        if (format[0] == 'g') return Type::float64;
        if (format[0] == 'f') return Type::float32;
        if (format[0] == 'e') return Type::float16;
    }
    throw std::invalid_argument("an output must be float16, float32 or float64");
}

// Writes the validity of a column's lists, combined with that of the enclosing structs. Returns the
// number of null lists.
inline int64_t write_list_validity(const Column &column, uint8_t *to) {
    int64_t valid = 0;
    for (int64_t start = 0; start < column.rows; start += 64) {
        const int n = static_cast<int>(std::min<int64_t>(64, column.rows - start));
        uint64_t word = ~uint64_t{0} >> (64 - n);
        for (const Bitmap &map : column.outer) word &= map.word(start, n);
        std::memcpy(to + start / 8, &word, sizeof word);
        valid += __builtin_popcountll(word);
    }
    return column.rows - valid;
}

// Builds a struct array with one child per column.
inline ArrowArray packed(Parcel *parcel, const std::vector<Column> &columns,
                         const std::vector<Output> &outputs, const std::vector<uint8_t *> &list_validity) {
    const size_t count = columns.size();
    parcel->arrays.resize(2 * count);
    parcel->children.resize(2 * count);
    parcel->buffers.resize(4 * count + 1);
    for (size_t i = 0; i < count; ++i) {
        const Column &column = columns[i];
        const size_t values = column.is_list ? count + i : i;
        const void **buffers = &parcel->buffers[2 * values];
        buffers[0] = outputs[i].validity;
        buffers[1] = outputs[i].values;
        parcel->arrays[values] = {column.rows * column.width, outputs[i].null_count, 0, 2, 0, buffers,
                                  nullptr, nullptr, release_array, parcel->share()};
        parcel->children[i] = &parcel->arrays[i];
        if (!column.is_list) continue;
        parcel->children[count + i] = &parcel->arrays[count + i];
        const void **own = &parcel->buffers[2 * i];
        own[0] = list_validity[i];
        const int64_t nulls = list_validity[i] ? write_list_validity(column, list_validity[i]) : 0;
        parcel->arrays[i] = {column.rows, nulls, 0, 1, 1, own, &parcel->children[count + i], nullptr,
                             release_array, parcel->share()};
    }
    return {count ? columns[0].rows : 0, 0, 0, 1, static_cast<int64_t>(count),
            &parcel->buffers[4 * count], parcel->children.data(), nullptr, release_array, parcel->share()};
}

// An output batch of one column for each input column, which Arrow takes over.
class OutputBatch {
  public:
    // Allocates the columns of a schema capsule. `allocate` is that of `Allocator`.
    // `needs_validity(i, first)` tells whether column i, whose first feature is given, needs a
    // validity bitmap.
    template <class NeedsValidity>
    OutputBatch(const std::vector<Column> &columns, nb::handle schema, nb::handle allocate,
                const NeedsValidity &needs_validity)
        : outputs(columns.size()), columns_(columns), list_validity_(columns.size()) {
        const auto *wanted = static_cast<ArrowSchema *>(PyCapsule_GetPointer(schema.ptr(), "arrow_schema"));
        if (!wanted) throw nb::python_error();
        if (wanted->n_children != static_cast<int64_t>(columns.size()))
            throw std::invalid_argument("the output's schema has " + std::to_string(wanted->n_children) +
                                        " columns instead of " + std::to_string(columns.size()));
        Allocator allocator(*parcel_, allocate);
        int64_t first = 0;
        for (size_t i = 0; i < columns.size(); ++i) {
            const Column &column = columns[i];
            const int64_t elements = column.rows * column.width;
            outputs[i].type = output_type(wanted->children[i], column);
            const int64_t size = size_of(outputs[i].type);
            outputs[i].values = allocator.take(elements * size);
            outputs[i].row_step = column.width * size, outputs[i].value_step = size;
            if (needs_validity(i, first)) outputs[i].validity = allocator.take_bits(elements);
            if (column.is_list && !column.outer.empty())
                list_validity_[i] = allocator.take_bits(column.rows);
            first += column.width;
        }
    }
    // Returns the result of `import_batch` for the address of the batch.
    nb::object import(nb::handle import_batch) const {
        ArrowArray whole = packed(parcel_.get(), columns_, outputs, list_validity_);
        try {
            return import_batch(reinterpret_cast<uintptr_t>(&whole));
        } catch (...) {
            if (whole.release) whole.release(&whole);
            throw;
        }
    }
    std::vector<Output> outputs;

  private:
    const std::vector<Column> &columns_;
    std::vector<uint8_t *> list_validity_;
    struct LetGo {
        void operator()(Parcel *parcel) const { parcel->let_go(); }
    };
    std::unique_ptr<Parcel, LetGo> parcel_{new Parcel};
};

}  // namespace streambn
