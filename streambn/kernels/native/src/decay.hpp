// The weights of an exponentially weighted average, as tables: row i of n weighs λ**(n-1-i).
#pragma once

#include <memory>
#include <vector>

#include "doubledouble.hpp"
#include "kernels.hpp"

namespace streambn {

// Weight W, pairs C and squares Q of some rows, and the factor P by which they fade what came
// before.
struct Weighed {
    double weight, pairs, squares, decay;
};

// W, C and Q of a growing number of rows. There is no subtraction: (W² - Q)/2 would cancel.
struct Totals {
    Pair weight{0, 0}, pairs{0, 0}, squares{0, 0};

    Totals() = default;
    explicit Totals(const PieceWeights &piece)
        : weight{piece.weight, 0}, pairs{piece.pairs, 0}, squares{piece.squares, 0} {}
    // Rows more, before which those that there are fade.
    void follow(const Totals &next, double fade = 1) {
        if (fade != 1) {
            weight = scale(weight, fade);
            pairs = scale(scale(pairs, fade), fade);
            squares = scale(scale(squares, fade), fade);
        }
        pairs = add(add(pairs, next.pairs), multiply(weight, next.weight));
        squares = add(squares, next.squares);
        weight = add(weight, next.weight);
    }
    Weighed with(double decay) const { return {weight.hi, pairs.hi, squares.hi, decay}; }
};

// A subnormal weight costs a hundred cycles and adds nothing.
inline double flushed(double weight) { return weight < 0x1p-1022 ? 0.0 : weight; }

class DecayTable {
  public:
    explicit DecayTable(double decay);
    // The table for λ, made once and kept for the next batch.
    static std::shared_ptr<const DecayTable> of(double decay);

    double decay() const { return decay_; }
    double power(int64_t rows) const;
    // One weight a row for n <= PIECE rows, the last of which weighs 1; zeros behind them.
    const double *weights(int n) const { return weights_.data() + PIECE - n; }
    // The factor for a piece with so many whole pieces behind it.
    double piece_factor(int64_t pieces) const { return pieces_[static_cast<size_t>(pieces)]; }
    // Of n rows, none of them missing.
    Weighed dense(int64_t n) const;
    // Of the first n <= PIECE rows, of which those with a bit are there; the last one is.
    Weighed masked(const uint64_t *bits, int n) const;

  private:
    double decay_;
    std::vector<double> weights_;  // λ**(PIECE-1) ... λ, 1, then zeros to the end of a pack
    std::vector<double> pieces_;   // λ**(PIECE*k)
    std::vector<Totals> dense_;    // of 0 ... PIECE rows
    std::vector<PieceWeights> byte_;  // of eight rows by their validity
};

}  // namespace streambn
