"""The immutable values that statistics are kept in.

`moments` holds the monoid of weighted moments, `exact` the integer sums behind `Exact`, and
`domain` the values that both can have.
"""

from streambn.accumulators.domain import (
    MAX_ROWS,
    check_exact,
    check_moments,
    check_rows,
    check_sums,
    check_tally,
    require,
    rounding_of,
)
from streambn.accumulators.exact import ExactMoments
from streambn.accumulators.moments import Moments
from streambn.kernels import Estimates

__all__ = [
    "MAX_ROWS",
    "Estimates",
    "ExactMoments",
    "Moments",
    "check_exact",
    "check_moments",
    "check_rows",
    "check_sums",
    "check_tally",
    "require",
    "rounding_of",
]
