"""Moments as the kernels hold them: arrays over features in one block of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from streambn.kernels.interface import Floats, Ints

__all__ = [
    "ZERO_EXPONENT",
    "FloatField",
    "IntField",
    "MomentArrays",
    "TallyArrays",
    "empty_moments",
]

# The exponent of a feature that has seen only zeros. It is below every other exponent, so a
# merge takes the other one.
ZERO_EXPONENT = -1100


class FloatField:
    """A row of `memory` that holds float64, bit for bit."""

    def __init__(self, row: int) -> None:
        self._row = row

    def __get__(self, arrays: TallyArrays, owner: type | None = None) -> Floats:
        floats: Floats = arrays.memory[self._row].view(np.float64)
        return floats


class IntField:
    """A row of `memory` that holds int64."""

    def __init__(self, row: int) -> None:
        self._row = row

    def __get__(self, arrays: TallyArrays, owner: type | None = None) -> Ints:
        ints: Ints = arrays.memory[self._row]
        return ints


class TallyArrays:
    """Counts and extremes of one segment of a stream, in the first rows of `memory`."""

    __slots__ = ("memory",)

    # Weights and decay do not affect these rows.
    TALLY: ClassVar[slice] = slice(0, 7)

    count = IntField(0)
    nulls = IntField(1)
    nans = IntField(2)
    pos_infs = IntField(3)
    neg_infs = IntField(4)
    min = FloatField(5)
    max = FloatField(6)

    def __init__(self, memory: Ints) -> None:
        self.memory = memory


class MomentArrays(TallyArrays):
    """Moments of one segment of a stream, as arrays over features.

    Values are in units of ``2**exponent``: the true mean is
    ``(mean_hi + mean_lo) * 2**exponent`` and the true sum of squares is
    ``(m2_hi + m2_lo) * 2**(2 * exponent)``. The exponent is 0 unless a feature has values
    beyond ``2**±400``, whose squares would leave the range of float64.

    Parameters
    ----------
    memory : ndarray of int64, shape (16, ..., F)
        The fields in their order. Fields of float64 are stored bit for bit.

    Attributes
    ----------
    count, nulls, nans, pos_infs, neg_infs : ndarray of int64
        Finite values, nulls, NaN, +inf and -inf seen.
    min, max : ndarray of float64
        The extremes of the finite values. +inf and -inf if there are none.
    weight : ndarray of float64
        W, the sum of the weights.
    pairs : ndarray of float64
        C, the sum over i < j of w_i * w_j.
    squares : ndarray of float64
        Q, the sum of w_i**2.
    mean_hi, mean_lo : ndarray of float64
        The weighted mean as an unevaluated sum.
    m2_hi, m2_lo : ndarray of float64
        S, the sum of w_i * (x_i - mean)**2, as an unevaluated sum.
    decay : ndarray of float64
        P, the factor by which the segment discounts everything before it.
    exponent : ndarray of int64
        The binary exponent of the units.
    """

    __slots__ = ()

    FIELDS: ClassVar[tuple[str, ...]] = (
        "count",
        "nulls",
        "nans",
        "pos_infs",
        "neg_infs",
        "min",
        "max",
        "weight",
        "pairs",
        "squares",
        "mean_hi",
        "mean_lo",
        "m2_hi",
        "m2_lo",
        "decay",
        "exponent",
    )

    weight = FloatField(7)
    pairs = FloatField(8)
    squares = FloatField(9)
    mean_hi = FloatField(10)
    mean_lo = FloatField(11)
    m2_hi = FloatField(12)
    m2_lo = FloatField(13)
    decay = FloatField(14)
    exponent = IntField(15)

    @property
    def not_finite(self) -> Ints:
        """The counts of NaN, +inf and -inf, shape (3, ..., F)."""
        return self.memory[2:5]

    @classmethod
    def from_fields(cls, **fields: NDArray[Any]) -> Self:
        """Copy all fields, of one shape, into one block of memory."""
        memory = np.empty((len(cls.FIELDS), *np.shape(fields["count"])), np.int64)
        arrays = cls(memory)
        for name in cls.FIELDS:
            getattr(arrays, name)[...] = fields[name]
        return arrays

    def replace(self, **fields: NDArray[Any]) -> Self:
        """Return a copy with new values in the given fields."""
        arrays = type(self)(self.memory.copy())
        for name, values in fields.items():
            getattr(arrays, name)[...] = values
        return arrays

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (getattr(self, name) for name in self.FIELDS)


def empty_moments(shape: int | tuple[int, ...]) -> MomentArrays:
    """Return the moments of an empty segment, the identity of `merge_moments`."""
    shape = (shape,) if isinstance(shape, int) else shape
    arrays = MomentArrays(np.zeros((len(MomentArrays.FIELDS), *shape), np.int64))
    arrays.min[...], arrays.max[...] = np.inf, -np.inf
    arrays.decay[...] = 1.0
    arrays.exponent[...] = ZERO_EXPONENT
    return arrays
