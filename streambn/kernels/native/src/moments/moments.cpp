#include "moments/moments.hpp"

#include <algorithm>
#include <cstring>

namespace streambn {

namespace {

double number_of(int64_t bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

int64_t bits_of(double value) {
    int64_t result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

Pair rescaled(Pair value, int64_t by, bool weightless) {
    if (weightless) return {0, 0};
    return {times_two_to(value.hi, by), times_two_to(value.lo, by)};
}

}  // namespace

Moments load_moments(const int64_t *memory, int64_t features, int64_t feature) {
    const auto at = [&](int field) { return memory[field * features + feature]; };
    Moments m;
    m.count = at(0), m.nulls = at(1), m.nans = at(2), m.pos_infs = at(3), m.neg_infs = at(4);
    m.min = number_of(at(5)), m.max = number_of(at(6));
    m.weight = number_of(at(7)), m.pairs = number_of(at(8));
    m.squares = number_of(at(9));
    m.mean = {number_of(at(10)), number_of(at(11))};
    m.m2 = {number_of(at(12)), number_of(at(13))};
    m.decay = number_of(at(14));
    m.exponent = at(15);
    return m;
}

void store_moments(int64_t *memory, int64_t features, int64_t feature, const Moments &m) {
    const int64_t fields[FIELDS] = {
        m.count,       m.nulls,         m.nans,          m.pos_infs,    m.neg_infs,
        bits_of(m.min),   bits_of(m.max),     bits_of(m.weight),  bits_of(m.pairs), bits_of(m.squares), bits_of(m.mean.hi),
        bits_of(m.mean.lo), bits_of(m.m2.hi), bits_of(m.m2.lo),   bits_of(m.decay), m.exponent};
    for (int field = 0; field < FIELDS; ++field) memory[field * features + feature] = fields[field];
}

Moments merge(const Moments &a, const Moments &b) {
    double fade = b.decay;
    if (b.weight == 0) {
        const double floor = a.weight > 0 ? LEAST_WEIGHT / a.weight : 0.0;
        fade = std::max(fade, std::min(floor, 1.0));
    }
    const double w = fade * a.weight, weight = w + b.weight;
    int64_t exponent = std::max(a.exponent, b.exponent);
    if (w == 0)
        exponent = b.exponent;
    else if (b.weight == 0)
        exponent = a.exponent;
    const int64_t a_by = a.exponent - exponent, b_by = b.exponent - exponent;
    const Pair a_mean = rescaled(a.mean, a_by, w == 0), a_m2 = rescaled(a.m2, 2 * a_by, w == 0);
    const Pair b_mean = rescaled(b.mean, b_by, b.weight == 0);
    const Pair b_m2 = rescaled(b.m2, 2 * b_by, b.weight == 0);

    const Pair delta = add(b_mean, -a_mean);
    // The mean moves from the heavier side, where the rounding error of the share matters least.
    const bool from_b = b.weight > w;
    const double light = from_b ? w : b.weight, heavy = from_b ? b.weight : w;
    const Pair share = divide({light, 0}, {weight > 0 ? weight : 1.0, 0});
    const Pair move = multiply(delta, share);
    const Pair base = from_b ? b_mean : a_mean;
    const Pair between = multiply(multiply(delta, move), heavy);
    const Pair faded_m2 = fade == 1 ? a_m2 : multiply(a_m2, fade);

    Moments m;
    m.count = a.count + b.count;
    m.nulls = a.nulls + b.nulls;
    m.nans = a.nans + b.nans;
    m.pos_infs = a.pos_infs + b.pos_infs;
    m.neg_infs = a.neg_infs + b.neg_infs;
    m.min = std::min(a.min, b.min);
    m.max = std::max(a.max, b.max);
    m.weight = weight;
    m.pairs = fade * fade * a.pairs + b.pairs + w * b.weight;
    m.squares = fade * fade * a.squares + b.squares;
    m.mean = add(base, from_b ? -move : move);
    m.m2 = add(add(faded_m2, b_m2), between);
    m.decay = a.decay * fade;
    m.exponent = exponent;
    return m;
}

void set_from_sums(Moments &m, Pair centre, Pair first, Pair second) {
    const Pair offset = divide(first, {m.weight > 0 ? m.weight : 1.0, 0});
    const Pair excess = multiply(first, offset);
    const Pair m2 = add(second, -excess);
    m.mean = add(centre, offset);
    m.m2 = m2.hi > 0 ? m2 : Pair{0, 0};
}

}  // namespace streambn
