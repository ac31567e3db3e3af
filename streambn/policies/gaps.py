"""Gaps: rows without a value, which an EMA by row counts."""

from __future__ import annotations

from streambn.accumulators import Moments, require
from streambn.kernels.interface import Ints

__all__ = ["check_gaps"]


def check_gaps(gaps: Ints, moments: Moments) -> None:
    """Check the gaps in a state that comes from elsewhere; see `Policy.check_state`.

    Parameters
    ----------
    gaps : ndarray of int64, shape (2, features)
        Rows without a value before the first value and after the last one.
    moments : Moments
        With the counts of all values and of missing ones.
    """
    missing = moments.missing.sum(axis=0)
    for side, values in enumerate(gaps):
        within = (values >= 0) & (values <= missing)
        require(within, f"gaps[{side}]", values, "from 0 to the number of missing values")
    require(gaps[0] <= missing - gaps[1], "gaps[0]", gaps[0], "apart from gaps[1]")
    ended = (moments.count > 0) | (gaps[1] == 0)
    require(ended, "gaps[1]", gaps[1], "0 where count is 0")
