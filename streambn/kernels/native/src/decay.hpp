// The weights of an exponentially weighted average, as tables: row i of n weighs λ**(n-1-i).
#pragma once

#include <memory>
#include <vector>

#include "doubledouble.hpp"
#include "kernels.hpp"

namespace streambn {

// Weight W and pairs C of some rows, and the factor P by which they fade what came before.
struct Weighed {
    double weight, pairs, decay;
};

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
    std::vector<Pair> dense_weight_, dense_pairs_;  // of 0 ... PIECE rows
    std::vector<double> byte_weight_, byte_pairs_;  // of eight rows by their validity
};

}  // namespace streambn
