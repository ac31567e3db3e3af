// The weights of the rows of a batch, which all features share.
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
    const bool precise;                             // whether the batch is summed to 90 bits
    const std::shared_ptr<const DecayTable> table;  // null if rows do not fade

    // Returns whether rows have weights of their own.
    bool weighted() const { return weighting.weights != nullptr; }
    // Returns whether every row weighs 1.
    bool even() const { return !table && !weighted(); }

    // Returns the size of the first piece of a chunk. If rows fade, the first piece is the short
    // one, so that only whole pieces follow each piece.
    int first_piece(int64_t rows) const {
        const int64_t odd = rows % PIECE;
        return static_cast<int>(table && odd != 0 ? odd : std::min<int64_t>(rows, PIECE));
    }
    // Returns the weights of the n rows of a piece, as of the last of `behind` later rows. If rows
    // fade, the later rows are whole pieces.
    RowWeights piece(int64_t start, int n, int64_t behind) const {
        const double *own = weighted() ? given(start) : nullptr;
        if (!table) return {own, nullptr, 1};
        return {table->weights(n), own, table->piece_factor(behind / PIECE)};
    }

    // Sums the weights of a chunk. One thread must call this once for a chunk before the functions
    // below read the chunk.
    void weigh(int64_t start, int64_t stop);
    // Returns the totals of a chunk without missing values.
    WeightTotals chunk(int64_t start, int64_t stop) const;
    // These functions return the weights of a piece without missing values, and those of the
    // earlier pieces of its chunk. Rows must have weights and must not fade.
    RunningWeights piece_totals(int64_t start) const {
        return RunningWeights(pieces_[static_cast<size_t>(start / PIECE)]);
    }
    RunningWeights totals_before(int64_t start) const;

  private:
    const double *given(int64_t start) const {
        return start < padded_from_ ? weighting.weights + start : padded_ + (start - padded_from_);
    }
    int64_t padded_from_;
    WeightTotals whole_chunk_{}, last_chunk_{};  // for rows without weights that fade
    std::vector<WeightTotals> chunks_;           // for rows with weights
    std::vector<PieceWeights> pieces_;           // for rows with weights that do not fade
    double padded_[PIECE + 8];  // a copy of the weights of the last piece, if it ends within a pack
};

}  // namespace streambn
