// The sums W, C and Q of row weights, and the weights of an exponentially weighted average. The
// docstring of streambn/accumulators/moments.py defines W, C, Q and P.
#pragma once

#include <memory>
#include <vector>

#include "moments/doubledouble.hpp"
#include "simd/kernels.hpp"

namespace streambn {

// The weighting of rows. Row i of n weighs weights[i] * decay**(n-1-i); null `weights` stand for
// ones. With `ignore_missing`, a missing value does not age the others.
struct Weighting {
    double decay = 1;
    bool ignore_missing = false;
    const double *weights = nullptr;
};

// W, C, Q and P of some rows.
struct WeightTotals {
    double weight, pairs, squares, decay;
};

// W, C and Q of a growing number of rows. C is summed without subtraction, because (W² - Q)/2 would
// cancel.
struct RunningWeights {
    Pair weight{0, 0}, pairs{0, 0}, squares{0, 0};

    RunningWeights() = default;
    explicit RunningWeights(const PieceWeights &piece)
        : weight{piece.weight, 0}, pairs{piece.pairs, 0}, squares{piece.squares, 0} {}
    // Multiplies the weights of the present rows by `fade`, and appends `next`.
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

// Replaces a subnormal weight by zero. It adds nothing, and a product with it costs about a hundred
// cycles.
inline double without_subnormals(double weight) { return weight < 0x1p-1022 ? 0.0 : weight; }

// Tables of the weights λ**(n-1-i) of rows without weights of their own.
class DecayTable {
  public:
    explicit DecayTable(double decay);
    // Returns the table for λ. Each thread keeps its tables for later batches.
    static std::shared_ptr<const DecayTable> of(double decay);

    double decay() const { return decay_; }
    double power(int64_t rows) const;
    // Returns the weights of n <= PIECE rows, followed by zeros. The last row weighs 1.
    const double *weights(int n) const { return weights_.data() + PIECE - n; }
    // Returns the factor for a piece that is followed by `pieces` whole pieces.
    double piece_factor(int64_t pieces) const { return pieces_[static_cast<size_t>(pieces)]; }
    // Returns the totals of n valid rows.
    WeightTotals dense(int64_t n) const;
    // Returns the totals of the valid rows among n <= PIECE rows. The last row must be valid.
    WeightTotals masked(const uint64_t *bits, int n) const;

  private:
    double decay_;
    std::vector<double> weights_;        // λ**(PIECE-1) ... λ, 1, then zeros to the end of a pack
    std::vector<double> pieces_;         // λ**(PIECE*k)
    std::vector<RunningWeights> dense_;  // for 0 ... PIECE valid rows
    std::vector<PieceWeights> byte_;     // for eight rows, indexed by their validity byte
};

}  // namespace streambn
