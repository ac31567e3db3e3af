// The Python functions for moments and weights. They check all arguments.
#include <nanobind/stl/optional.h>

#include <algorithm>

#include "arrow/batch.hpp"
#include "buffer.hpp"
#include "moments/arrays.hpp"
#include "moments/averages.hpp"
#include "moments/block.hpp"
#include "moments/estimates.hpp"
#include "moments/gaps.hpp"
#include "moments/recursion.hpp"
#include "parallel.hpp"

namespace streambn {

namespace {

using OptionalObject = std::optional<nb::object>;

// Writes the moments of a batch. If `older` is given, writes the merge of `older` with the batch.
void py_block_moments(const Batch &data, double decay, bool ignore_missing, OptionalObject weights,
                      int threads, OptionalObject older, nb::handle out) {
    const int64_t features = data.features;
    const Buffer memory(out, 8, INTEGER, true);
    memory.expect(FIELDS * features, "the array of moments");
    const auto before = optional_buffer(older, INTEGER, FIELDS * features, "the array of older moments");
    if (!(decay >= 0 && decay <= 1)) throw std::invalid_argument("decay must be in [0, 1]");
    const auto given = optional_buffer(weights, "d", data.rows, "the array of weights");
    const Weighting weighting{decay, ignore_missing, given ? given->as<double>() : nullptr};
    std::vector<Moments> moments;
    without_gil(data.bytes, [&] { moments = block_moments(data.columns, weighting, threads); });
    for (int64_t k = 0; k < features; ++k) {
        const Moments &m = moments[static_cast<size_t>(k)];
        store_moments(memory.as<int64_t>(), features, k,
                      before ? merge(load_moments(before->as<int64_t>(), features, k), m) : m);
    }
}

void py_merge_moments(nb::handle older, nb::handle newer, nb::handle out) {
    const Buffer a(older, 8, INTEGER), b(newer, 8, INTEGER), memory(out, 8, INTEGER, true);
    const auto features = static_cast<int64_t>(memory.items()) / FIELDS;
    memory.expect(FIELDS * features, "the array of merged moments");
    a.expect(FIELDS * features, "the array of older moments");
    b.expect(FIELDS * features, "the array of newer moments");
    for (int64_t k = 0; k < features; ++k)
        store_moments(memory.as<int64_t>(), features, k,
                      merge(load_moments(a.as<int64_t>(), features, k),
                            load_moments(b.as<int64_t>(), features, k)));
}

// Writes the merge of an exponentially weighted average that counts gaps with a batch. Returns the
// features that are left to the caller because of a long gap: their moments and gaps are those of the
// batch alone.
nb::list py_extend_over_gaps(const Batch &data, double decay, OptionalObject weights, int threads,
                             nb::handle powers, nb::handle older, nb::handle older_gaps,
                             nb::handle out, nb::handle out_gaps) {
    const int64_t features = data.features;
    const Buffer table(powers, 8, "d"), before(older, 8, INTEGER), gaps_before(older_gaps, 8, INTEGER),
        memory(out, 8, INTEGER, true), gaps_after(out_gaps, 8, INTEGER, true);
    table.expect(POWERS, "the array of powers");
    before.expect(FIELDS * features, "the array of older moments");
    gaps_before.expect(2 * features, "the array of older gaps");
    memory.expect(FIELDS * features, "the array of moments");
    gaps_after.expect(2 * features, "the array of gaps");
    if (!(decay >= 0 && decay <= 1)) throw std::invalid_argument("decay must be in [0, 1]");
    const auto given = optional_buffer(weights, "d", data.rows, "the array of weights");
    const Weighting weighting{decay, false, given ? given->as<double>() : nullptr};
    std::vector<Moments> moments;
    std::vector<BatchGaps> gaps;
    without_gil(data.bytes, [&] {
        moments = block_moments(data.columns, weighting, threads);
        gaps = find_gaps(data.columns, moments, decay, data.bytes, threads);
    });
    const GapMerge gap_merge(table.as<double>());
    const auto feature = [&](int64_t k) {
        const int64_t *first = gaps_before.as<int64_t>() + k;
        return GappedMoments{load_moments(before.as<int64_t>(), features, k),
                             {first[0], first[features]}};
    };
    bool any_gap = false, missing = false;
    for (int64_t k = 0; k < features; ++k) {
        const Moments &m = moments[static_cast<size_t>(k)];
        const BatchGaps &of_batch = gaps[static_cast<size_t>(k)];
        const GappedMoments old = feature(k);
        any_gap |= of_batch.is_long || of_batch.any() || old.gaps.any();
        missing |= m.count < data.rows || old.m.nulls || old.m.nans || old.m.pos_infs || old.m.neg_infs;
    }
    const bool plain = !any_gap && (!missing || static_cast<double>(data.rows) <= longest_gap(decay));
    nb::list left;
    for (int64_t k = 0; k < features; ++k) {
        const Moments &m = moments[static_cast<size_t>(k)];
        const BatchGaps &of_batch = gaps[static_cast<size_t>(k)];
        GappedMoments now = feature(k);
        if (plain) {
            now.m = merge(now.m, m);
        } else {
            const GappedMoments newer = of_batch.is_long ? GappedMoments{m, of_batch}
                                                         : gap_merge.as_of_value(m, of_batch);
            if (of_batch.is_long || !gap_merge.extend(now, newer)) {
                left.append(k);
                now = newer;
            }
        }
        store_moments(memory.as<int64_t>(), features, k, now.m);
        gaps_after.as<int64_t>()[k] = now.gaps.before;
        gaps_after.as<int64_t>()[features + k] = now.gaps.since;
    }
    return left;
}

// Writes the weights of rows by their event times. streambn/kernels/reference/times.py has the
// formula.
void py_time_weights(nb::handle ticks, nb::handle latest, double halflives, OptionalObject weights,
                     int threads, nb::handle out) {
    const Buffer times(ticks, 8, "dlq"), memory(out, 8, "d", true);
    const auto rows = static_cast<int64_t>(times.items());
    memory.expect(rows, "the output array of weights");
    const auto given = optional_buffer(weights, "d", rows, "the array of weights");
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

// Writes the weights of the recursion, and returns the tuple (decay, before, since).
nb::tuple py_recursion_weights(nb::handle valid, double decay, double alpha, nb::handle out) {
    const Buffer present(valid, 1, "?"), memory(out, 8, "d", true);
    const auto rows = static_cast<int64_t>(present.items());
    memory.expect(rows, "the array of weights");
    if (!(decay >= 0 && decay <= 1 && alpha > 0 && alpha <= 1))
        throw std::invalid_argument("decay must be in [0, 1] and alpha in (0, 1]");
    RecursionSummary summary;
    {
        const nb::gil_scoped_release released;
        summary = recursion_weights(present.as<bool>(), rows, decay, alpha, memory.as<double>());
    }
    return nb::make_tuple(summary.decay, summary.before, summary.since);
}

void py_read_moments(nb::handle moments, int ddof, nb::handle out, nb::handle defined) {
    const Buffer memory(moments, 8, INTEGER);
    const EstimateArrays to(out, defined);
    memory.expect(FIELDS * to.features, "the array of moments");
    for (int64_t k = 0; k < to.features; ++k)
        to.put(k, estimate(load_moments(memory.as<int64_t>(), to.features, k), ddof));
}

Averages load_averages(const Buffer &means, const Buffer &variances, int64_t features, int64_t k) {
    return {load_moments(means.as<int64_t>(), features, k), load_moments(variances.as<int64_t>(), features, k)};
}

// Writes the means and the variances with one more block to `out`, one after the other.
void py_append_block(nb::handle means, nb::handle variances, nb::handle block, double decay, int ddof,
                     nb::handle out) {
    const Buffer a(means, 8, INTEGER), b(variances, 8, INTEGER), one(block, 8, INTEGER),
        memory(out, 8, INTEGER, true);
    const auto features = static_cast<int64_t>(one.items()) / FIELDS;
    for (const Buffer *buffer : {&a, &b, &one}) buffer->expect(FIELDS * features, "an array of moments");
    memory.expect(2 * FIELDS * features, "the array of both moments");
    for (int64_t k = 0; k < features; ++k) {
        const Moments newest = load_moments(one.as<int64_t>(), features, k);
        const Averages grown = append_block(load_averages(a, b, features, k), newest, decay, ddof);
        store_moments(memory.as<int64_t>(), features, k, grown.means);
        store_moments(memory.as<int64_t>() + FIELDS * features, features, k, grown.variances);
    }
}

// `prior_mean` and `prior_var` are given if `has_prior`.
void py_read_blocks(nb::handle means, nb::handle variances, double new_weight, bool has_prior,
                    double prior_mean, double prior_var, nb::handle out, nb::handle defined) {
    const Buffer a(means, 8, INTEGER), b(variances, 8, INTEGER);
    const EstimateArrays to(out, defined);
    a.expect(FIELDS * to.features, "the array of means");
    b.expect(FIELDS * to.features, "the array of variances");
    const BlockPrior prior{prior_mean, prior_var};
    for (int64_t k = 0; k < to.features; ++k)
        to.put(k, estimate(load_averages(a, b, to.features, k), new_weight, has_prior ? &prior : nullptr));
}

// Writes the moments of the recursion with the first value, which weighs its decay divided by alpha.
void py_with_first(nb::handle moments, nb::handle first, double alpha, nb::handle out) {
    const Buffer rest(moments, 8, INTEGER), one(first, 8, INTEGER), memory(out, 8, INTEGER, true);
    const auto features = static_cast<int64_t>(memory.items()) / FIELDS;
    for (const Buffer *buffer : {&rest, &one, &memory})
        buffer->expect(FIELDS * features, "an array of moments");
    for (int64_t k = 0; k < features; ++k) {
        const Moments m = load_moments(rest.as<int64_t>(), features, k);
        const Moments f = load_moments(one.as<int64_t>(), features, k);
        const double left = m.decay < NEGLIGIBLE ? 0.0 : m.decay;
        const double weight = left / alpha * static_cast<double>(f.count);
        store_moments(memory.as<int64_t>(), features, k, with_first(m, f, weight));
    }
}

// The arrays that receive the maps of all features: the rows mean_hi, mean_lo and scale, and whether
// the feature has a mean and whether it is constant.
class MapArrays {
  public:
    MapArrays(nb::handle exact, nb::handle numbers, nb::handle flags)
        : exact_(exact, 1, "?"), numbers_(numbers, 8, "d", true), flags_(flags, 1, "?", true),
          features(static_cast<int64_t>(exact_.items())) {
        numbers_.expect(3 * features, "the array of maps");
        flags_.expect(2 * features, "the array of flags");
    }
    void put(int64_t k, const Estimate &of, double eps) const {
        const Scale scale = scale_of(of, exact_.as<bool>()[k], eps);
        double *const to = numbers_.as<double>() + k;
        to[0] = of.mean.hi, to[features] = of.mean.lo, to[2 * features] = scale.value;
        flags_.as<bool>()[k] = of.defined;
        flags_.as<bool>()[features + k] = scale.constant && of.defined;
    }

  private:
    const Buffer exact_, numbers_, flags_;

  public:
    const int64_t features;
};

void py_maps_of_moments(nb::handle moments, int ddof, nb::handle exact, double eps,
                        nb::handle numbers, nb::handle flags) {
    const Buffer memory(moments, 8, INTEGER);
    const MapArrays to(exact, numbers, flags);
    memory.expect(FIELDS * to.features, "the array of moments");
    for (int64_t k = 0; k < to.features; ++k)
        to.put(k, estimate(load_moments(memory.as<int64_t>(), to.features, k), ddof), eps);
}

void py_maps_of(nb::handle mean_hi, nb::handle mean_lo, nb::handle var, nb::handle std,
                nb::handle defined, nb::handle exact, double eps, nb::handle numbers, nb::handle flags) {
    const Buffer hi(mean_hi, 8, "d"), lo(mean_lo, 8, "d"), vars(var, 8, "d"), stds(std, 8, "d"),
        known(defined, 1, "?");
    const MapArrays to(exact, numbers, flags);
    for (const Buffer *buffer : {&hi, &lo, &vars, &stds, &known})
        buffer->expect(to.features, "an array over features");
    for (int64_t k = 0; k < to.features; ++k)
        to.put(k, {{hi.as<double>()[k], lo.as<double>()[k]}, vars.as<double>()[k], stds.as<double>()[k],
                   known.as<bool>()[k]}, eps);
}

}  // namespace

void bind_moments(nb::module_ &module) {
    module.def("block_moments", &py_block_moments);
    module.def("merge_moments", &py_merge_moments);
    module.def("extend_over_gaps", &py_extend_over_gaps);
    module.def("read_moments", &py_read_moments);
    module.def("append_block", &py_append_block);
    module.def("read_blocks", &py_read_blocks);
    module.def("with_first", &py_with_first);
    module.def("maps_of_moments", &py_maps_of_moments);
    module.def("maps_of", &py_maps_of);
    module.def("time_weights", &py_time_weights);
    module.def("recursion_weights", &py_recursion_weights);
}

}  // namespace streambn
