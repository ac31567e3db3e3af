#include "moments/weights.hpp"

#include <cmath>

#include "arrow/columns.hpp"
#include "moments/block.hpp"

namespace streambn {

namespace {

constexpr size_t KEPT_TABLES = 8;

}  // namespace

DecayTable::DecayTable(double decay)
    : decay_(decay), weights_(PIECE + 8, 0.0), dense_(PIECE + 1), byte_(256) {
    Pair power{1, 0};
    for (int i = 0; i < PIECE; ++i) {
        weights_[static_cast<size_t>(PIECE - 1 - i)] = without_subnormals(power.hi);
        // Prepend one more row.
        RunningWeights &more = dense_[static_cast<size_t>(i + 1)];
        more.weight = power, more.squares = multiply(power, power);
        more.append(dense_[static_cast<size_t>(i)]);
        power = multiply(power, decay);
        if (power.hi < 0x1p-900) power = {without_subnormals(power.hi), 0};
    }
    for (int64_t k = 0; k <= CHUNK / PIECE; ++k)
        pieces_.push_back(without_subnormals(this->power(PIECE * k)));
    for (unsigned mask = 0; mask < 256; ++mask) {
        PieceWeights &of = byte_[mask];
        for (unsigned i = 0; i < 8; ++i) {
            const double here = mask >> i & 1 ? 1.0 : 0.0;
            of.weight *= decay;
            of.pairs = of.pairs * (decay * decay) + here * of.weight;
            of.squares = of.squares * (decay * decay) + here;
            of.weight += here;
        }
    }
}

std::shared_ptr<const DecayTable> DecayTable::of(double decay) {
    // Each thread has its own tables, because a shared mutex could stay locked in a forked process.
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

WeightTotals DecayTable::dense(int64_t n) const {
    RunningWeights all = dense_[static_cast<size_t>(n % PIECE)];
    for (int64_t k = 0; k < n / PIECE; ++k) all.append(dense_[PIECE], piece_factor(1));
    return all.totals(power(n));
}

WeightTotals DecayTable::masked(const uint64_t *bits, int n) const {
    const Bitmap rows{reinterpret_cast<const uint8_t *>(bits), 0};
    const double eight = power(8);
    PieceWeights all{0, 0, 0};
    // Each window has eight rows. The last window ends with the last row.
    for (int start = n % 8 - 8; start < n; start += 8) {
        const uint64_t window =
            start >= 0 ? rows.word(start, 8) : start > -8 ? rows.word(0, start + 8) << -start : 0;
        const PieceWeights &more = byte_[window];
        all.weight *= eight;
        all.pairs = all.pairs * (eight * eight) + all.weight * more.weight + more.pairs;
        all.squares = all.squares * (eight * eight) + more.squares;
        all.weight += more.weight;
    }
    return {all.weight, all.pairs, all.squares, power(n)};
}

}  // namespace streambn
