// The NumPy arrays that receive estimates.
#pragma once

#include "buffer.hpp"
#include "moments/estimates.hpp"

namespace streambn {

// The arrays that receive the estimates of all features: the rows mean_hi, mean_lo, var and std, and
// whether the feature has a mean.
class EstimateArrays {
  public:
    EstimateArrays(nb::handle floats, nb::handle defined)
        : floats_(floats, 8, "d", true), defined_(defined, 1, "?", true),
          features(static_cast<int64_t>(defined_.items())) {
        floats_.expect(4 * features, "the array of estimates");
    }
    void put(int64_t k, const Estimate &read) const {
        double *const to = floats_.as<double>() + k;
        to[0] = read.mean.hi, to[features] = read.mean.lo;
        to[2 * features] = read.var, to[3 * features] = read.std;
        defined_.as<bool>()[k] = read.defined;
    }

  private:
    const Buffer floats_, defined_;

  public:
    const int64_t features;
};

}  // namespace streambn
