// The Python class RowStatistics, which learns and transforms rows given as dicts.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "buffer.hpp"
#include "rows/feature.hpp"
#include "rows/value.hpp"

namespace streambn {

namespace {

constexpr double MAX_WEIGHT = 1e30;  // equal to MAX_WEIGHT in streambn/kernels/rows.py

using Kind = ValueKind;

// An item of a row, which owns the key and the value.
struct Item : Value {
    PyObject *key, *value;
    int64_t feature;  // -1 if the key is no known feature
};

class RowStatistics {
  public:
    // `number` converts a number to (hi, lo, exact). It returns () for a missing value, and None for
    // a value that is not a number. `refuse` raises the error of a given name. Both must be
    // module-level functions, because the garbage collector cannot traverse this object.
    //
    // `unseen` maps the values of features without statistics. If `unseen.known` is true, such
    // values are refused instead.
    RowStatistics(RowRules rules, FeatureMap unseen, nb::dict affine, nb::object number, nb::object refuse)
        : rules_(rules), unseen_(unseen), affine_(std::move(affine)), number_(std::move(number)),
          refuse_(std::move(refuse)) {}
    ~RowStatistics() {
        for (const Recent &recent : recent_) Py_DECREF(recent.key);
    }

    // Learns one row. `given` is the weight of the row; null stands for 1.
    void learn(nb::handle row, PyObject *given) {
        const double weight = given ? weight_of(given) : 1.0;
        Row read(*this, row);
        for (const Item &item : read.items) {
            const bool refused = (item.kind == Kind::nan && rules_.nan == Handling::raise) ||
                                 (item.kind == Kind::infinite && rules_.inf == Handling::raise);
            if (refused) refuse(item.kind == Kind::nan ? "nan" : "inf", item);
            if (item.kind == Kind::other && item.feature >= 0) refuse("other", item);
        }
        // The row is valid, and the state may change. A row of weight 0 has no effect.
        if (weight == 0) return;
        std::vector<Fresh> fresh;
        for (const Item &item : read.items)
            if (is_new(item)) fresh.push_back({nb::borrow(item.key)});
        for (Fresh &feature : fresh) prepare(feature);
        // From here on no Python code runs, so no other thread sees or learns part of a row.
        auto next = fresh.begin();
        for (Item &item : read.items) {
            if (is_new(item)) item.feature = append(*next++);
            if (item.feature < 0) continue;
            RowFeature &feature = features_[static_cast<size_t>(item.feature)];
            settle(feature);
            feature.rows += 1;
            if (item.kind == Kind::number) {
                feature.exact = feature.exact && item.exact;
                learn_value(feature, rules_, item.x, weight, shares_);
                continue;
            }
            Moments &m = feature.m;
            if (item.kind == Kind::missing)
                m.nulls += 1;
            else if (item.kind == Kind::nan)
                m.nans += 1;
            else
                (item.x.hi > 0 ? m.pos_infs : m.neg_infs) += 1;
            // NaN and infinities change the map if they propagate.
            if (item.kind != Kind::missing) feature.exact = feature.is_mapped = false;
            learn_missing(feature, rules_, 1);
        }
        rows_ += 1;
    }

    // Only a number, NaN and infinities included, adds a feature. A missing value may belong to a
    // text column.
    static bool is_new(const Item &item) {
        return item.feature < 0 && item.kind != Kind::other && item.kind != Kind::missing;
    }

    nb::object transform(nb::handle row) {
        const Row read(*this, row);
        const nb::object out = nb::steal(PyDict_Copy(row.ptr()));
        if (!out.is_valid()) throw nb::python_error();
        for (const Item &item : read.items) {
            // Copy a value that is not a number unchanged, unless it belongs to a known feature.
            if (item.kind == Kind::other && item.feature >= 0) refuse("other", item);
            if (item.kind == Kind::other || item.kind == Kind::missing) continue;
            if (item.kind == Kind::nan && rules_.nan == Handling::raise) refuse("nan", item);
            if (item.kind == Kind::infinite && rules_.inf == Handling::raise) refuse("inf", item);
            const FeatureMap *map = item.feature < 0 ? nullptr : &current(item.feature);
            if (!map || !map->known) {
                if (unseen_.known) refuse(map && rules_.min_count > 0 ? "few" : "unseen", item);
                map = &unseen_;
            }
            const nb::object number =
                nb::steal(PyFloat_FromDouble(mapped(*map, rules_.clip, item.x)));
            if (!number.is_valid() || PyDict_SetItem(out.ptr(), item.key, number.ptr()) != 0)
                throw nb::python_error();
        }
        return out;
    }

    nb::list keys() const {
        nb::list keys;
        for (const nb::object &name : names_) keys.append(name);
        return keys;
    }
    nb::list exact() const {
        nb::list exact;
        for (const RowFeature &feature : features_) exact.append(feature.exact);
        return exact;
    }
    int64_t rows() const { return rows_; }
    int64_t size() const { return static_cast<int64_t>(features_.size()); }

    // Writes the moments of all features. With a prior, `first` receives the moments of the first
    // values. `gaps` receives the numbers of rows without a value before the first value and since
    // the last, if the rules count them.
    //
    // Without `rows`, everything written is as of the last row. With `rows`, the stored state is
    // written unchanged, and `rows` receives the number of rows that each feature includes.
    void store(nb::handle moments, std::optional<nb::object> first, std::optional<nb::object> gaps,
               std::optional<nb::object> rows) const {
        const Buffer all(moments, 8, INTEGER, true);
        all.expect(FIELDS * size(), "the array of moments");
        const auto firsts =
            optional_buffer(first, INTEGER, FIELDS * size(), "the array of first values", true);
        const auto between = optional_buffer(gaps, INTEGER, 2 * size(), "the array of gaps", true);
        const auto seen = optional_buffer(rows, INTEGER, size(), "the array of rows", true);
        for (int64_t i = 0; i < size(); ++i) {
            // Settle a copy, because reading must not change the state.
            RowFeature feature = features_[static_cast<size_t>(i)];
            if (seen)
                seen->as<int64_t>()[i] = feature.rows;
            else
                settle(feature);
            store_moments(all.as<int64_t>(), size(), i, feature.m);
            if (firsts) store_moments(firsts->as<int64_t>(), size(), i, feature.first);
            if (!between) continue;
            between->as<int64_t>()[i] = feature.before;
            between->as<int64_t>()[size() + i] = feature.since;
        }
    }

    // Adds the features `fresh`, and replaces the moments of all features. The new moments are as
    // of row `rows`. If another thread has learned since row `before`, changes nothing and returns
    // false.
    bool update(nb::list fresh, nb::list exact, int64_t before, int64_t rows, nb::handle moments,
                std::optional<nb::object> first, std::optional<nb::object> gaps,
                std::optional<nb::object> rows_of_features) {
        if (before != rows_) return false;
        const int64_t count = size() + static_cast<int64_t>(nb::len(fresh));
        const Buffer all(moments, 8, INTEGER);
        if (static_cast<int64_t>(nb::len(exact)) != count)
            throw std::invalid_argument("the list of exact features has " + std::to_string(nb::len(exact)) +
                                        " items instead of " + std::to_string(count));
        all.expect(FIELDS * count, "the array of moments");
        const auto firsts = optional_buffer(first, INTEGER, FIELDS * count, "the array of first values");
        const auto between = optional_buffer(gaps, INTEGER, 2 * count, "the array of gaps");
        const auto seen = optional_buffer(rows_of_features, INTEGER, count, "the array of rows");
        if (rows < 0) throw std::invalid_argument("the number of rows is negative");
        for (int64_t i = 0; between && i < 2 * count; ++i)
            if (between->as<int64_t>()[i] < 0) throw std::invalid_argument("a gap is negative");
        for (int64_t i = 0; seen && i < count; ++i)
            if (seen->as<int64_t>()[i] < 0 || seen->as<int64_t>()[i] > rows)
                throw std::invalid_argument("a feature includes more rows than there are");
        std::vector<Fresh> features;
        for (const nb::handle key : fresh) features.push_back({nb::borrow(key)});
        std::vector<const PyObject *> cells;
        for (Fresh &feature : features) {
            prepare(feature);
            cells.push_back(feature.cell.ptr());
        }
        if (before != rows_) return false;  // it may have run Python code
        std::sort(cells.begin(), cells.end());
        bool twice = std::adjacent_find(cells.begin(), cells.end()) != cells.end();
        for (const Fresh &feature : features) twice = twice || index_in(feature.cell.ptr()) >= 0;
        if (twice) throw std::invalid_argument("a feature is given twice");
        for (const Fresh &feature : features) append(feature);
        for (int64_t i = 0; i < count; ++i) {
            RowFeature &feature = features_[static_cast<size_t>(i)];
            feature.exact = nb::cast<bool>(exact[static_cast<size_t>(i)]);
            feature.m = load_moments(all.as<int64_t>(), count, i);
            feature.first = firsts ? load_moments(firsts->as<int64_t>(), count, i) : Moments{};
            feature.before = between ? between->as<int64_t>()[i] : 0;
            feature.since = between ? between->as<int64_t>()[count + i] : 0;
            feature.rows = seen ? seen->as<int64_t>()[i] : rows;
            feature.is_mapped = false;
        }
        rows_ = rows;
        return true;
    }
    int64_t index(nb::handle key) const { return find(key.ptr()); }

    // Sets the maps of all features, for a caller that keeps the statistics itself.
    void set_maps(nb::handle hi, nb::handle lo, nb::handle scale, nb::handle gamma,
                  nb::handle beta, nb::handle known) {
        const Buffer his(hi, 8, "d"), los(lo, 8, "d"), scales(scale, 8, "d"), gammas(gamma, 8, "d"),
            betas(beta, 8, "d"), knowns(known, 1, "?");
        for (const Buffer *buffer : {&his, &los, &scales, &gammas, &betas, &knowns})
            buffer->expect(size(), "an array over features");
        for (size_t i = 0; i < features_.size(); ++i) {
            features_[i].map = {{his.as<double>()[i], los.as<double>()[i]}, scales.as<double>()[i],
                             gammas.as<double>()[i], betas.as<double>()[i],
                             knowns.as<uint8_t>()[i] != 0};
            features_[i].is_mapped = true;
        }
    }

  private:
    // The items of a dict. A dict that is read without running Python code is read in place, such
    // as one of strings to floats and small integers. Any other dict is copied first, because the
    // Python code may change it.
    struct Row {
        Row(RowStatistics &statistics, nb::handle row) : statistics_(statistics) {
            items.swap(statistics.buffer_);
            items.clear();
            if (!PyDict_Check(row.ptr())) statistics_.refuse("row", row.ptr());
            if (statistics.read(row, false, items)) return;
            copy_ = nb::steal(PyDict_Copy(row.ptr()));
            if (!copy_.is_valid()) throw nb::python_error();
            items.clear();
            statistics.read(copy_, true, items);
        }
        ~Row() { statistics_.buffer_.swap(items); }
        Row(const Row &) = delete;
        Row &operator=(const Row &) = delete;
        std::vector<Item> items;

      private:
        RowStatistics &statistics_;
        nb::object copy_;
    };

    // Reads the items of a row. Returns false if that requires Python code to run and `may_run` is
    // false.
    bool read(nb::handle row, bool may_run, std::vector<Item> &items) {
        Py_ssize_t at = 0;
        PyObject *key, *value;
        for (size_t i = 0; PyDict_Next(row.ptr(), &at, &key, &value); ++i) {
            Item item{{}, key, value, -1};
            if (!may_run && !PyUnicode_CheckExact(key)) return false;
            item.feature = find(key, i);
            if (!read_value(value, item)) {
                if (!may_run) return false;
                static_cast<Value &>(item) = convert_value(value, key, number_);
            }
            items.push_back(item);
        }
        return true;
    }

    double weight_of(PyObject *given) const {
        double weight = NAN;
        if (PyFloat_Check(given)) {
            weight = PyFloat_AsDouble(given);
        } else {
            try {
                const nb::object found = number_(nb::handle(given), "weight");
                if (!found.is_none() && nb::len(found) > 0) weight = nb::cast<double>(found[0]);
            } catch (nb::python_error &error) {
                if (!error.matches(PyExc_ValueError)) throw;  // a ValueError means beyond float64
            }
        }
        if (!(weight >= 0 && weight <= MAX_WEIGHT)) refuse("weight", given);
        if (weight != 1 && rules_.prior > 0) refuse("recursion", given);
        return weight;
    }
    [[noreturn]] void refuse(const char *why, PyObject *given) const {
        refuse(why, {{Kind::other, false, {0, 0}}, Py_None, given, -1});
    }

    // A cache of the last row's keys. Most rows have the same key objects as the row before.
    struct Recent {
        PyObject *key;
        int64_t feature;
    };
    int64_t find(PyObject *key, size_t place) {
        if (place < recent_.size() && recent_[place].key == key) return recent_[place].feature;
        const int64_t feature = find(key);
        if (feature < 0 || place > recent_.size()) return feature;
        Py_INCREF(key);
        if (place == recent_.size()) {
            recent_.push_back({key, feature});
            return feature;
        }
        PyObject *const old = recent_[place].key;
        recent_[place] = {key, feature};
        Py_DECREF(old);
        return feature;
    }
    int64_t find(PyObject *key) const {
        PyObject *const cell = PyDict_GetItemWithError(index_.ptr(), key);
        if (!cell && PyErr_Occurred()) throw nb::python_error();
        return cell ? index_in(cell) : -1;
    }
    static int64_t index_in(PyObject *cell) { return PyLong_AsLongLong(PyList_GetItem(cell, 0)); }

    // A key that is to become a feature. `prepare` looks it up, which may run Python code: the hash
    // of the key, or a finalizer. Meanwhile another thread may prepare the same key. Both get the
    // same cell, a list of the index, which is -1 until one of them calls `append`.
    struct Fresh {
        nb::object key, cell;
        RowFeature feature;
    };
    void prepare(Fresh &fresh) {
        PyObject *const pair = PyDict_GetItemWithError(affine_.ptr(), fresh.key.ptr());
        if (!pair && PyErr_Occurred()) throw nb::python_error();
        if (pair) {
            const nb::tuple both = nb::cast<nb::tuple>(nb::handle(pair));
            fresh.feature.gamma = nb::cast<double>(both[0]);
            fresh.feature.beta = nb::cast<double>(both[1]);
        }
        nb::list cell;
        cell.append(-1);
        fresh.cell = index_.attr("setdefault")(fresh.key, cell);
    }
    // Returns the index of the feature. Runs no Python code.
    int64_t append(const Fresh &fresh) {
        const int64_t known = index_in(fresh.cell.ptr());
        if (known >= 0) return known;
        nb::object index = nb::steal(PyLong_FromLongLong(size()));
        if (!index.is_valid()) throw nb::python_error();
        names_.push_back(fresh.key);
        features_.push_back(fresh.feature);
        PyList_SetItem(fresh.cell.ptr(), 0, index.release().ptr());
        return size() - 1;
    }

    // Makes the moments of a feature include all rows before the current one.
    void settle(RowFeature &feature) const {
        const int64_t missed = rows_ - feature.rows;
        if (missed == 0) return;
        feature.m.nulls += missed;
        feature.rows = rows_;
        learn_missing(feature, rules_, missed);
    }

    // Returns the map of a feature. Rows without the feature age all its weights alike, so they do
    // not change the map.
    const FeatureMap &current(int64_t index) {
        RowFeature &feature = features_[static_cast<size_t>(index)];
        if (!feature.is_mapped) {
            feature.map = map_of(feature, rules_, weights_);
            feature.is_mapped = true;
        }
        return feature.map;
    }

    [[noreturn]] void refuse(const char *why, const Item &item) const {
        refuse_(why, nb::handle(item.key), nb::handle(item.value));
        throw std::logic_error("the function that refuses a row must raise");
    }

    RowRules rules_;
    FeatureMap unseen_;
    nb::dict affine_, index_;
    nb::object number_, refuse_;
    std::vector<nb::object> names_;
    std::vector<RowFeature> features_;
    std::vector<Recent> recent_;
    std::vector<Item> buffer_;
    LastShares shares_;
    LastWeights weights_;
    int64_t rows_ = 0;
};

}  // namespace

void bind_rows(nb::module_ &module) {
    nb::class_<RowStatistics>(module, "RowStatistics")
        .def("__init__",
             [](RowStatistics *self, double decay, bool ignore_missing, double prior, int ddof, double eps,
                double clip, bool center, bool scale, int nan, int inf, int unseen, int constant,
                int64_t min_count, nb::dict affine, nb::object number, nb::object refuse) {
                 if (!(decay >= 0 && decay <= 1) || nan < 0 || nan > 2 || inf < 0 || inf > 2)
                     throw std::invalid_argument("a rule of the rows is out of its domain");
                 const RowRules rules{decay,  ignore_missing, prior, ddof, eps, clip, center, scale,
                                      static_cast<Handling>(nan), static_cast<Handling>(inf), constant == 1, min_count};
                 const FeatureMap without{{0, 0}, 1, unseen == 1 ? 1.0 : 0.0, 0, unseen == 2};
                 new (self) RowStatistics(rules, without, std::move(affine), std::move(number), std::move(refuse));
             })
        .def("learn", [](RowStatistics &self, nb::handle row) { self.learn(row, nullptr); },
             nb::arg().none())
        .def("learn", [](RowStatistics &self, nb::handle row, nb::handle weight) {
                 self.learn(row, weight.ptr());
             }, nb::arg("row").none(), nb::arg("weight").none())
        .def("transform", &RowStatistics::transform, nb::arg().none())
        .def("keys", &RowStatistics::keys)
        .def("exact", &RowStatistics::exact)
        .def("store", &RowStatistics::store, nb::arg(), nb::arg().none(), nb::arg().none(),
             nb::arg().none())
        .def("update", &RowStatistics::update, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
             nb::arg().none(), nb::arg().none(), nb::arg().none())
        .def("index", &RowStatistics::index, nb::arg().none())
        .def("set_maps", &RowStatistics::set_maps)
        .def_prop_ro("rows", &RowStatistics::rows)
        .def("__len__", &RowStatistics::size);
}

}  // namespace streambn
