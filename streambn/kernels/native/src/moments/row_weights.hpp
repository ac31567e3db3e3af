// The weight of every row of a batch, shared by all features.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "moments/weights.hpp"
#include "simd/kernels.hpp"

namespace streambn {

class RowWeighting {
  public:
    RowWeighting(Weighting weighting, int64_t rows);

    const Kernels &inner = kernels();
    const Weighting weighting;
    const bool precise;                             // the batch is short and summed to 90 bits
    const std::shared_ptr<const DecayTable> table;  // null: rows do not fade

    // Rows have weights of their own.
    bool weighted() const { return weighting.weights != nullptr; }
    // Every row weighs 1.
    bool even() const { return !table && !weighted(); }

    // The size of the first piece of a chunk. If rows fade, the first piece is the short one, so
    // that every other piece is followed by whole pieces.
    int first_piece(int64_t rows) const {
        const int64_t odd = rows % PIECE;
        return static_cast<int>(table && odd != 0 ? odd : std::min<int64_t>(rows, PIECE));
    }
    // The weights of the n rows of a piece, as of the last of `behind` later rows, which are
    // whole pieces.
    RowWeights piece(int64_t start, int n, int64_t behind) const {
        const double *own = weighted() ? given(start) : nullptr;
        if (!table) return {own, nullptr, 1};
        return {table->weights(n), own, table->piece_factor(behind / PIECE)};
    }

    // Sum the weights of a chunk. One thread calls this for each chunk before the functions below.
    void weigh(int64_t start, int64_t stop);
    // The totals of a chunk without missing values.
    WeightTotals chunk(int64_t start, int64_t stop) const;
    // The weights of a piece without missing values, and of the pieces of its chunk before it.
    // Only for rows that have weights and do not fade.
    RunningWeights piece_totals(int64_t start) const {
        return RunningWeights(pieces_[static_cast<size_t>(start / PIECE)]);
    }
    RunningWeights totals_before(int64_t start) const;

  private:
    const double *given(int64_t start) const {
        return start < padded_from_ ? weighting.weights + start : padded_ + (start - padded_from_);
    }
    int64_t padded_from_;
    WeightTotals whole_chunk_{}, last_chunk_{};  // for rows without weights
    std::vector<WeightTotals> chunks_;           // for rows with weights
    std::vector<PieceWeights> pieces_;           // for rows with weights that do not fade
    double padded_[PIECE + 8];  // the weights of the last piece, if it ends within a pack
};

}  // namespace streambn
