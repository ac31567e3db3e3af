// The Python module streambn.kernels.native._core: checks at the border, then the kernels
// without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arrow.hpp"
#include "kernels.hpp"
#include "moments.hpp"
#include "reduce.hpp"
#include "transform.hpp"

namespace nb = nanobind;
using namespace streambn;

namespace {

// A contiguous block of memory of a Python object, for as long as this lives.
class Block {
  public:
    Block(nb::handle object, size_t item, bool writable = false) {
        const int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nb::python_error();
        if (static_cast<size_t>(view_.itemsize) != item) {
            const std::string got = std::to_string(view_.itemsize);
            PyBuffer_Release(&view_);
            throw std::invalid_argument("an array has items of " + got + " bytes instead of " +
                                        std::to_string(item));
        }
    }
    Block(const Block &) = delete;
    Block &operator=(const Block &) = delete;
    ~Block() { PyBuffer_Release(&view_); }

    template <class T>
    T *as() const { return static_cast<T *>(view_.buf); }
    size_t items() const { return static_cast<size_t>(view_.len / view_.itemsize); }

  private:
    Py_buffer view_;
};

void expect(size_t items, int64_t wanted, const char *what) {
    if (static_cast<int64_t>(items) != wanted)
        throw std::invalid_argument(std::string(what) + " has " + std::to_string(items) +
                                    " items instead of " + std::to_string(wanted));
}

// A batch that was exported to the C data interface, and the columns found in it.
class Exported {
  public:
    Exported(nb::handle batch, nb::bytes layout) : pair_(batch.attr("__arrow_c_array__")()) {
        if (!PyTuple_Check(pair_.ptr()) || PyTuple_Size(pair_.ptr()) != 2)
            throw MalformedBatch("__arrow_c_array__ gave no pair of capsules");
        const auto *schema = pointer<ArrowSchema>(0, "arrow_schema");
        const auto *array = pointer<ArrowArray>(1, "arrow_array");
        if (!schema->release || !array->release) throw MalformedBatch("the batch was released already");
        if (layout.size() % sizeof(int32_t))
            throw std::invalid_argument("the layout of the columns is damaged");
        std::vector<int32_t> steps(layout.size() / sizeof(int32_t));
        std::memcpy(steps.data(), layout.c_str(), layout.size());
        leaves = find_leaves(*schema, *array, steps.data(), steps.size());
        for (const Leaf &leaf : leaves) lanes += leaf.width;
    }
    std::vector<Leaf> leaves;
    int64_t lanes = 0;

  private:
    template <class T>
    const T *pointer(Py_ssize_t i, const char *name) {
        void *p = PyCapsule_GetPointer(PyTuple_GetItem(pair_.ptr(), i), name);
        if (!p) throw nb::python_error();
        return static_cast<const T *>(p);
    }
    nb::object pair_;
};

void py_block_moments(nb::handle batch, nb::bytes layout, double decay, bool ignore_missing,
                      int threads, nb::handle out) {
    const Exported exported(batch, layout);
    const Block memory(out, sizeof(int64_t), true);
    expect(memory.items(), FIELDS * exported.lanes, "the array of moments");
    if (!(decay >= 0 && decay <= 1)) throw std::invalid_argument("decay must be in [0, 1]");
    std::vector<Moments> moments;
    {
        const nb::gil_scoped_release released;
        moments = block_moments(exported.leaves, {decay, ignore_missing}, threads);
    }
    for (int64_t lane = 0; lane < exported.lanes; ++lane)
        store_lane(memory.as<int64_t>(), exported.lanes, lane, moments[static_cast<size_t>(lane)]);
}

void py_merge_moments(nb::handle older, nb::handle newer, nb::handle out) {
    const Block a(older, sizeof(int64_t)), b(newer, sizeof(int64_t)), memory(out, sizeof(int64_t), true);
    const auto lanes = static_cast<int64_t>(memory.items()) / FIELDS;
    expect(memory.items(), FIELDS * lanes, "the array of merged moments");
    expect(a.items(), FIELDS * lanes, "the array of older moments");
    expect(b.items(), FIELDS * lanes, "the array of newer moments");
    for (int64_t lane = 0; lane < lanes; ++lane)
        store_lane(memory.as<int64_t>(), lanes, lane,
                   merge(load_lane(a.as<int64_t>(), lanes, lane), load_lane(b.as<int64_t>(), lanes, lane)));
}

// ------------------------------------------------------------------------- the transform

// A record batch on its way out: the buffers are Python's, which Arrow allocated.
struct Parcel {
    std::vector<nb::object> owned;
    std::vector<ArrowArray> columns;
    std::vector<ArrowArray *> children;
    std::vector<const void *> buffers;  // two a column, then the batch's own
    ~Parcel() {
        if (owned.empty()) return;
        // Whoever drops a batch need not hold the GIL; an interpreter that is gone needs none.
        if (!Py_IsInitialized()) {
            for (nb::object &object : owned) (void)object.release();
            return;
        }
        const nb::gil_scoped_acquire held;
        owned.clear();
    }
};

void release_child(ArrowArray *array) {
    delete static_cast<std::shared_ptr<Parcel> *>(array->private_data);
    array->release = nullptr;
}

void release_batch(ArrowArray *array) {
    for (int64_t i = 0; i < array->n_children; ++i)
        if (array->children[i]->release) array->children[i]->release(array->children[i]);
    release_child(array);
}

void drop_array(PyObject *capsule) {
    auto *array = static_cast<ArrowArray *>(PyCapsule_GetPointer(capsule, "arrow_array"));
    if (array->release) array->release(array);
    delete array;
}

// Memory from Arrow's pool. Small outputs share a buffer: an allocation takes a microsecond.
class Allocator {
  public:
    explicit Allocator(Parcel &parcel)
        : parcel_(parcel), allocate_(nb::module_::import_("pyarrow").attr("allocate_buffer")) {}
    uint8_t *take(int64_t bytes) {
        bytes = (bytes + 63) / 64 * 64;
        if (bytes > left_) {
            left_ = bytes > SHARED ? bytes : SHARED;
            nb::object buffer = allocate_(left_);
            at_ = reinterpret_cast<uint8_t *>(nb::cast<uintptr_t>(buffer.attr("address")));
            if (reinterpret_cast<uintptr_t>(at_) % 64) throw std::bad_alloc();
            parcel_.owned.push_back(std::move(buffer));
        }
        uint8_t *taken = at_;
        at_ += bytes, left_ -= bytes;
        return taken;
    }

  private:
    static constexpr int64_t SHARED = 64 << 10;
    Parcel &parcel_;
    nb::object allocate_;
    uint8_t *at_ = nullptr;
    int64_t left_ = 0;
};

Type float_type(char format) {
    switch (format) {
        case 'g': return Type::float64;
        case 'f': return Type::float32;
        case 'e': return Type::float16;
        default: throw std::invalid_argument("an output must be float16, float32 or float64");
    }
}

// Returns the capsule of a struct array with one flat child a column.
nb::object py_transform(nb::handle batch, nb::bytes layout, nb::handle location_hi,
                        nb::handle location_lo, nb::handle spread,
                        std::optional<nb::object> gamma, std::optional<nb::object> beta, double clip, nb::handle known, bool inverse,
                        nb::bytes formats, nb::handle nans, nb::handle infs, int threads) {
    const Exported exported(batch, layout);
    const int64_t lanes = exported.lanes;
    const bool affine = gamma && beta;
    const Block hi(location_hi, 8), lo(location_lo, 8), by(spread, 8), is_known(known, 1);
    const Block nan_counts(nans, 8, true), inf_counts(infs, 8, true);
    const std::unique_ptr<Block> factor(affine ? new Block(*gamma, 8) : nullptr);
    const std::unique_ptr<Block> summand(affine ? new Block(*beta, 8) : nullptr);
    for (const Block *block : {&hi, &lo, &by, &is_known, &nan_counts, &inf_counts})
        expect(block->items(), lanes, "an array over lanes");
    if (affine) {
        expect(factor->items(), lanes, "gamma");
        expect(summand->items(), lanes, "beta");
    }
    const size_t columns = exported.leaves.size();
    expect(formats.size(), static_cast<int64_t>(columns), "the list of formats");
    const LaneTransform transformed{hi.as<double>(), lo.as<double>(), by.as<double>(),
                                    affine ? factor->as<double>() : nullptr,
                                    affine ? summand->as<double>() : nullptr,
                                    clip, is_known.as<uint8_t>(), inverse};

    auto parcel = std::make_shared<Parcel>();
    Allocator allocator(*parcel);
    std::vector<Output> outputs(columns);
    int64_t lane = 0;
    for (size_t i = 0; i < columns; ++i) {
        const Leaf &leaf = exported.leaves[i];
        const int64_t elements = leaf.rows * leaf.width;
        outputs[i].type = float_type(formats.c_str()[i]);
        outputs[i].values = allocator.take(elements * size_of(outputs[i].type));
        // Bits are written a word at a time.
        outputs[i].validity = needs_validity(leaf, transformed.known + lane)
                                  ? allocator.take((elements + 63) / 64 * 8)
                                  : nullptr;
        lane += leaf.width;
    }
    {
        const nb::gil_scoped_release released;
        transform(exported.leaves, transformed, outputs, nan_counts.as<int64_t>(),
                  inf_counts.as<int64_t>(), threads);
    }

    parcel->columns.resize(columns);
    parcel->buffers.resize(2 * columns + 1);
    for (size_t i = 0; i < columns; ++i) {
        const Leaf &leaf = exported.leaves[i];
        parcel->buffers[2 * i] = outputs[i].validity;
        parcel->buffers[2 * i + 1] = outputs[i].values;
        parcel->columns[i] = {leaf.rows * leaf.width, outputs[i].null_count, 0, 2, 0,
                              &parcel->buffers[2 * i], nullptr, nullptr, release_child,
                              new std::shared_ptr<Parcel>(parcel)};
        parcel->children.push_back(&parcel->columns[i]);
    }
    const int64_t rows = columns ? exported.leaves[0].rows : 0;
    auto *whole = new ArrowArray{rows, 0, 0, 1, static_cast<int64_t>(columns), &parcel->buffers[2 * columns],
                                 parcel->children.data(), nullptr, release_batch,
                                 new std::shared_ptr<Parcel>(parcel)};
    PyObject *capsule = PyCapsule_New(whole, "arrow_array", drop_array);
    if (!capsule) throw nb::python_error();
    return nb::steal(capsule);
}

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
    m.attr("simd") = kernels().name;
    m.def("block_moments", &py_block_moments);
    m.def("merge_moments", &py_merge_moments);
    m.def("transform", &py_transform);
}
