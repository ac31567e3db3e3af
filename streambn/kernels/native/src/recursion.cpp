// What the values of one lane weigh in the recursion y = λ·y + α·x; the formulas are those of
// streambn/kernels/reference/recursion.py.
#include <algorithm>
#include <cmath>

#include "python.hpp"

namespace streambn {

namespace {

constexpr int64_t GAPS = 64;       // rows; behind longer gaps a power is taken each time
constexpr double LEAST = 0x1p-1000;

struct Step {
    double weight, fade;
};

class Steps {
  public:
    Steps(double decay, double alpha) : decay_(decay), alpha_(alpha) {
        known_[1] = {1, decay};  // λ + α is 1, and rounding must not say otherwise
        for (int64_t gap = 2; gap <= GAPS; ++gap) known_[gap] = made(gap);
    }
    Step of(int64_t gap) const { return gap <= GAPS ? known_[gap] : made(gap); }

  private:
    Step made(int64_t gap) const {
        const double faded = std::pow(decay_, static_cast<double>(gap));
        const double weight = 1 / (faded + alpha_);
        return {weight, faded * weight};
    }
    double decay_, alpha_;
    Step known_[GAPS + 1];
};

// Fill in the weights; returns (P, before, since).
nb::tuple recursion_weights(nb::handle there, double decay, double alpha, nb::handle out) {
    const Block present(there, 1, "?"), room(out, 8, "d", true);
    const auto rows = static_cast<int64_t>(present.items());
    expect(room.items(), rows, "the array of weights");
    if (!(decay >= 0 && decay <= 1 && alpha > 0 && alpha <= 1))
        throw std::invalid_argument("the rates of a recursion are out of their domain");
    const bool *is_there = present.as<bool>();
    double *weights = room.as<double>(), behind = 1;
    int64_t first = rows, last = -1;
    {
        const nb::gil_scoped_release released;
        const Steps steps(decay, alpha);
        std::fill(weights, weights + rows, 0.0);
        int64_t later = -1;  // the value behind the one that is looked at
        for (int64_t i = rows - 1; i >= 0; --i) {
            if (!is_there[i]) continue;
            if (last < 0) last = i;
            if (later >= 0 && behind > 0) {
                const Step step = steps.of(later - i);
                weights[later] = step.weight * behind;
                behind *= step.fade;
                if (behind < LEAST) behind = 0;
            }
            first = later = i;
        }
    }
    return nb::make_tuple(behind, first, last < 0 ? 0 : rows - 1 - last);
}

}  // namespace

void bind_recursion(nb::module_ &module) { module.def("recursion_weights", &recursion_weights); }

}  // namespace streambn
