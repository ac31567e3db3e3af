"""What goes into a kernel and what comes out of it: arrays, nothing else.

A *lane* is one scalar series: a numeric column, or one element of a column of
fixed-size lists. Arrays over lanes have shape ``(L,)``, or ``(..., L)`` where a
function says so. Lanes stand in column order, the elements of a list in theirs.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Column", "Floats", "Ints", "LaneArrays", "LaneTransform", "Mapped"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Column(NamedTuple):
    """One bound column of one record batch, taken out of its nesting.

    Attributes
    ----------
    values : pyarrow.Array
        Primitive integers, floats or decimals; length ``rows * width``, row by row.
        May be a slice. Its own validity bitmap says which elements are null.
    width : int
        Lanes in the column: 1, or the size of the fixed-size list.
    outer : ndarray of bool, shape (rows,), or None
        False where an enclosing list or struct is null; None: nowhere.
    """

    values: pa.Array
    width: int
    outer: NDArray[np.bool_] | None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.values) // self.width

    def slice(self, start: int, length: int) -> Self:
        """Rows ``start`` to ``start + length``, without a copy."""
        return self._replace(
            values=self.values.slice(start * self.width, length * self.width),
            outer=None if self.outer is None else self.outer[start : start + length],
        )


class LaneArrays(NamedTuple):
    """Moments of one segment of a stream, one entry a lane.

    Values are in units of ``2**exponent``: the true mean is
    ``(mean_hi + mean_lo) * 2**exponent`` and the true sum of squares
    ``(m2_hi + m2_lo) * 2**(2 * exponent)``. The exponent is 0 unless the lane's
    values are beyond ``2**±400``, where a square would leave the range of float64.

    Attributes
    ----------
    count, nulls, nans, pos_infs, neg_infs : int64
        Finite values, nulls, NaN, +inf and -inf seen.
    min, max : float64
        Over the finite values; +inf and -inf where there are none.
    weight : float64
        W, the sum of the weights.
    pairs : float64
        C, the sum over i < j of w_i * w_j.
    mean_hi, mean_lo : float64
        The weighted mean as an unevaluated sum.
    m2_hi, m2_lo : float64
        S, the sum of w_i * (x_i - mean)**2, as an unevaluated sum.
    decay : float64
        P, the factor by which the segment discounts what came before it.
    exponent : int64
        The binary exponent of the units.
    """

    count: Ints  # type: ignore[assignment]  # hides tuple.count, which nobody misses
    nulls: Ints
    nans: Ints
    pos_infs: Ints
    neg_infs: Ints
    min: Floats
    max: Floats
    weight: Floats
    pairs: Floats
    mean_hi: Floats
    mean_lo: Floats
    m2_hi: Floats
    m2_lo: Floats
    decay: Floats
    exponent: Ints


class LaneTransform(NamedTuple):
    """The map ``y = clip((x - location) / spread) * gamma + beta``, lane by lane.

    Attributes
    ----------
    location_hi, location_lo : float64
        The location as an unevaluated sum.
    spread : float64
        Never 0.
    gamma, beta : float64 or None
        None: 1 and 0.
    clip : float or None
        The bound on the absolute value before gamma and beta are applied.
    known : bool
        False: the lane was never seen, its output is null.
    """

    location_hi: Floats
    location_lo: Floats
    spread: Floats
    gamma: Floats | None
    beta: Floats | None
    clip: float | None
    known: NDArray[np.bool_]


class Mapped(NamedTuple):
    """What a transform of one batch gives.

    Attributes
    ----------
    arrays : list of pyarrow.Array
        One a column, flat, of length ``rows * width``.
    nans, infs : int64, shape (L,)
        NaN and infinities among the input's values that are not null.
    """

    arrays: list[pa.Array]
    nans: Ints
    infs: Ints
