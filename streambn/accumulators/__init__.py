"""The immutable values that statistics are kept in.

`moments` holds the monoid of weighted moments, and `exact` the integer sums behind `Exact`.
"""

from streambn.accumulators.exact import ExactMoments
from streambn.accumulators.moments import Estimates, Moments, var_and_std

__all__ = ["Estimates", "ExactMoments", "Moments", "var_and_std"]
