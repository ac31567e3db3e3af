"""The arguments of the kernels: the bound columns of a batch, and a map of each feature.

A *feature* is one scalar series: a numeric column, or one element of a fixed-size list column.
Arrays over features have the shape ``(F,)``, or ``(..., F)`` where a function says so. Features
stand in the order of their columns, and list elements in their own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = [
    "ABSENT",
    "NEGLIGIBLE",
    "BoundColumn",
    "Columns",
    "Estimates",
    "FeatureTransform",
    "Floats",
    "Ints",
    "Layout",
    "Maps",
    "Times",
    "Transformed",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# `numbers` and `flags` of a FeatureTransform.
Maps = tuple[Floats, NDArray[np.bool_]]

# Smaller weights count as zero. A subnormal number loses digits, and multiplying by one costs
# about a hundred cycles.
NEGLIGIBLE = 2.0**-1000
# The path of a column that the batch does not have. All its values are null.
ABSENT = -1


class BoundColumn(NamedTuple):
    """The position and shape of a bound column in a batch.

    Attributes
    ----------
    path : tuple of int
        The index of the top-level column, followed by the indices of struct fields below it.
        ``(ABSENT,)`` if the batch lacks the column. In a matrix, the index of the first of
        `width` adjacent columns.
    size : int or None
        The length of the fixed-size lists in the column, or None if it holds plain numbers.
    """

    path: tuple[int, ...]
    size: int | None

    @property
    def width(self) -> int:
        """Number of features in the column."""
        return 1 if self.size is None else self.size


class Times(NamedTuple):
    """The event time of each row of a batch.

    Attributes
    ----------
    ticks : ndarray of int64 or float64, shape (rows,)
        No value is missing.
    tick : int or None
        Nanoseconds per tick, or None if the ticks are plain numbers in the user's own unit.
    zoned : bool or None
        Whether the times have a time zone, and the ticks count from 1970 in UTC; None if that is
        unknown or the ticks are plain numbers.
    """

    ticks: Ints | Floats
    tick: int | None
    zoned: bool | None = None

    def take(self, rows: Any) -> Times:
        """Return the times of the selected rows."""
        return self._replace(ticks=self.ticks[rows])


class Layout:
    """The bound columns of all batches with one schema.

    Parameters
    ----------
    places : sequence of BoundColumn
    schema : pyarrow.Schema, optional
        Without it, each batch exports its own schema.
    encoded : bool
        Whether a column may be dictionary-encoded or run-end-encoded.

    Attributes
    ----------
    features : int
        Number of features.
    whole : bool
        Whether the bound columns are exactly the top-level columns of the schema, in order.
    packed : bytes
        The columns as int32. For each: its list size (0 for plain numbers), the length of its
        path, and the path.
    schema : object or None
        The schema as a capsule of the Arrow C data interface.
    """

    __slots__ = ("encoded", "features", "packed", "places", "schema", "whole")

    def __init__(
        self, places: Sequence[BoundColumn], schema: pa.Schema | None = None, encoded: bool = False
    ) -> None:
        self.places = tuple(places)
        self.schema = None if schema is None else schema.__arrow_c_schema__()
        self.encoded = encoded
        kinds = [] if schema is None else schema.types
        # A column of type null may stand for a bound struct.
        self.whole = (
            len(places) == len(kinds)
            and not any(map(pa.types.is_null, kinds))
            and all(place.path == (i,) for i, place in enumerate(places))
        )
        self.features = sum(place.width for place in places)
        numbers = [n for path, size in places for n in (size or 0, len(path), *path)]
        self.packed = np.array(numbers, np.int32).tobytes()


class Columns:
    """The bound columns of one record batch or matrix.

    Parameters
    ----------
    batch : pyarrow.RecordBatch or ndarray, shape (rows, columns)
        A matrix holds numbers of a native type, in any memory layout.
    layout : Layout
        Of the batch's schema.
    weights : ndarray of float64, shape (rows,), optional
        The weight of each row, finite and not negative. Rows weigh 1 by default. A value in a
        row of weight 0 is still counted.
    times : Times, optional
        The event time of each row, for policies that need it.

    Attributes
    ----------
    opened : object or None
        The access of the native kernels to the data, which the first of them creates.
    """

    __slots__ = ("batch", "layout", "opened", "times", "weights")

    def __init__(
        self,
        batch: Any,
        layout: Layout,
        weights: Floats | None = None,
        times: Times | None = None,
    ) -> None:
        self.batch = batch
        self.layout = layout
        self.weights = weights
        self.times = times
        self.opened: Any = None

    @classmethod
    def of(cls, *arrays: pa.Array) -> Self:
        """Bind each array, of numbers or of fixed-size lists of numbers, as one column."""
        batch = pa.RecordBatch.from_arrays(list(arrays), names=list(map(str, range(len(arrays)))))
        sizes = [getattr(array.type, "list_size", None) for array in arrays]
        places = [BoundColumn((i,), size) for i, size in enumerate(sizes)]
        return cls(batch, Layout(places, batch.schema, encoded=True))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.batch)

    def slice(self, start: int, length: int) -> Self:
        """Return rows ``start`` to ``start + length`` without a copy."""
        some = slice(start, start + length)
        weights = None if self.weights is None else self.weights[some]
        times = None if self.times is None else self.times.take(some)
        return type(self)(self.batch[some], self.layout, weights, times)

    def with_weights(self, weights: Floats | None) -> Self:
        """Return the same columns with other weights."""
        return self.with_rows(weights, self.times)

    def with_rows(self, weights: Floats | None, times: Times | None) -> Self:
        """Return the same columns with other weights and times."""
        same = type(self)(self.batch, self.layout, weights, times)
        same.opened = self.opened
        return same


class Estimates(NamedTuple):
    """Statistics as a policy reads them from its state: arrays of shape (features,).

    Attributes
    ----------
    mean_hi, mean_lo : float64
        The mean as an unevaluated sum, in the data's units; 0 where undefined.
    var, std : float64
        Variance and standard deviation; NaN where undefined. Each is rounded on its own, so a
        standard deviation of 1e200 can go with an infinite variance.
    defined : bool
        Whether the feature has a mean.
    """

    mean_hi: Floats
    mean_lo: Floats
    var: Floats
    std: Floats
    defined: NDArray[np.bool_]


class FeatureTransform:
    """The map ``y = clip((x - location) / scale) * gamma + beta``, one per feature.

    Parameters
    ----------
    numbers : ndarray of float64, shape (3, F)
        The location as an unevaluated sum hi + lo, and the scale, which is never 0.
    flags : ndarray of bool, shape (2, F)
        Whether the feature has statistics, and whether its variance is within rounding error of
        zero.
    gamma, beta : ndarray of float64, shape (F,), or None
        None means 1 and 0.
    clip : float or None
        The bound on ``abs((x - location) / scale)``.
    """

    __slots__ = ("beta", "clip", "flags", "gamma", "numbers")

    def __init__(
        self,
        numbers: Floats,
        flags: NDArray[np.bool_],
        gamma: Floats | None,
        beta: Floats | None,
        clip: float | None,
    ) -> None:
        self.numbers = numbers
        self.flags = flags
        self.gamma = gamma
        self.beta = beta
        self.clip = clip

    @classmethod
    def of(
        cls,
        location_hi: Floats,
        location_lo: Floats,
        scale: Floats,
        gamma: Floats | None,
        beta: Floats | None,
        clip: float | None,
        known: NDArray[np.bool_],
    ) -> Self:
        """Build the map from an array for each of its attributes."""
        flags = np.array([known, np.zeros_like(known)])
        return cls(np.array([location_hi, location_lo, scale]), flags, gamma, beta, clip)

    @property
    def location_hi(self) -> Floats:
        """The location, rounded to float64, shape (F,)."""
        values: Floats = self.numbers[0]
        return values

    @property
    def location_lo(self) -> Floats:
        """The rest of the location, so that it is an unevaluated sum, shape (F,)."""
        values: Floats = self.numbers[1]
        return values

    @property
    def scale(self) -> Floats:
        """The divisor, shape (F,)."""
        values: Floats = self.numbers[2]
        return values

    @property
    def known(self) -> NDArray[np.bool_]:
        """False for a feature without statistics, whose output is null; shape (F,)."""
        values: NDArray[np.bool_] = self.flags[0]
        return values

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether the variance is within rounding error of zero, shape (F,)."""
        values: NDArray[np.bool_] = self.flags[1]
        return values

    def take(self, features: Any) -> FeatureTransform:
        """Return the map of some features."""
        # An index of the second axis alone may transpose the memory.
        numbers = np.ascontiguousarray(self.numbers[:, features])
        flags = np.ascontiguousarray(self.flags[:, features])
        gamma, beta = (None if x is None else x[features] for x in (self.gamma, self.beta))
        return FeatureTransform(numbers, flags, gamma, beta, self.clip)


class Transformed(NamedTuple):
    """The output of a transform of one batch.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
        One column for each bound column, of the requested schema.
    not_finite : ndarray of int64, shape (2, F)
        NaN and infinite values found in the input. Nulls are not counted.
    """

    batch: pa.RecordBatch
    not_finite: Ints

    @property
    def nans(self) -> Ints:
        """NaN found in the input, shape (F,)."""
        counts: Ints = self.not_finite[0]
        return counts

    @property
    def infs(self) -> Ints:
        """Infinite values found in the input, shape (F,)."""
        counts: Ints = self.not_finite[1]
        return counts
