#include "moments/recursion.hpp"

#include <algorithm>
#include <cmath>

namespace streambn {

namespace {

constexpr int64_t TABULATED_GAPS = 64;  // a gap is a number of rows

struct RecursionStep {
    double weight, fade;
};

class RecursionSteps {
  public:
    RecursionSteps(double decay, double alpha) : decay_(decay), alpha_(alpha) {
        table_[1] = {1, decay};  // λ + α is exactly 1, and rounding must not change it
        for (int64_t gap = 2; gap <= TABULATED_GAPS; ++gap) table_[gap] = computed(gap);
    }
    RecursionStep of(int64_t gap) const { return gap <= TABULATED_GAPS ? table_[gap] : computed(gap); }

  private:
    RecursionStep computed(int64_t gap) const {
        const double faded =
            std::max(std::pow(decay_, static_cast<double>(gap)), decay_ * LEAST_FADE);
        const double weight = 1 / (faded + alpha_);
        return {weight, faded * weight};
    }
    double decay_, alpha_;
    RecursionStep table_[TABULATED_GAPS + 1];
};

}  // namespace

RecursionSummary recursion_weights(const bool *valid, int64_t rows, double decay, double alpha,
                                   double *weights) {
    const RecursionSteps steps(decay, alpha);
    std::fill(weights, weights + rows, 0.0);
    double product = 1;  // the product of the fades of all later values
    int64_t first = rows, last = -1, later = -1;
    for (int64_t i = rows - 1; i >= 0; --i) {
        if (!valid[i]) continue;
        if (last < 0) last = i;
        if (later >= 0 && product > 0) {
            const RecursionStep step = steps.of(later - i);
            weights[later] = step.weight * product;
            product *= step.fade;
            if (product < NEGLIGIBLE) product = 0;
        }
        first = later = i;
    }
    return {product, first, last < 0 ? 0 : rows - 1 - last};
}

}  // namespace streambn
