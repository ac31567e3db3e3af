// What is the same for all lanes of a call: above all what each row weighs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "decay.hpp"
#include "kernels.hpp"
#include "reduce.hpp"

namespace streambn {

class Context {
  public:
    Context(Weighing weighing, int64_t rows);

    const Kernels &inner = kernels();
    const Weighing weighing;
    const bool exact;                               // lanes are summed to the last bit
    const std::shared_ptr<const DecayTable> table;  // null: rows do not fade

    // Rows have weights of their own.
    bool weighted() const { return weighing.weights != nullptr; }
    // Every row weighs 1.
    bool even() const { return !table && !weighted(); }

    // The bounds of the pieces of a chunk. Where rows fade, the first piece is the short one: the
    // others then have whole pieces behind them.
    int first_piece(int64_t rows) const {
        const int64_t odd = rows % PIECE;
        return static_cast<int>(table && odd != 0 ? odd : std::min<int64_t>(rows, PIECE));
    }
    // What the n rows of a piece weigh, as of the last of `behind` rows, a number of whole pieces.
    RowWeights piece(int64_t start, int n, int64_t behind) const {
        const double *own = weighted() ? given(start) : nullptr;
        if (!table) return {own, nullptr, 1};
        return {table->weights(n), own, table->piece_factor(behind / PIECE)};
    }

    // To be called for each chunk, by one thread, before the three below are.
    void weigh(int64_t start, int64_t stop);
    // Of a chunk that has no missing rows.
    Weighed chunk(int64_t start, int64_t stop) const;
    // Of a piece that has none, and of the pieces of its chunk before it, where rows have weights
    // and do not fade.
    Totals piece_totals(int64_t start) const {
        return Totals(pieces_[static_cast<size_t>(start / PIECE)]);
    }
    Totals totals_before(int64_t start) const;

  private:
    const double *given(int64_t start) const {
        return start < padded_from_ ? weighing.weights + start : padded_ + (start - padded_from_);
    }
    int64_t padded_from_;
    Weighed whole_chunk_{}, last_chunk_{};  // without weights of the rows
    std::vector<Weighed> chunks_;           // with them
    std::vector<PieceWeights> pieces_;      // of rows that do not fade
    double padded_[PIECE + 8];  // the weights of the last piece, if it ends amid a pack of eight
};

}  // namespace streambn
