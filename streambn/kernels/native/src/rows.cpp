// The Python class RowLanes: a stream of rows that are dicts, in and out.
#include <nanobind/stl/optional.h>

#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "python.hpp"
#include "row_lane.hpp"

namespace streambn {

namespace {

constexpr double MAX_WEIGHT = 1e30;  // as in kernels/rows.py

enum class Kind : uint8_t { number, missing, nan, infinite, other };

// A value of a row. Keys and values belong to the dict that is gone through.
struct Item {
    PyObject *key, *value;
    int64_t lane;  // -1: there is none
    Kind kind;
    bool exact;  // an integer or a decimal
    Pair x;
};

class RowLanes {
  public:
    // `number` makes of a value (hi, lo, exact) where it is a number, () where it is missing, else
    // None; `refuse` raises the error of that name. Both are functions of a module: what they
    // refer to is not looked through by the garbage collector.
    //
    // `unseen`: by what a feature without statistics is mapped; if `known`, it is refused.
    RowLanes(RowRules rules, LaneMap unseen, nb::dict affine, nb::object number, nb::object refuse)
        : rules_(rules), unseen_(unseen), affine_(std::move(affine)), number_(std::move(number)),
          refuse_(std::move(refuse)) {}
    ~RowLanes() {
        for (const Recent &recent : recent_) Py_DECREF(recent.key);
    }

    // `weight`: what the row weighs, or null for 1.
    void learn(nb::handle row, PyObject *given) {
        const double weight = given ? weight_of(given) : 1.0;
        Row read(*this, row);
        for (const Item &item : read.items) {
            const bool refused = (item.kind == Kind::nan && rules_.nan == Odd::raise) ||
                                 (item.kind == Kind::infinite && rules_.inf == Odd::raise);
            if (refused) refuse(item.kind == Kind::nan ? "nan" : "inf", item);
            if (item.kind == Kind::other && item.lane >= 0) refuse("other", item);
        }
        // From here on nothing is refused; what weighs nothing leaves no trace.
        if (weight == 0) return;
        for (Item &item : read.items) {
            if (is_new(item)) item.lane = append(item.key);
            if (item.lane < 0) continue;
            RowLane &lane = lanes_[static_cast<size_t>(item.lane)];
            settle(lane);
            lane.rows += 1;
            if (item.kind == Kind::number) {
                lane.exact = lane.exact && item.exact;
                learn_value(lane, rules_, item.x, weight, shares_);
                continue;
            }
            Moments &m = lane.m;
            if (item.kind == Kind::missing)
                m.nulls += 1;
            else if (item.kind == Kind::nan)
                m.nans += 1;
            else
                (item.x.hi > 0 ? m.pos_infs : m.neg_infs) += 1;
            // A NaN may be all that there is to know about a feature from now on.
            if (item.kind != Kind::missing) lane.exact = lane.is_mapped = false;
            learn_missing(lane, rules_, 1);
        }
        rows_ += 1;
    }

    // A number makes a lane; a missing value might be that of a text.
    static bool is_new(const Item &item) {
        return item.lane < 0 && item.kind != Kind::other && item.kind != Kind::missing;
    }

    nb::object transform(nb::handle row) {
        const Row read(*this, row);
        const nb::object out = nb::steal(PyDict_Copy(row.ptr()));
        if (!out.is_valid()) throw nb::python_error();
        for (const Item &item : read.items) {
            // Of what is no number, the copy stays.
            if (item.kind == Kind::other && item.lane >= 0) refuse("other", item);
            if (item.kind == Kind::other || item.kind == Kind::missing) continue;
            if (item.kind == Kind::nan && rules_.nan == Odd::raise) refuse("nan", item);
            if (item.kind == Kind::infinite && rules_.inf == Odd::raise) refuse("inf", item);
            const LaneMap *map = item.lane < 0 ? nullptr : &current(item.lane);
            if (!map || !map->known) {
                if (unseen_.known) refuse("unseen", item);
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
        for (const RowLane &lane : lanes_) exact.append(lane.exact);
        return exact;
    }
    int64_t rows() const { return rows_; }
    int64_t size() const { return static_cast<int64_t>(lanes_.size()); }

    // Write the moments and, with a prior, those of the first values and the gaps: rows without a
    // value before the first one, and since the last one. All as of the last row or, if `rows` is
    // there to take the numbers of those that each lane has seen, as they are kept.
    void store(nb::handle moments, std::optional<nb::object> first, std::optional<nb::object> gaps,
               std::optional<nb::object> rows) const {
        const Block all(moments, 8, INTEGER, true);
        const std::unique_ptr<Block> firsts(first ? new Block(*first, 8, INTEGER, true) : nullptr);
        expect(all.items(), FIELDS * size(), "the array of moments");
        if (firsts) expect(firsts->items(), FIELDS * size(), "the array of first values");
        const std::unique_ptr<Block> between(gaps ? new Block(*gaps, 8, INTEGER, true) : nullptr);
        if (between) expect(between->items(), 2 * size(), "the array of gaps");
        const std::unique_ptr<Block> seen(rows ? new Block(*rows, 8, INTEGER, true) : nullptr);
        if (seen) expect(seen->items(), size(), "the array of rows");
        for (int64_t i = 0; i < size(); ++i) {
            RowLane lane = lanes_[static_cast<size_t>(i)];  // a copy: looking changes nothing
            if (seen)
                seen->as<int64_t>()[i] = lane.rows;
            else
                settle(lane);
            store_lane(all.as<int64_t>(), size(), i, lane.m);
            if (firsts) store_lane(firsts->as<int64_t>(), size(), i, lane.first);
            if (!between) continue;
            between->as<int64_t>()[i] = lane.before;
            between->as<int64_t>()[size() + i] = lane.since;
        }
    }

    // Add lanes and take over the moments of all, which are as of `rows` rows. If another thread
    // learned since there were `before`, nothing is done, and the result is false.
    bool update(nb::list fresh, nb::list exact, int64_t before, int64_t rows, nb::handle moments,
                std::optional<nb::object> first, std::optional<nb::object> gaps,
                std::optional<nb::object> rows_of_lanes) {
        if (before != rows_) return false;
        const int64_t lanes = size() + static_cast<int64_t>(nb::len(fresh));
        const Block all(moments, 8, INTEGER);
        const std::unique_ptr<Block> firsts(first ? new Block(*first, 8, INTEGER) : nullptr);
        expect(nb::len(exact), lanes, "the list of exact lanes");
        expect(all.items(), FIELDS * lanes, "the array of moments");
        if (firsts) expect(firsts->items(), FIELDS * lanes, "the array of first values");
        const std::unique_ptr<Block> between(gaps ? new Block(*gaps, 8, INTEGER) : nullptr);
        if (between) expect(between->items(), 2 * lanes, "the array of gaps");
        const std::unique_ptr<Block> seen(rows_of_lanes ? new Block(*rows_of_lanes, 8, INTEGER)
                                                        : nullptr);
        if (seen) expect(seen->items(), lanes, "the array of rows");
        if (rows < 0) throw std::invalid_argument("the number of rows is negative");
        for (int64_t i = 0; between && i < 2 * lanes; ++i)
            if (between->as<int64_t>()[i] < 0) throw std::invalid_argument("a gap is negative");
        for (int64_t i = 0; seen && i < lanes; ++i)
            if (seen->as<int64_t>()[i] < 0 || seen->as<int64_t>()[i] > rows)
                throw std::invalid_argument("a lane has seen rows that there are not");
        for (const nb::handle key : fresh) {
            if (find(key.ptr()) >= 0) throw std::invalid_argument("a key is there twice");
            append(key.ptr());
        }
        for (int64_t i = 0; i < lanes; ++i) {
            RowLane &lane = lanes_[static_cast<size_t>(i)];
            lane.exact = nb::cast<bool>(exact[static_cast<size_t>(i)]);
            lane.m = load_lane(all.as<int64_t>(), lanes, i);
            lane.first = firsts ? load_lane(firsts->as<int64_t>(), lanes, i) : Moments{};
            lane.before = between ? between->as<int64_t>()[i] : 0;
            lane.since = between ? between->as<int64_t>()[lanes + i] : 0;
            lane.rows = seen ? seen->as<int64_t>()[i] : rows;
            lane.is_mapped = false;
        }
        rows_ = rows;
        return true;
    }
    int64_t index(nb::handle key) const { return find(key.ptr()); }

    // For statistics that are kept elsewhere: the maps of all lanes.
    void set_maps(nb::handle hi, nb::handle lo, nb::handle spread, nb::handle gamma,
                  nb::handle beta, nb::handle known) {
        const Block his(hi, 8, "d"), los(lo, 8, "d"), spreads(spread, 8, "d"), gammas(gamma, 8, "d"),
            betas(beta, 8, "d"), knowns(known, 1, "?");
        for (const Block *block : {&his, &los, &spreads, &gammas, &betas, &knowns})
            expect(block->items(), size(), "an array over lanes");
        for (size_t i = 0; i < lanes_.size(); ++i) {
            lanes_[i].map = {{his.as<double>()[i], los.as<double>()[i]}, spreads.as<double>()[i],
                             gammas.as<double>()[i], betas.as<double>()[i],
                             knowns.as<uint8_t>()[i] != 0};
            lanes_[i].is_mapped = true;
        }
    }

  private:
    // A dict, read. One with nothing but floats and small integers under strings is gone through
    // as it is; of any other a copy, as Python code will run, which may change it.
    struct Row {
        Row(RowLanes &lanes, nb::handle row) : lanes_(lanes) {
            items.swap(lanes.room_);
            items.clear();
            if (!PyDict_Check(row.ptr())) lanes_.refuse("row", row.ptr());
            if (lanes.read(row, false, items)) return;
            copy_ = nb::steal(PyDict_Copy(row.ptr()));
            if (!copy_.is_valid()) throw nb::python_error();
            items.clear();
            lanes.read(copy_, true, items);
        }
        ~Row() { lanes_.room_.swap(items); }
        Row(const Row &) = delete;
        Row &operator=(const Row &) = delete;
        std::vector<Item> items;

      private:
        RowLanes &lanes_;
        nb::object copy_;
    };

    // False: there is something for which Python code has to run, and it must not.
    bool read(nb::handle row, bool may_run, std::vector<Item> &items) {
        Py_ssize_t at = 0;
        PyObject *key, *value;
        for (size_t i = 0; PyDict_Next(row.ptr(), &at, &key, &value); ++i) {
            Item item{key, value, -1, Kind::number, true, {0, 0}};
            if (!may_run && !PyUnicode_CheckExact(key)) return false;
            item.lane = find(key, i);
            if (PyFloat_Check(value)) {  // NumPy's float64 is one
                item.x.hi = PyFloat_AsDouble(value);
                item.exact = false;
            } else if (value == Py_None) {
                item.kind = Kind::missing;
            } else if (PyUnicode_CheckExact(value) || PyBool_Check(value)) {
                item.kind = Kind::other;
            } else if (PyLong_CheckExact(value) && small(value, item.x)) {
                // An integer that float64 holds.
            } else if (may_run) {
                convert(item);
            } else {
                return false;
            }
            if (item.kind == Kind::number && !__builtin_isfinite(item.x.hi))
                item.kind = __builtin_isnan(item.x.hi) ? Kind::nan : Kind::infinite;
            items.push_back(item);
        }
        return true;
    }

    static bool small(PyObject *value, Pair &x) {
        int overflow = 0;
        const long long whole = PyLong_AsLongLongAndOverflow(value, &overflow);
        constexpr long long LIMIT = 1ll << 53;
        if (overflow || whole > LIMIT || whole < -LIMIT) return false;
        x.hi = static_cast<double>(whole);
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
                if (!error.matches(PyExc_ValueError)) throw;  // it is one beyond float64
            }
        }
        if (!(weight >= 0 && weight <= MAX_WEIGHT)) refuse("weight", given);
        if (weight != 1 && rules_.prior > 0) refuse("recursion", given);
        return weight;
    }
    [[noreturn]] void refuse(const char *why, PyObject *given) const {
        refuse(why, {Py_None, given, -1, Kind::other, false, {0, 0}});
    }

    void convert(Item &item) {
        const nb::object found = number_(nb::handle(item.value), nb::handle(item.key));
        if (found.is_none()) {
            item.kind = Kind::other;
            return;
        }
        const nb::tuple parts = nb::cast<nb::tuple>(found);
        if (parts.size() == 0) {
            item.kind = Kind::missing;
            return;
        }
        item.x = {nb::cast<double>(parts[0]), nb::cast<double>(parts[1])};
        item.exact = nb::cast<bool>(parts[2]);
    }

    // A row most often has the keys of the one before it, the very same objects.
    struct Recent {
        PyObject *key;
        int64_t lane;
    };
    int64_t find(PyObject *key, size_t place) {
        if (place < recent_.size() && recent_[place].key == key) return recent_[place].lane;
        const int64_t lane = find(key);
        if (lane < 0 || place > recent_.size()) return lane;
        Py_INCREF(key);
        if (place == recent_.size()) {
            recent_.push_back({key, lane});
            return lane;
        }
        PyObject *const old = recent_[place].key;
        recent_[place] = {key, lane};
        Py_DECREF(old);
        return lane;
    }
    int64_t find(PyObject *key) const {
        PyObject *const found = PyDict_GetItemWithError(index_.ptr(), key);
        if (!found && PyErr_Occurred()) throw nb::python_error();
        return found ? PyLong_AsLongLong(found) : -1;
    }

    int64_t append(PyObject *key) {
        RowLane lane;
        PyObject *const pair = PyDict_GetItemWithError(affine_.ptr(), key);
        if (!pair && PyErr_Occurred()) throw nb::python_error();
        if (pair) {
            const nb::tuple both = nb::cast<nb::tuple>(nb::handle(pair));
            lane.gamma = nb::cast<double>(both[0]), lane.beta = nb::cast<double>(both[1]);
        }
        const nb::object index = nb::steal(PyLong_FromLongLong(size()));
        lanes_.push_back(lane);
        try {
            names_.push_back(nb::borrow(key));
            if (!index.is_valid() || PyDict_SetItem(index_.ptr(), key, index.ptr()) != 0)
                throw nb::python_error();
        } catch (...) {
            names_.resize(lanes_.size() - 1);
            lanes_.pop_back();
            throw;
        }
        return size() - 1;
    }

    // Let a lane have seen all rows that came before this one.
    void settle(RowLane &lane) const {
        const int64_t missed = rows_ - lane.rows;
        if (missed == 0) return;
        lane.m.nulls += missed;
        lane.rows = rows_;
        learn_missing(lane, rules_, missed);
    }

    // Rows from which the feature was missing age all weights alike: the map stays.
    const LaneMap &current(int64_t index) {
        RowLane &lane = lanes_[static_cast<size_t>(index)];
        if (!lane.is_mapped) {
            lane.map = map_of(lane, rules_);
            lane.is_mapped = true;
        }
        return lane.map;
    }

    [[noreturn]] void refuse(const char *why, const Item &item) const {
        refuse_(why, nb::handle(item.key), nb::handle(item.value));
        throw std::logic_error("what refuses a row has to raise");
    }

    RowRules rules_;
    LaneMap unseen_;
    nb::dict affine_, index_;
    nb::object number_, refuse_;
    std::vector<nb::object> names_;
    std::vector<RowLane> lanes_;
    std::vector<Recent> recent_;
    std::vector<Item> room_;
    LastShares shares_;
    int64_t rows_ = 0;
};

}  // namespace

void bind_rows(nb::module_ &module) {
    nb::class_<RowLanes>(module, "RowLanes")
        .def("__init__",
             [](RowLanes *self, double decay, bool ignore_missing, double prior, int ddof, double eps,
                double clip, bool center, bool scale, int nan, int inf, int unseen, int constant,
                nb::dict affine, nb::object number, nb::object refuse) {
                 if (!(decay >= 0 && decay <= 1) || nan < 0 || nan > 2 || inf < 0 || inf > 2)
                     throw std::invalid_argument("the rules of the rows are out of their domain");
                 const RowRules rules{decay,  ignore_missing, prior, ddof, eps, clip, center, scale,
                                      static_cast<Odd>(nan), static_cast<Odd>(inf), constant == 1};
                 const LaneMap without{{0, 0}, 1, unseen == 1 ? 1.0 : 0.0, 0, unseen == 2};
                 new (self) RowLanes(rules, without, std::move(affine), std::move(number), std::move(refuse));
             })
        .def("learn", [](RowLanes &self, nb::handle row) { self.learn(row, nullptr); },
             nb::arg().none())
        .def("learn", [](RowLanes &self, nb::handle row, nb::handle weight) {
                 self.learn(row, weight.ptr());
             }, nb::arg("row").none(), nb::arg("weight").none())
        .def("transform", &RowLanes::transform, nb::arg().none())
        .def("keys", &RowLanes::keys)
        .def("exact", &RowLanes::exact)
        .def("store", &RowLanes::store, nb::arg(), nb::arg().none(), nb::arg().none(),
             nb::arg().none())
        .def("update", &RowLanes::update, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
             nb::arg().none(), nb::arg().none(), nb::arg().none())
        .def("index", &RowLanes::index, nb::arg().none())
        .def("set_maps", &RowLanes::set_maps)
        .def_prop_ro("rows", &RowLanes::rows)
        .def("__len__", &RowLanes::size);
}

}  // namespace streambn
