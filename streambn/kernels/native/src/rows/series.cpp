#include "rows/series.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "arrow/int256.hpp"
#include "arrow/reader.hpp"
#include "moments/estimates.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

constexpr int LANES = 8;         // features that an inner loop maps together
constexpr int FIRST_PIECE = 16;  // rows

// Returns the discount of a value of one time by a value of another. Quarters of times differ by
// less than the largest float64.
double fade_between(Pair older, Pair newer, double halflife) {
    const Pair a{older.hi / -4, older.lo / -4}, b{newer.hi / 4, newer.lo / 4};
    const double faded = std::exp2(-(add(b, a).hi / halflife * 4));
    return faded < NEGLIGIBLE ? 0.0 : faded;
}

// The place of a feature in the batch.
struct Place {
    const Column *column;
    Output *output;
    int64_t element;  // within the column
};

// Reads the values of one feature as double-doubles.
class PairReader {
  public:
    explicit PairReader(const Place &place)
        : column_(*place.column), element_(place.element), unit_(power_of_ten(std::abs(column_.decimal_scale))),
          plain_(column_, place.element, 0, 0) {}

    int valid(int64_t start, int n, PieceBits &bits) const {
        if (column_.type == Type::null) {
            std::memset(&bits, 0, sizeof bits);
            return 0;
        }
        return plain_.valid(start, n, bits);
    }
    // Whether float64 represents all values of the type.
    bool is_plain() const { return column_.type < Type::decimal32 && !is_wide(column_.type); }
    // Reads n <= PIECE values of such a type.
    void read_plain(int64_t start, int n, double *to) const {
        alignas(64) uint8_t buffer[8 * PIECE];
        Origin zero;
        zero.number = 0;
        kernels().widen[static_cast<int>(column_.type)](plain_.values(start, n, buffer), n, zero, to);
    }
    void read(int64_t start, int n, Pair *to) const {
        if (column_.type == Type::null) return;
        if (is_plain()) {
            alignas(64) double wide[PIECE + 8];
            read_plain(start, n, wide);
            for (int i = 0; i < n; ++i) to[i] = {wide[i], 0};
            return;
        }
        for (int i = 0; i < n; ++i) to[i] = at(start + i);
    }

  private:
    Pair at(int64_t row) const {
        const int size = size_of(column_.type);
        const uint8_t *from = column_.at(row, element_);
        Pair whole;
        if (is_large_decimal(column_.type)) {
            whole = Int256::load(from, size).pair();
        } else if (size == 4) {
            int32_t value;
            std::memcpy(&value, from, sizeof value);
            whole = {static_cast<double>(value), 0};
        } else {
            int64_t value;
            std::memcpy(&value, from, sizeof value);
            const bool is_unsigned = column_.type == Type::uint64;
            whole = pair_of(is_unsigned ? value ^ INT64_MIN : value, is_unsigned);
        }
        if (column_.decimal_scale == 0) return whole;
        return column_.decimal_scale > 0 ? divide(whole, unit_) : multiply(whole, unit_);
    }
    const Column &column_;
    int64_t element_;
    Pair unit_;
    FeatureReader plain_;
};

template <class To>
void write_values(const double *values, int n, int64_t step, To *to) {
    for (int i = 0; i < n; ++i) to[i * step] = static_cast<To>(values[i]);
}

void write_output(const Place &place, int64_t start, int n, const double *values) {
    const Output &output = *place.output;
    uint8_t *const to = output.values + start * output.row_step + place.element * output.value_step;
    const int64_t step = output.row_step / size_of(output.type);
    if (output.type == Type::float64 && step == 1) {
        std::memcpy(to, values, 8 * static_cast<size_t>(n));
    } else if (output.type == Type::float64) {
        write_values(values, n, step, reinterpret_cast<double *>(to));
    } else if (output.type == Type::float32) {
        write_values(values, n, step, reinterpret_cast<float *>(to));
    } else {
        for (int i = 0; i < n; ++i) reinterpret_cast<uint16_t *>(to)[i * step] = half_of(values[i]);
    }
}

// The memory of a thread.
struct Scratch {
    LastShares shares;
    LastWeights weights;
    alignas(64) double x[PIECE * LANES], y[PIECE * LANES];
    alignas(64) uint8_t lanes[LANES * FEATURE_STRIDE];
    alignas(64) double older[PIECE], newer[PIECE], light_hi[PIECE], light_lo[PIECE], heavy[PIECE], decay[PIECE],
        divisor[PIECE], inverse[PIECE], first[PIECE], others[PIECE], first_light_hi[PIECE],
        first_light_lo[PIECE], first_heavy[PIECE];
    uint8_t from_value[PIECE], from_others[PIECE];
    Pair pairs[PIECE];
    alignas(64) double one[PIECE + 8];
    // Values of lanes without a feature. Numbers of any other kind could be slow.
    Scratch() { std::fill(x, x + PIECE * LANES, 1.0); }
};

// Maps and learns some features over all rows.
class SeriesTask {
  public:
    SeriesTask(const Series &series, const std::vector<int64_t> &previous, const std::vector<double> &fades,
               const Place *places, SeriesFeature *features, int count, Scratch &scratch)
        : series_(series), previous_(previous), fades_(fades), places_(places), features_(features),
          count_(count), s_(scratch), is_done_(static_cast<size_t>(count)) {}

    void run(int64_t rows) {
        for (int64_t start = 0, stop; start < rows; start = stop) {
            // Features that have seen no value are mapped alone. A few rows change that.
            stop = std::min(start + (start == 0 ? FIRST_PIECE : PIECE), rows);
            const int n = static_cast<int>(stop - start);
            map_together(start, n);
            for (int k = 0; k < count_; ++k)
                if (!is_done_[static_cast<size_t>(k)]) map_alone(k, start, n);
        }
    }

  private:
    bool is_counted(int64_t row) const { return !series_.weights || series_.weights[row] > 0; }
    double weight_of(int64_t row) const { return series_.weights ? series_.weights[row] : 1.0; }

    // Returns the discount of what a feature has learned by a value in a row.
    double fade_of(const SeriesFeature &feature, int64_t row) const {
        const auto i = static_cast<size_t>(row);
        if (feature.time_row >= 0 && feature.time_row == previous_[i]) return fades_[i];
        return fade_between(feature.time, series_.times[row], series_.halflife);
    }

    void learn(SeriesFeature &feature, Pair x, int64_t row) {
        if (!series_.times) return learn_value(feature.row, series_.rules, x, weight_of(row), s_.shares);
        const double decay = feature.row.m.count ? fade_of(feature, row) : 1.0;
        learn_weighted(feature.row, x, weight_of(row), decay, s_.shares);
        feature.row.m.decay = 1;
        feature.time = series_.times[row];
        feature.time_row = row;
    }

    void map_alone(int k, int64_t start, int n) {
        SeriesFeature &feature = features_[k];
        RowFeature &row = feature.row;
        Moments &m = row.m;
        const PairReader reader(places_[k]);
        PieceBits bits;
        const int there = reader.valid(start, n, bits);
        if (there) reader.read(start, n, s_.pairs);
        for (int i = 0; i < n; ++i) {
            const int64_t at = start + i;
            const bool present = there == n || bits.at(i);
            const Pair x = present ? s_.pairs[i] : Pair{0, 0};
            const bool is_finite = std::isfinite(x.hi);
            double y = 0;
            if (series_.before) y = mapped_now(feature, x, present, at);
            if (!is_finite) (std::isnan(x.hi) ? feature.nans : feature.infs) += 1;
            if (is_counted(at)) {
                if (present && is_finite) {
                    learn(feature, x, at);
                } else {
                    if (!present) {
                        m.nulls += 1;
                    } else {
                        (std::isnan(x.hi) ? m.nans : x.hi > 0 ? m.pos_infs : m.neg_infs) += 1;
                        row.is_mapped = false;  // the map changes if they propagate
                    }
                    learn_missing(row, series_.rules, 1);
                }
            }
            if (!series_.before) y = mapped_now(feature, x, present, at);
            s_.one[i] = y;
        }
        write_output(places_[k], start, n, s_.one);
    }

    double mapped_now(SeriesFeature &feature, Pair x, bool present, int64_t at) const {
        RowFeature &row = feature.row;
        if (!row.is_mapped) {
            row.map = map_of(row, series_.rules, s_.weights);
            row.is_mapped = true;
        }
        if (!is_known(feature, series_)) {
            feature.known_from = at + 1;
            return 0;
        }
        return present ? mapped(row.map, series_.rules.clip, x) : 0;
    }

    // Whether a feature can be mapped together with others over a piece of rows. If so, reads its
    // values into lane `lane`.
    bool is_ready(int k, int64_t start, int n, int lane) {
        const SeriesFeature &feature = features_[k];
        const Moments &m = feature.row.m;
        const RowRules &rules = series_.rules;
        const bool seen = m.weight > 0 && m.exponent == 0 && feature.row.since == 0 &&
                          m.count >= rules.min_count &&
                          (rules.prior == 0 || (feature.row.first.count > 0 && feature.row.first.exponent == 0));
        const bool poisoned = (rules.nan == Handling::propagate && m.nans > 0) ||
                              (rules.inf == Handling::propagate && m.pos_infs + m.neg_infs > 0);
        const Place &place = places_[k];
        const PairReader reader(place);
        if (!seen || poisoned || place.column->type >= Type::decimal32) return false;
        PieceBits bits;
        if (place.column->has_nulls() && reader.valid(start, n, bits) != n) return false;
        const void *values = s_.one;
        if (place.column->type == Type::float64 && place.column->row_step == 8) {
            values = place.column->at(start, place.element);
        } else if (reader.is_plain()) {
            reader.read_plain(start, n, s_.one);
        } else {
            reader.read(start, n, s_.pairs);
            for (int i = 0; i < n; ++i) {
                if (s_.pairs[i].lo != 0) return false;
                s_.one[i] = s_.pairs[i].hi;
            }
        }
        return kernels().copy_plain(values, n, lane_of(lane));
    }
    // Returns the buffer for the values of a lane, one for each row.
    double *lane_of(int lane) { return reinterpret_cast<double *>(s_.lanes + lane * FEATURE_STRIDE); }

    // Whether two features have the same weights, now and in rows that have both.
    bool are_alike(const SeriesFeature &a, const SeriesFeature &b) const {
        const Moments &m = a.row.m, &o = b.row.m;
        return m.weight == o.weight && m.pairs == o.pairs && m.squares == o.squares && m.decay == o.decay &&
               (!series_.times || (a.time.hi == b.time.hi && a.time.lo == b.time.lo));
    }

    // Maps the features that hold ordinary values in all rows of a piece, as many together as have
    // equal weights.
    void map_together(int64_t start, int n) {
        std::fill(is_done_.begin(), is_done_.end(), false);
        for (int i = 0; series_.weights && i < n; ++i)
            if (!is_counted(start + i)) return;
        SeriesFeature before, after;  // the weights of the last group
        bool has_weights = false;
        for (int first = 0; first < count_;) {
            int lanes[LANES], count = 0;
            for (; first < count_ && count < LANES; ++first) {
                if (count > 0 && !are_alike(features_[lanes[0]], features_[first])) break;
                if (is_ready(first, start, n, count)) lanes[count++] = first;
            }
            if (count == 0) return;
            const SeriesFeature &one = features_[lanes[0]];
            if (!has_weights || !are_alike(before, one)) {
                before = after = one;
                has_weights = find_weights(after, start, n);
            }
            if (has_weights) map_lanes(lanes, count, after, start, n);
        }
    }

    void map_lanes(const int *lanes, int count, const SeriesFeature &after, int64_t start, int n) {
        const Transpose transpose = kernels().transpose[1];
        transpose(s_.lanes, FEATURE_STRIDE, n, count, reinterpret_cast<uint8_t *>(s_.x), sizeof(double) * LANES);
        SeriesPack pack;
        // Lanes without a feature repeat the first one. Their values do not matter.
        for (int lane = 0; lane < LANES; ++lane) load_lane(pack, lane, lanes[lane < count ? lane : 0]);
        const RowRules &rules = series_.rules;
        const SeriesMap map{series_.before, rules.center, rules.scale, rules.zero_constant, rules.eps, rules.clip};
        const SeriesRows rows{s_.light_hi,       s_.light_lo,       s_.heavy,    s_.decay,
                              s_.from_value,     s_.divisor,        s_.inverse,  s_.first_light_hi,
                              s_.first_light_lo, rules.prior > 0 ? s_.first_heavy : nullptr,
                              s_.from_others};
        kernels().map_series(s_.x, n, rows, map, &pack, s_.y);
        transpose(reinterpret_cast<const uint8_t *>(s_.y), sizeof(double) * LANES, count, n, s_.lanes, FEATURE_STRIDE);
        for (int lane = 0; lane < count; ++lane) {
            store_lane(pack, lane, lanes[lane], after, n);
            write_output(places_[lanes[lane]], start, n, lane_of(lane));
            is_done_[static_cast<size_t>(lanes[lane])] = true;
        }
    }

    // Sets the weights of the rows of a piece, and those of `feature` to the weights after it.
    // Returns false if a row discounts everything before it to nothing.
    bool find_weights(SeriesFeature &feature, int64_t start, int n) {
        Moments &m = feature.row.m;
        Weights now{m.weight, m.pairs, m.squares, m.decay, static_cast<double>(m.count)};
        for (int i = 0; i < n; ++i) {
            const int64_t row = start + i;
            const double weight = weight_of(row), decay = series_.times ? fade_of(feature, row) : series_.rules.decay;
            const double w = decay * now.weight;
            if (w == 0) return false;
            s_.older[i] = w, s_.newer[i] = weight, s_.decay[i] = decay;
            if (series_.before) find_divisor(now, i);
            now.learn(w, weight, decay);
            if (series_.times) {
                now.decay = 1;
                feature.time = series_.times[row];
                feature.time_row = row;
            }
            if (!series_.before) find_divisor(now, i);
        }
        m.weight = now.weight, m.pairs = now.pairs, m.squares = now.squares, m.decay = now.decay;
        const FindShares find_shares = kernels().find_shares;
        find_shares(s_.older, s_.newer, n, {s_.light_hi, s_.light_lo, s_.heavy, s_.from_value});
        if (series_.rules.prior > 0)
            find_shares(s_.first, s_.others, n, {s_.first_light_hi, s_.first_light_lo, s_.first_heavy, s_.from_others});
        for (int i = 0; i < n; ++i) s_.inverse[i] = 1 / s_.divisor[i];
        return true;
    }

    // Sets the divisor of row i, for a feature with these weights.
    void find_divisor(const Weights &now, int i) {
        const RowRules &rules = series_.rules;
        Weights all = now;
        if (rules.prior > 0) {
            const double prior = rules.prior * now.decay;
            s_.first[i] = prior, s_.others[i] = now.weight;
            all.weight += prior;
            all.pairs += prior * now.weight;
            all.squares = prior * prior + now.squares;
        }
        s_.divisor[i] = all.divisor(rules.ddof);
    }

    void load_lane(SeriesPack &pack, int lane, int k) const {
        const RowFeature &row = features_[k].row;
        pack.mean_hi[lane] = row.m.mean.hi, pack.mean_lo[lane] = row.m.mean.lo;
        pack.m2_hi[lane] = row.m.m2.hi, pack.m2_lo[lane] = row.m.m2.lo;
        pack.low[lane] = row.m.min, pack.high[lane] = row.m.max;
        pack.first_hi[lane] = row.first.mean.hi, pack.first_lo[lane] = row.first.mean.lo;
        pack.relative[lane] = row.exact ? 0 : EPSILON, pack.least[lane] = row.exact ? 0 : LEAST_NORMAL;
        pack.gamma[lane] = row.gamma, pack.beta[lane] = row.beta;
    }

    void store_lane(const SeriesPack &pack, int lane, int k, const SeriesFeature &after, int rows) {
        SeriesFeature &feature = features_[k];
        Moments &m = feature.row.m;
        m.mean = {pack.mean_hi[lane], pack.mean_lo[lane]};
        m.m2 = {pack.m2_hi[lane], pack.m2_lo[lane]};
        m.min = pack.low[lane], m.max = pack.high[lane];
        m.weight = after.row.m.weight, m.pairs = after.row.m.pairs, m.squares = after.row.m.squares;
        m.decay = after.row.m.decay;
        m.count += rows;
        feature.time = after.time, feature.time_row = after.time_row;
        feature.row.is_mapped = false;
    }

    const Series &series_;
    const std::vector<int64_t> &previous_;
    const std::vector<double> &fades_;
    const Place *places_;
    SeriesFeature *features_;
    int count_;
    Scratch &s_;
    std::vector<bool> is_done_;
};

// Writes the validity of a column's output: the column's own, from the row on in which a feature is
// known.
void write_validity(const Column &column, const SeriesFeature *features, Output &output) {
    const int64_t elements = column.rows * column.width;
    int64_t valid = 0;
    for (int64_t start = 0; start < elements; start += 64) {
        const int n = static_cast<int>(std::min<int64_t>(64, elements - start));
        uint64_t word = column.type == Type::null ? 0 : ~uint64_t{0} >> (64 - n);
        for (const Bitmap &map : column.validity) word &= map.word(start, n);
        for (int k = 0; k < n; ++k)
            if ((start + k) / column.width < features[(start + k) % column.width].known_from)
                word &= ~(uint64_t{1} << k);
        std::memcpy(output.validity + start / 8, &word, sizeof word);
        valid += __builtin_popcountll(word);
    }
    output.null_count = elements - valid;
}

}  // namespace

bool is_known(const SeriesFeature &feature, const Series &series) {
    const Moments &m = feature.row.m;
    const bool poisoned = (series.rules.nan == Handling::propagate && m.nans > 0) ||
                          (series.rules.inf == Handling::propagate && m.pos_infs + m.neg_infs > 0);
    return (poisoned || m.count > 0) && m.count >= series.rules.min_count;
}

void map_series(const std::vector<Column> &columns, const Series &series,
                std::vector<SeriesFeature> &features, std::vector<Output> &outputs, int threads) {
    const Extents extents(columns);
    const int64_t rows = columns.empty() ? 0 : columns[0].rows;
    // The row before each row that is learned, and the discount from there.
    std::vector<int64_t> previous;
    std::vector<double> fades;
    if (series.times) {
        previous.assign(static_cast<size_t>(rows), -1), fades.assign(static_cast<size_t>(rows), 1.0);
        int64_t last = -1;
        for (int64_t i = 0; i < rows; ++i) {
            previous[static_cast<size_t>(i)] = last;
            if (last >= 0)
                fades[static_cast<size_t>(i)] = fade_between(series.times[last], series.times[i], series.halflife);
            if (!series.weights || series.weights[i] > 0) last = i;
        }
    }
    std::vector<Place> places;
    for (size_t i = 0; i < columns.size(); ++i)
        for (int64_t k = 0; k < columns[i].width; ++k) places.push_back({&columns[i], &outputs[i], k});
    const auto count = static_cast<int64_t>(places.size());
    // Features of one task share the computation of their weights.
    const int64_t each = std::max<int64_t>((count / std::max(threads, 1) + LANES - 1) / LANES, 1) * LANES;
    run_tasks<std::unique_ptr<Scratch>>((count + each - 1) / each, extents.bytes * 16, threads,
                                        [&](int64_t task, std::unique_ptr<Scratch> &scratch) {
        if (!scratch) scratch.reset(new Scratch);
        const int64_t first = task * each;
        SeriesTask(series, previous, fades, &places[static_cast<size_t>(first)],
                   &features[static_cast<size_t>(first)], static_cast<int>(std::min(each, count - first)),
                   *scratch).run(rows);
    });
    size_t first = 0;
    for (size_t i = 0; i < columns.size(); ++i) {
        const Column &column = columns[i];
        bool all_known = true;
        for (int64_t k = 0; k < column.width; ++k) all_known &= features[first + static_cast<size_t>(k)].known_from == 0;
        outputs[i].null_count = 0;
        if (outputs[i].validity && column.validity.empty() && column.type != Type::null && all_known)
            outputs[i].validity = nullptr;
        if (outputs[i].validity) write_validity(column, &features[first], outputs[i]);
        first += static_cast<size_t>(column.width);
    }
}

}  // namespace streambn
