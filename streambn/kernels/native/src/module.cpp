// The Python module streambn.kernels.native._core: checks at the border, then the kernels
// without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arrow.hpp"
#include "exact.hpp"
#include "kernels.hpp"
#include "matrix.hpp"
#include "moments.hpp"
#include "parallel.hpp"
#include "python.hpp"
#include "reduce.hpp"
#include "transform.hpp"

using namespace streambn;

namespace {

// A batch that was exported to the C data interface, and the columns found in it.
//
// A record batch of pyarrow exports its array alone, into a struct of ours, and its schema
// was exported once, with the layout: for 10 columns that takes 4 µs instead of 6. Anything
// else gives both by the protocol.
class Exported {
  public:
    Exported(nb::handle batch, nb::handle layout) {
        const nb::bytes packed = nb::borrow<nb::bytes>(layout.attr("packed"));
        const nb::object schema = layout.attr("schema");
        if (packed.size() % sizeof(int32_t))
            throw std::invalid_argument("the layout of the columns is damaged");
        std::vector<int32_t> steps(packed.size() / sizeof(int32_t));
        if (!steps.empty()) std::memcpy(steps.data(), packed.c_str(), packed.size());
        if (PyObject_CheckBuffer(batch.ptr())) {
            matrix_.reset(new Matrix(batch));
            set(matrix_->leaves(steps), matrix_->rows());
        } else if (schema.is_none()) {
            capsules_ = batch.attr("__arrow_c_array__")();
            if (!PyTuple_Check(capsules_.ptr()) || PyTuple_Size(capsules_.ptr()) != 2)
                throw MalformedBatch("__arrow_c_array__ gave no pair of capsules");
            find(pointer<ArrowSchema>(PyTuple_GetItem(capsules_.ptr(), 0), "arrow_schema"),
                 pointer<ArrowArray>(PyTuple_GetItem(capsules_.ptr(), 1), "arrow_array"), steps);
        } else {
            batch.attr("_export_to_c")(reinterpret_cast<uintptr_t>(&own_));
            try {
                find(pointer<ArrowSchema>(schema.ptr(), "arrow_schema"), &own_, steps);
            } catch (...) {
                release();
                throw;
            }
        }
    }
    Exported(const Exported &) = delete;
    Exported &operator=(const Exported &) = delete;
    ~Exported() { release(); }

    std::vector<Leaf> leaves;
    int64_t rows = 0, lanes = 0, bytes = 0;

  private:
    template <class T>
    static const T *pointer(PyObject *capsule, const char *name) {
        void *p = PyCapsule_GetPointer(capsule, name);
        if (!p) throw nb::python_error();
        return static_cast<const T *>(p);
    }
    void find(const ArrowSchema *schema, const ArrowArray *array, const std::vector<int32_t> &steps) {
        if (!schema->release || !array->release) throw MalformedBatch("the batch was released already");
        set(find_leaves(*schema, *array, steps.data(), steps.size()), array->length);
    }
    void set(std::vector<Leaf> found, int64_t length) {
        leaves = std::move(found);
        rows = length;
        for (const Leaf &leaf : leaves) {
            lanes += leaf.width;
            bytes += leaf.rows * leaf.width * size_of(leaf.type);
        }
    }
    void release() {
        if (own_.release) own_.release(&own_);
    }
    ArrowArray own_{};
    nb::object capsules_;
    std::unique_ptr<Matrix> matrix_;
};

// Lets other Python threads run while there is much to do. Around a little it would only
// cost: whoever takes the lock may keep it for milliseconds.
template <class Work>
void without_gil(int64_t bytes, const Work &work) {
    if (bytes < (16 << 10)) return work();
    const nb::gil_scoped_release released;
    work();
}

// The moments of a batch, or of what `older` holds followed by the batch.
void py_block_moments(nb::handle batch, nb::handle layout, double decay, bool ignore_missing,
                      std::optional<nb::object> weights, int threads,
                      std::optional<nb::object> older, nb::handle out) {
    const Exported exported(batch, layout);
    const int64_t lanes = exported.lanes;
    const Block memory(out, 8, INTEGER, true);
    expect(memory.items(), FIELDS * lanes, "the array of moments");
    const std::unique_ptr<Block> before(older ? new Block(*older, 8, INTEGER) : nullptr);
    if (before) expect(before->items(), FIELDS * lanes, "the array of older moments");
    if (!(decay >= 0 && decay <= 1)) throw std::invalid_argument("decay must be in [0, 1]");
    const std::unique_ptr<Block> given(weights ? new Block(*weights, 8, "d") : nullptr);
    if (given) expect(given->items(), exported.rows, "the array of weights");
    const Weighing weighing{decay, ignore_missing, given ? given->as<double>() : nullptr};
    std::vector<Moments> moments;
    without_gil(exported.bytes, [&] {
        moments = block_moments(exported.leaves, weighing, threads);
    });
    for (int64_t lane = 0; lane < lanes; ++lane) {
        const Moments &m = moments[static_cast<size_t>(lane)];
        store_lane(memory.as<int64_t>(), lanes, lane,
                   before ? merge(load_lane(before->as<int64_t>(), lanes, lane), m) : m);
    }
}

void py_merge_moments(nb::handle older, nb::handle newer, nb::handle out) {
    const Block a(older, 8, INTEGER), b(newer, 8, INTEGER), memory(out, 8, INTEGER, true);
    const auto lanes = static_cast<int64_t>(memory.items()) / FIELDS;
    expect(memory.items(), FIELDS * lanes, "the array of merged moments");
    expect(a.items(), FIELDS * lanes, "the array of older moments");
    expect(b.items(), FIELDS * lanes, "the array of newer moments");
    for (int64_t lane = 0; lane < lanes; ++lane)
        store_lane(memory.as<int64_t>(), lanes, lane,
                   merge(load_lane(a.as<int64_t>(), lanes, lane), load_lane(b.as<int64_t>(), lanes, lane)));
}

// The exact sums of a batch, or of what `older` holds and the batch. Returns the first lane whose
// two have no common unit, or -1.
int64_t py_exact_sums(nb::handle batch, nb::handle layout, int threads,
                      std::optional<nb::object> older, nb::handle out) {
    const Exported exported(batch, layout);
    const int64_t lanes = exported.lanes;
    const Block memory(out, 8, INTEGER, true);
    expect(memory.items(), EXACT_ROWS * lanes, "the array of exact sums");
    const std::unique_ptr<Block> before(older ? new Block(*older, 8, INTEGER) : nullptr);
    if (before) expect(before->items(), EXACT_ROWS * lanes, "the array of older exact sums");
    std::vector<ExactLane> sums;
    without_gil(exported.bytes, [&] { sums = exact_sums(exported.leaves, threads); });
    for (int64_t lane = 0; lane < lanes; ++lane) {
        ExactLane &sum = sums[static_cast<size_t>(lane)];
        if (before && !merge(sum, load_exact(before->as<int64_t>(), lanes, lane))) return lane;
        store_exact(memory.as<int64_t>(), lanes, lane, sum);
    }
    return -1;
}

int64_t py_merge_exact(nb::handle older, nb::handle newer, nb::handle out) {
    const Block a(older, 8, INTEGER), b(newer, 8, INTEGER), memory(out, 8, INTEGER, true);
    const auto lanes = static_cast<int64_t>(memory.items()) / EXACT_ROWS;
    expect(memory.items(), EXACT_ROWS * lanes, "the array of merged exact sums");
    expect(a.items(), EXACT_ROWS * lanes, "the array of older exact sums");
    expect(b.items(), EXACT_ROWS * lanes, "the array of newer exact sums");
    for (int64_t lane = 0; lane < lanes; ++lane) {
        ExactLane sum = load_exact(a.as<int64_t>(), lanes, lane);
        if (!merge(sum, load_exact(b.as<int64_t>(), lanes, lane))) return lane;
        store_exact(memory.as<int64_t>(), lanes, lane, sum);
    }
    return -1;
}

// What rows weigh by the times at which they happened; see reference/times.py.
void py_time_weights(nb::handle ticks, nb::handle latest, double halflives,
                     std::optional<nb::object> weights, int threads, nb::handle out) {
    const Block times(ticks, 8, "dlq"), memory(out, 8, "d", true);
    const auto rows = static_cast<int64_t>(times.items());
    expect(memory.items(), rows, "the array for the weights");
    const std::unique_ptr<Block> given(weights ? new Block(*weights, 8, "d") : nullptr);
    if (given) expect(given->items(), rows, "the array of weights");
    const bool whole = times.format() != 'd';
    Origin now;
    if (whole)
        now.integer = nb::cast<int64_t>(latest);
    else
        now.number = nb::cast<double>(latest);
    const double *from = given ? given->as<double>() : nullptr;
    const int64_t bytes = rows * (given ? 24 : 16);
    without_gil(bytes, [&] {
        run_tasks<std::nullptr_t>((rows + CHUNK - 1) / CHUNK, bytes, threads,
                                  [&](int64_t i, std::nullptr_t) {
            const int64_t start = i * CHUNK, n = std::min(CHUNK, rows - start);
            kernels().time_weights(times.as<char>() + 8 * start, whole, n, now, -halflives,
                                   from ? from + start : nullptr, memory.as<double>() + start);
        });
    });
}

// ------------------------------------------------------------------------- the transform

// Columns on their way out: the buffers are Python's, which Arrow allocated. The arrays of
// the interface are handed over by value, so each holds a share of what they point to.
struct Parcel {
    std::vector<nb::object> owned;
    std::vector<ArrowArray> arrays;     // the columns, then the values of those that are lists
    std::vector<ArrowArray *> children; // likewise
    std::vector<const void *> buffers;  // two an array, then the batch's own
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

void release_array(ArrowArray *array) {
    for (int64_t i = 0; i < array->n_children; ++i)
        if (array->children[i]->release) array->children[i]->release(array->children[i]);
    array->release = nullptr;
    delete static_cast<std::shared_ptr<Parcel> *>(array->private_data);
}

// Memory from Arrow's pool. Small outputs share a buffer: an allocation takes a microsecond.
class Allocator {
  public:
    // `allocate` makes a buffer of so many bytes.
    Allocator(Parcel &parcel, nb::handle allocate) : parcel_(parcel), allocate_(allocate) {}
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
    // Bits are written a word at a time.
    uint8_t *take_bits(int64_t bits) { return take((bits + 63) / 64 * 8); }

  private:
    static constexpr int64_t SHARED = 64 << 10;
    Parcel &parcel_;
    nb::handle allocate_;
    uint8_t *at_ = nullptr;
    int64_t left_ = 0;
};

// The float type of a column in the schema of the output.
Type output_type(const ArrowSchema *column, const Leaf &leaf) {
    const bool list = column && column->format && std::strncmp(column->format, "+w:", 3) == 0;
    if (list != leaf.is_list || (list && column->n_children != 1))
        throw std::invalid_argument("an output is a list where its input is none, or the reverse");
    const char *format = list ? column->children[0]->format : column ? column->format : nullptr;
    if (format && format[0] && !format[1]) {
        if (format[0] == 'g') return Type::float64;
        if (format[0] == 'f') return Type::float32;
        if (format[0] == 'e') return Type::float16;
    }
    throw std::invalid_argument("an output must be float16, float32 or float64");
}

// The validity of a column's lists, of its own and of the structs around it.
int64_t write_list_validity(const Leaf &leaf, uint8_t *to) {
    int64_t valid = 0;
    for (int64_t start = 0; start < leaf.rows; start += 64) {
        const int n = static_cast<int>(std::min<int64_t>(64, leaf.rows - start));
        uint64_t word = ~uint64_t{0} >> (64 - n);
        for (const Bitmap &map : leaf.outer) word &= map.word(start, n);
        std::memcpy(to + start / 8, &word, sizeof word);
        valid += __builtin_popcountll(word);
    }
    return leaf.rows - valid;
}

// Hand the outputs over: a struct array with a child a column.
ArrowArray packed(const std::shared_ptr<Parcel> &parcel, const std::vector<Leaf> &leaves,
                  const std::vector<Output> &outputs, const std::vector<uint8_t *> &list_validity) {
    const size_t columns = leaves.size();
    parcel->arrays.resize(2 * columns);
    parcel->children.resize(2 * columns);
    parcel->buffers.resize(4 * columns + 1);
    for (size_t i = 0; i < columns; ++i) {
        const Leaf &leaf = leaves[i];
        const size_t values = leaf.is_list ? columns + i : i;
        const void **buffers = &parcel->buffers[2 * values];
        buffers[0] = outputs[i].validity;
        buffers[1] = outputs[i].values;
        parcel->arrays[values] = {leaf.rows * leaf.width, outputs[i].null_count, 0, 2, 0, buffers,
                                  nullptr, nullptr, release_array, new std::shared_ptr<Parcel>(parcel)};
        parcel->children[i] = &parcel->arrays[i];
        if (!leaf.is_list) continue;
        parcel->children[columns + i] = &parcel->arrays[columns + i];
        const void **own = &parcel->buffers[2 * i];
        own[0] = list_validity[i];
        const int64_t nulls = list_validity[i] ? write_list_validity(leaf, list_validity[i]) : 0;
        parcel->arrays[i] = {leaf.rows, nulls, 0, 1, 1, own, &parcel->children[columns + i], nullptr,
                             release_array, new std::shared_ptr<Parcel>(parcel)};
    }
    return {columns ? leaves[0].rows : 0, 0, 0, 1, static_cast<int64_t>(columns),
            &parcel->buffers[4 * columns], parcel->children.data(), nullptr, release_array,
            new std::shared_ptr<Parcel>(parcel)};
}

// Returns what `import_batch` makes of the address of the output, or None where a location is so far away that its
// subtraction could overflow, or a spread so large or small that its reciprocal is not exact.
nb::object py_transform(nb::handle batch, nb::handle layout, nb::handle location_hi,
                        nb::handle location_lo, nb::handle spread, std::optional<nb::object> gamma,
                        std::optional<nb::object> beta, double clip, nb::handle known, bool inverse,
                        nb::handle schema, nb::handle nans, nb::handle infs, int threads,
                        nb::handle allocate, nb::handle import_batch) {
    const Exported exported(batch, layout);
    const int64_t lanes = exported.lanes;
    const bool affine = gamma && beta;
    const Block hi(location_hi, 8, "d"), lo(location_lo, 8, "d"), by(spread, 8, "d");
    const Block is_known(known, 1, "?");
    const Block nan_counts(nans, 8, INTEGER, true), inf_counts(infs, 8, INTEGER, true);
    const std::unique_ptr<Block> factor(affine ? new Block(*gamma, 8, "d") : nullptr);
    const std::unique_ptr<Block> summand(affine ? new Block(*beta, 8, "d") : nullptr);
    for (const Block *block : {&hi, &lo, &by, &is_known, &nan_counts, &inf_counts})
        expect(block->items(), lanes, "an array over lanes");
    if (affine) {
        expect(factor->items(), lanes, "gamma");
        expect(summand->items(), lanes, "beta");
    }
    const LaneTransform transformed{hi.as<double>(), lo.as<double>(), by.as<double>(),
                                    affine ? factor->as<double>() : nullptr,
                                    affine ? summand->as<double>() : nullptr,
                                    clip, is_known.as<uint8_t>(), inverse};
    for (int64_t lane = 0; lane < lanes; ++lane)
        if (std::fabs(transformed.location_hi[lane]) > 0x1p969 ||
            transformed.spread[lane] > 0x1p500 || transformed.spread[lane] < 0x1p-500)
            return nb::none();
    const auto *wanted = static_cast<ArrowSchema *>(PyCapsule_GetPointer(schema.ptr(), "arrow_schema"));
    if (!wanted) throw nb::python_error();
    const size_t columns = exported.leaves.size();
    expect(static_cast<size_t>(wanted->n_children), static_cast<int64_t>(columns), "the output's schema");

    auto parcel = std::make_shared<Parcel>();
    Allocator allocator(*parcel, allocate);
    std::vector<Output> outputs(columns);
    std::vector<uint8_t *> list_validity(columns);
    int64_t lane = 0;
    for (size_t i = 0; i < columns; ++i) {
        const Leaf &leaf = exported.leaves[i];
        const int64_t elements = leaf.rows * leaf.width;
        outputs[i].type = output_type(wanted->children[i], leaf);
        outputs[i].values = allocator.take(elements * size_of(outputs[i].type));
        if (needs_validity(leaf, transformed.known + lane))
            outputs[i].validity = allocator.take_bits(elements);
        if (leaf.is_list && !leaf.outer.empty()) list_validity[i] = allocator.take_bits(leaf.rows);
        lane += leaf.width;
    }
    without_gil(exported.bytes, [&] {
        transform(exported.leaves, transformed, outputs, nan_counts.as<int64_t>(),
                  inf_counts.as<int64_t>(), threads);
    });
    ArrowArray whole = packed(parcel, exported.leaves, outputs, list_validity);
    try {
        return import_batch(reinterpret_cast<uintptr_t>(&whole));
    } catch (...) {
        if (whole.release) whole.release(&whole);
        throw;
    }
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
    // What an interpreter that ends still holds is no leak: it says so on stderr otherwise.
    nb::set_leak_warnings(false);
    m.attr("simd") = kernels().name;
    m.def("block_moments", &py_block_moments);
    m.def("merge_moments", &py_merge_moments);
    m.def("exact_sums", &py_exact_sums);
    m.def("merge_exact", &py_merge_exact);
    m.def("time_weights", &py_time_weights);
    m.def("transform", &py_transform);
    bind_rows(m);
    bind_recursion(m);
    bind_parquet(m);
}
