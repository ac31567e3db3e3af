"""A series: rows that are mapped as they are learned, each by the statistics as of that row.

`map_series` of both implementations takes these values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.kernels.interface import Floats, Ints
from streambn.kernels.moments import MomentArrays
from streambn.kernels.rows import RowRules

__all__ = ["Series", "SeriesState"]


class SeriesState(NamedTuple):
    """The statistics of features as of a row.

    Attributes
    ----------
    moments : MomentArrays
        Of all values. If the rules have a prior, of all but the first, apart from counts and
        extremes.
    first : MomentArrays or None
        Of the first value alone, if the rules have a prior.
    gaps : ndarray of int64, shape (2, F), or None
        Rows without a value before the first value and after the last one, if the rules count
        them.
    times : ndarray of float64, shape (2, F), or None
        The times at which the weights of the moments hold, as hi + lo, if weights fade by time.
    """

    moments: MomentArrays
    first: MomentArrays | None = None
    gaps: Ints | None = None
    times: Floats | None = None


class Series(NamedTuple):
    """How rows are learned and mapped.

    Attributes
    ----------
    rules : RowRules
        `unseen` and `constant` have no effect. A feature that is not known yet becomes null, and
        a constant feature has scale 1.
    before : bool
        Whether the statistics as of a row exclude it.
    gamma, beta : ndarray of float64, shape (F,), or None
        None means 1 and 0.
    exact : ndarray of bool, shape (F,)
        Whether a feature holds integers or decimals, whose values are not rounded.
    schema : pyarrow.Schema
        Schema of the output, as for `streambn.kernels.normalize`.
    halflife : float or None
        The time in which weights halve, in nanoseconds, or in the unit of times that are plain
        numbers. None: the times of the rows have no effect.
    """

    rules: RowRules
    before: bool
    gamma: Floats | None
    beta: Floats | None
    exact: NDArray[np.bool_]
    schema: pa.Schema
    halflife: float | None = None
