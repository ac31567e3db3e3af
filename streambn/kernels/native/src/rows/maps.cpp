// The Python class RowMaps, which normalizes rows given as dicts by maps that never change.
#include <nanobind/stl/optional.h>

#include <cmath>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "buffer.hpp"
#include "rows/feature.hpp"
#include "rows/value.hpp"

namespace streambn {

namespace {

// The object never changes, so any number of threads may use it. A row is copied before it is read,
// because the conversion of a value may run Python code that changes the row.
class RowMaps {
  public:
    // `number` and `refuse` are those of RowStatistics. `affine` tells whether the maps have a gamma
    // and a beta: adding a beta of 0 would turn -0.0 into 0.0. If `may_lack` is true, a row may lack
    // features.
    RowMaps(nb::list names, std::vector<FeatureMap> maps, bool affine, double clip, bool may_lack,
            Handling nan, Handling inf, nb::object number, nb::object refuse)
        : maps_(std::move(maps)), affine_(affine), clip_(clip), may_lack_(may_lack), nan_(nan), inf_(inf),
          number_(std::move(number)), refuse_(std::move(refuse)) {
        for (size_t i = 0; i < maps_.size(); ++i) {
            names_.push_back(nb::borrow(names[i]));
            texts_.push_back(text_of(names_.back().ptr()));
            if (!texts_.back()) throw std::invalid_argument("a feature has a name that is not text");
            index_[names_.back()] = i;
        }
        if (nb::len(index_) != maps_.size()) throw std::invalid_argument("a feature is given twice");
    }

    nb::object transform(nb::handle row) const {
        return map(row, [&](const FeatureMap &map, nb::handle key, nb::handle given, const Value &value) {
            if (value.kind == ValueKind::nan && nan_ == Handling::raise) refuse("nan", key, given);
            if (value.kind == ValueKind::infinite && inf_ == Handling::raise) refuse("inf", key, given);
            return normalized(map, value.x);
        });
    }
    nb::object inverse(nb::handle row) const {
        return map(row, [&](const FeatureMap &map, nb::handle, nb::handle, const Value &value) {
            return restored(map, value.x);
        });
    }

  private:
    // Returns a copy of a row with its features replaced. Other items stay.
    template <class Function>
    nb::object map(nb::handle row, const Function &function) const {
        if (!PyDict_Check(row.ptr())) refuse("row", nb::none(), row);
        nb::object out = nb::steal(PyDict_Copy(row.ptr()));
        if (!out.is_valid()) throw nb::python_error();
        size_t next = 0, found = 0;
        Py_ssize_t at = 0;
        PyObject *key, *given;
        while (PyDict_Next(out.ptr(), &at, &key, &given)) {
            const int64_t feature = find(key, next);
            if (feature < 0) continue;
            next = static_cast<size_t>(feature) + 1;
            ++found;
            Value value;
            // The items are held while Python code runs.
            nb::object held_key, held;
            if (!read_value(given, value)) {
                held_key = nb::borrow(key), held = nb::borrow(given);
                value = convert_value(given, key, number_);
            }
            if (value.kind == ValueKind::other) refuse("text", key, given);
            const FeatureMap &map = maps_[static_cast<size_t>(feature)];
            nb::object result = nb::none();
            if (value.kind != ValueKind::missing) {
                const double y = function(map, key, given, value);
                if (map.known) result = nb::steal(PyFloat_FromDouble(y));
            }
            // The keys stay the same, so the iteration goes on.
            if (!result.is_valid() || PyDict_SetItem(out.ptr(), key, result.ptr()) != 0)
                throw nb::python_error();
        }
        if (found < maps_.size() && !may_lack_) refuse_missing(out);
        return out;
    }

    // Rows mostly have the features in their order. To compare names is faster than to look one up.
    int64_t find(PyObject *key, size_t next) const {
        if (next < names_.size()) {
            if (names_[next].ptr() == key) return static_cast<int64_t>(next);
            if (PyUnicode_CheckExact(key) && text_of(key) == texts_[next]) return static_cast<int64_t>(next);
        }
        PyObject *const index = PyDict_GetItemWithError(index_.ptr(), key);
        if (!index && PyErr_Occurred()) throw nb::python_error();
        return index ? PyLong_AsLongLong(index) : -1;
    }

    // Returns the text of a name, or nothing if it is not Unicode.
    static std::optional<std::string_view> text_of(PyObject *name) {
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(name, &size);
        if (text) return std::string_view(text, static_cast<size_t>(size));
        PyErr_Clear();
        return std::nullopt;
    }

    // The arithmetic, step by step, is that of `mapped` in simd/maps.hpp, whose results have the
    // same bits.
    double normalized(const FeatureMap &map, Pair x) const {
        Pair location = map.location;
        double scale = map.scale;
        if (is_extreme(map)) {
            // The difference could overflow, so divide all three numbers by 4.
            x = {x.hi / 4, x.lo / 4}, location = {location.hi / 4, location.lo / 4}, scale /= 4;
        }
        double y = x.hi - location.hi;
        if (x.lo != 0) y += x.lo;
        y = (y - location.lo) / scale;
        // With this order of comparisons, NaN stays NaN.
        y = y > clip_ ? clip_ : y < -clip_ ? -clip_ : y;
        return affine_ ? y * map.gamma + map.beta : y;
    }
    double restored(const FeatureMap &map, Pair y) const {
        double z = y.hi + y.lo;
        if (affine_) z = (z - map.beta) / map.gamma;
        if (!is_extreme(map)) return (z * map.scale + map.location.lo) + map.location.hi;
        return ((z * (map.scale / 4) + map.location.lo / 4) + map.location.hi / 4) * 4;
    }
    static bool is_extreme(const FeatureMap &map) {
        return std::fabs(map.location.hi) > 0x1p969 || map.scale > 0x1p969;
    }

    [[noreturn]] void refuse_missing(nb::handle row) const {
        size_t i = 0;
        while (i + 1 < names_.size() && PyDict_Contains(row.ptr(), names_[i].ptr()) == 1) ++i;
        if (PyErr_Occurred()) throw nb::python_error();
        refuse("missing", names_[i], row);
    }
    [[noreturn]] void refuse(const char *why, nb::handle key, nb::handle value) const {
        refuse_(why, key, value);
        throw std::logic_error("the function that refuses a row must raise");
    }

    std::vector<nb::object> names_;
    std::vector<std::optional<std::string_view>> texts_;  // of the names
    nb::dict index_;
    std::vector<FeatureMap> maps_;
    bool affine_;
    double clip_;
    bool may_lack_;
    Handling nan_, inf_;
    nb::object number_, refuse_;
};

}  // namespace

void bind_row_maps(nb::module_ &module) {
    nb::class_<RowMaps>(module, "RowMaps")
        .def("__init__",
             [](RowMaps *self, nb::list names, nb::handle location_hi, nb::handle location_lo, nb::handle scale,
                std::optional<nb::object> gamma, std::optional<nb::object> beta, double clip, nb::handle known,
                bool may_lack, int nan, int inf, nb::object number, nb::object refuse) {
                 const auto count = static_cast<int64_t>(nb::len(names));
                 const Buffer hi(location_hi, 8, "d"), lo(location_lo, 8, "d"), by(scale, 8, "d");
                 const Buffer is_known(known, 1, "?");
                 for (const Buffer *buffer : {&hi, &lo, &by, &is_known})
                     buffer->expect(count, "an array over features");
                 const bool affine = gamma && beta;
                 const auto factor = optional_buffer(affine ? gamma : std::nullopt, "d", count, "gamma");
                 const auto summand = optional_buffer(affine ? beta : std::nullopt, "d", count, "beta");
                 if (nan < 0 || nan > 2 || inf < 0 || inf > 2)
                     throw std::invalid_argument("a rule of the rows is out of its domain");
                 std::vector<FeatureMap> maps;
                 for (int64_t i = 0; i < count; ++i)
                     maps.push_back({{hi.as<double>()[i], lo.as<double>()[i]}, by.as<double>()[i],
                                     affine ? factor->as<double>()[i] : 1.0,
                                     affine ? summand->as<double>()[i] : 0.0, is_known.as<uint8_t>()[i] != 0});
                 new (self) RowMaps(std::move(names), std::move(maps), affine, clip, may_lack,
                                    static_cast<Handling>(nan), static_cast<Handling>(inf), std::move(number),
                                    std::move(refuse));
             })
        .def("transform", &RowMaps::transform, nb::arg().none())
        .def("inverse", &RowMaps::inverse, nb::arg().none());
}

}  // namespace streambn
