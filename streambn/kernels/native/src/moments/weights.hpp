// The sums W, C and Q of row weights, and the weights of an exponentially weighted average.
#pragma once

#include <memory>
#include <vector>

#include "moments/doubledouble.hpp"
#include "simd/kernels.hpp"

namespace streambn {

// How rows are weighted: row i of n weighs weights[i] * decay**(n-1-i). With `ignore_missing`, a
// missing value does not age the others. `weights`: null for ones.
struct Weighting {
    double decay = 1;
    bool ignore_missing = false;
    const double *weights = nullptr;
};

// W, C and Q of some rows, and the factor P by which they discount everything before them.
struct WeightTotals {
    double weight, pairs, squares, decay;
};

// W, C and Q of a growing number of rows. Nothing is subtracted: (W² - Q)/2 would cancel.
struct RunningWeights {
    Pair weight{0, 0}, pairs{0, 0}, squares{0, 0};

    RunningWeights() = default;
    explicit RunningWeights(const PieceWeights &piece)
        : weight{piece.weight, 0}, pairs{piece.pairs, 0}, squares{piece.squares, 0} {}
    // Append rows, after discounting the present ones by `fade`.
    void append(const RunningWeights &next, double fade = 1) {
        if (fade != 1) {
            weight = multiply(weight, fade);
            pairs = multiply(multiply(pairs, fade), fade);
            squares = multiply(multiply(squares, fade), fade);
        }
        pairs = add(add(pairs, next.pairs), multiply(weight, next.weight));
        squares = add(squares, next.squares);
        weight = add(weight, next.weight);
    }
    WeightTotals totals(double decay) const { return {weight.hi, pairs.hi, squares.hi, decay}; }
};

// Replace a subnormal weight by zero. It adds nothing, and multiplying by it costs about a
// hundred cycles.
inline double without_subnormals(double weight) { return weight < 0x1p-1022 ? 0.0 : weight; }

// Tables of the weights λ**(n-1-i) of rows that only fade.
class DecayTable {
  public:
    explicit DecayTable(double decay);
    // The table for λ, which each thread keeps for its next batches.
    static std::shared_ptr<const DecayTable> of(double decay);

    double decay() const { return decay_; }
    double power(int64_t rows) const;
    // The weights of n <= PIECE rows, followed by zeros. The last row weighs 1.
    const double *weights(int n) const { return weights_.data() + PIECE - n; }
    // The factor for a piece that is followed by `pieces` whole pieces.
    double piece_factor(int64_t pieces) const { return pieces_[static_cast<size_t>(pieces)]; }
    // The totals of n valid rows.
    WeightTotals dense(int64_t n) const;
    // The totals of the valid rows among the first n <= PIECE. The last of them is valid.
    WeightTotals masked(const uint64_t *bits, int n) const;

  private:
    double decay_;
    std::vector<double> weights_;        // λ**(PIECE-1) ... λ, 1, then zeros to the end of a pack
    std::vector<double> pieces_;         // λ**(PIECE*k)
    std::vector<RunningWeights> dense_;  // of 0 ... PIECE rows
    std::vector<PieceWeights> byte_;     // of eight rows, by their validity
};

}  // namespace streambn
