// What is the same for all lanes of a call: above all what each row weighs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "decay.hpp"
#include "kernels.hpp"
#include "reduce.hpp"

namespace streambn {

class Context {
  public:
    Context(Weighing weighing, int64_t rows, int threads);

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
    int first_piece(int64_t rows) const;

    // The weights of a piece, none of whose rows is missing where rows fade, as of the last row
    // of the piece; readable to the next multiple of 8. Null: all weigh 1.
    const double *piece(int64_t start, int n) const;
    // Of what begins at a piece and has no missing rows: a piece, where rows have weights and do
    // not fade, and the pieces of its chunk before it.
    Totals piece_totals(int64_t start) const {
        return Totals(pieces_[static_cast<size_t>(start / PIECE)]);
    }
    Totals totals_before(int64_t start) const;
    // Of a chunk that has no missing rows.
    Weighed chunk(int64_t start, int64_t stop) const;

  private:
    void weigh_chunk(int64_t start, int64_t stop);

    const int64_t rows_;
    Weighed whole_chunk_{}, last_chunk_{};  // without weights of the rows
    std::vector<Weighed> chunks_;           // with them
    std::vector<PieceWeights> pieces_;      // of rows that do not fade
    // Of rows that fade: their weights as of the last of their piece. Else: those of the last
    // piece, if it ends amid a pack of eight.
    std::unique_ptr<double[]> made_;
    int64_t made_from_ = 0;  // the row at which `made_` begins
};

}  // namespace streambn
