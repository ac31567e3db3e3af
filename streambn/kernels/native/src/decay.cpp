#include "decay.hpp"

#include <cmath>

#include "arrow.hpp"
#include "reduce.hpp"

namespace streambn {

namespace {

// A subnormal weight costs a hundred cycles and adds nothing.
double flushed(double weight) { return weight < 0x1p-1022 ? 0.0 : weight; }

constexpr size_t KEPT_TABLES = 8;

}  // namespace

DecayTable::DecayTable(double decay)
    : decay_(decay), weights_(PIECE + 8, 0.0), dense_weight_{{0, 0}}, dense_pairs_{{0, 0}},
      byte_weight_(256), byte_pairs_(256) {
    Pair power{1, 0};
    for (int i = 0; i < PIECE; ++i) {
        weights_[static_cast<size_t>(PIECE - 1 - i)] = flushed(power.hi);
        // One more row before the others: W + λ**i, and C + λ**i·W.
        const Pair weight = dense_weight_.back();
        dense_pairs_.push_back(add(dense_pairs_.back(), multiply(power, weight)));
        dense_weight_.push_back(add(weight, power));
        power = scale(power, decay);
        if (power.hi < 0x1p-900) power = {flushed(power.hi), 0};
    }
    for (int64_t k = 0; k <= CHUNK / PIECE; ++k) pieces_.push_back(flushed(this->power(PIECE * k)));
    for (unsigned mask = 0; mask < 256; ++mask) {
        double weight = 0, pairs = 0;
        for (unsigned i = 0; i < 8; ++i) {
            const double here = mask >> i & 1 ? 1.0 : 0.0;
            weight *= decay;
            pairs = pairs * (decay * decay) + here * weight;
            weight += here;
        }
        byte_weight_[mask] = weight, byte_pairs_[mask] = pairs;
    }
}

std::shared_ptr<const DecayTable> DecayTable::of(double decay) {
    // Each thread has its own: a mutex might be locked for good in a process that was forked.
    static thread_local std::vector<std::shared_ptr<const DecayTable>> tables;
    for (const auto &table : tables)
        if (table->decay() == decay) return table;
    if (tables.size() == KEPT_TABLES) tables.erase(tables.begin());
    tables.push_back(std::make_shared<const DecayTable>(decay));
    return tables.back();
}

double DecayTable::power(int64_t rows) const {
    return std::pow(decay_, static_cast<double>(rows));
}

Weighed DecayTable::dense(int64_t n) const {
    const int64_t first = n % PIECE;
    Pair weight = dense_weight_[static_cast<size_t>(first)];
    Pair pairs = dense_pairs_[static_cast<size_t>(first)];
    const double fade = piece_factor(1);
    for (int64_t k = 0; k < n / PIECE; ++k) {
        const Pair old = scale(weight, fade);
        pairs = add(add(scale(scale(pairs, fade), fade), dense_pairs_[PIECE]),
                    multiply(old, dense_weight_[PIECE]));
        weight = add(old, dense_weight_[PIECE]);
    }
    return {weight.hi, pairs.hi, power(n)};
}

Weighed DecayTable::masked(const uint64_t *bits, int n) const {
    const Bitmap rows{reinterpret_cast<const uint8_t *>(bits), 0};
    const double eight = power(8);
    double weight = 0, pairs = 0;
    // Windows of eight rows that end with the last one.
    for (int start = n % 8 - 8; start < n; start += 8) {
        const uint64_t window =
            start >= 0 ? rows.word(start, 8) : start > -8 ? rows.word(0, start + 8) << -start : 0;
        weight *= eight;
        pairs = pairs * (eight * eight) + weight * byte_weight_[window] + byte_pairs_[window];
        weight += byte_weight_[window];
    }
    return {weight, pairs, power(n)};
}

}  // namespace streambn
