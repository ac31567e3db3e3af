"""What goes into a kernel and what comes out of it: arrays, nothing else.

A *lane* is one scalar series: a numeric column, or one element of a column of
fixed-size lists. Arrays over lanes have shape ``(L,)``, or ``(..., L)`` where a
function says so. Lanes stand in column order, the elements of a list in theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = [
    "ABSENT",
    "NEGLIGIBLE",
    "Columns",
    "ExactSums",
    "Floats",
    "Ints",
    "LaneArrays",
    "LaneTransform",
    "Layout",
    "Mapped",
    "Place",
    "Recursion",
    "Times",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A weight below this is nothing: a subnormal number has not got all digits, and costs a hundred
# cycles wherever it is multiplied.
NEGLIGIBLE = 2.0**-1000
# In the place of a column's index: the batch has not got it, and all its values are null.
ABSENT = -1


class Place(NamedTuple):
    """Where a bound column is in a batch.

    Attributes
    ----------
    path : tuple of int
        The index of the top-level column, then those of the struct fields below it; or
        `ABSENT`. Of a matrix, whose list is a run of its columns: the first of them.
    size : int or None
        Elements of the fixed-size list that it holds; None: plain numbers.
    """

    path: tuple[int, ...]
    size: int | None

    @property
    def width(self) -> int:
        """Number of lanes."""
        return 1 if self.size is None else self.size


@dataclass(frozen=True, slots=True)
class Times:
    """When the rows of a batch happened.

    Attributes
    ----------
    ticks : ndarray of int64 or float64, shape (rows,)
        None of them is missing.
    tick : int or None
        Nanoseconds in a tick; None: the ticks are plain numbers, whose unit is the user's.
    """

    ticks: Ints | Floats
    tick: int | None

    def take(self, rows: Any) -> Times:
        """Return those of some rows."""
        return Times(self.ticks[rows], self.tick)


class Layout:
    """Where the bound columns are in the batches of one schema.

    Parameters
    ----------
    places : sequence of Place
        One a bound column.
    schema : pyarrow.Schema, optional
        Without, each batch gives its own along with itself.
    encoded : bool
        Whether a column may be dictionary- or run-end-encoded.

    Attributes
    ----------
    lanes : int
    whole : bool
        Whether the columns are all that there is, in their order and at the top level.
    packed : bytes
        The places as int32: size (0: plain), length of the path, path; one by one.
    schema : object or None
        The schema, exported to the Arrow C data interface.
    """

    __slots__ = ("encoded", "lanes", "packed", "places", "schema", "whole")

    def __init__(
        self, places: Sequence[Place], schema: pa.Schema | None = None, encoded: bool = False
    ) -> None:
        self.places = tuple(places)
        self.schema = None if schema is None else schema.__arrow_c_schema__()
        self.encoded = encoded
        kinds = [] if schema is None else schema.types
        # A column of nulls may stand for a struct.
        self.whole = (
            len(places) == len(kinds)
            and not any(map(pa.types.is_null, kinds))
            and all(place.path == (i,) for i, place in enumerate(places))
        )
        self.lanes = sum(place.width for place in places)
        numbers = [n for path, size in places for n in (size or 0, len(path), *path)]
        self.packed = np.array(numbers, np.int32).tobytes()


class Columns:
    """The bound columns of one record batch, or of a matrix.

    Parameters
    ----------
    batch : pyarrow.RecordBatch or ndarray, shape (rows, columns)
        A matrix has its columns, or if they are bound as one list its rows, in one piece of
        memory each.
    layout : Layout
        Of the batch's schema.
    weights : ndarray of float64, shape (rows,), optional
        What each row weighs: finite, not negative. Without, 1. A value in a row that weighs
        nothing is counted all the same.
    times : Times, optional
        When each row happened, for a policy that asks for it.
    """

    __slots__ = ("batch", "layout", "times", "weights")

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

    @classmethod
    def of(cls, *arrays: pa.Array) -> Self:
        """Bind arrays of numbers, or fixed-size lists of them, each as a column of its own."""
        batch = pa.RecordBatch.from_arrays(list(arrays), names=list(map(str, range(len(arrays)))))
        sizes = [getattr(array.type, "list_size", None) for array in arrays]
        places = [Place((i,), size) for i, size in enumerate(sizes)]
        return cls(batch, Layout(places, batch.schema, encoded=True))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.batch)

    def slice(self, start: int, length: int) -> Self:
        """Rows ``start`` to ``start + length``, without a copy."""
        some = slice(start, start + length)
        weights = None if self.weights is None else self.weights[some]
        times = None if self.times is None else self.times.take(some)
        return type(self)(self.batch[some], self.layout, weights, times)

    def weighed(self, weights: Floats | None) -> Self:
        """Return the same with other weights."""
        return type(self)(self.batch, self.layout, weights, self.times)


class _FloatRow:
    """A field that holds float64."""

    def __init__(self, row: int) -> None:
        self._row = row

    def __get__(self, arrays: LaneArrays | ExactSums, owner: type | None = None) -> Floats:
        floats: Floats = arrays.memory[self._row].view(np.float64)
        return floats


class _IntRow:
    """A field that holds int64."""

    def __init__(self, row: int) -> None:
        self._row = row

    def __get__(self, arrays: LaneArrays | ExactSums, owner: type | None = None) -> Ints:
        ints: Ints = arrays.memory[self._row]
        return ints


class LaneArrays:
    """Moments of one segment of a stream: arrays over lanes, in one block of memory.

    Values are in units of ``2**exponent``: the true mean is
    ``(mean_hi + mean_lo) * 2**exponent`` and the true sum of squares
    ``(m2_hi + m2_lo) * 2**(2 * exponent)``. The exponent is 0 unless the lane's
    values are beyond ``2**±400``, where a square would leave the range of float64.

    Parameters
    ----------
    memory : ndarray of int64, shape (16, ..., L)
        The fields in their order; those of float64 bit for bit.

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
    squares : float64
        Q, the sum of w_i**2.
    mean_hi, mean_lo : float64
        The weighted mean as an unevaluated sum.
    m2_hi, m2_lo : float64
        S, the sum of w_i * (x_i - mean)**2, as an unevaluated sum.
    decay : float64
        P, the factor by which the segment discounts what came before it.
    exponent : int64
        The binary exponent of the units.
    """

    __slots__ = ("memory",)

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

    count = _IntRow(0)
    nulls = _IntRow(1)
    nans = _IntRow(2)
    pos_infs = _IntRow(3)
    neg_infs = _IntRow(4)
    min = _FloatRow(5)
    max = _FloatRow(6)
    weight = _FloatRow(7)
    pairs = _FloatRow(8)
    squares = _FloatRow(9)
    mean_hi = _FloatRow(10)
    mean_lo = _FloatRow(11)
    m2_hi = _FloatRow(12)
    m2_lo = _FloatRow(13)
    decay = _FloatRow(14)
    exponent = _IntRow(15)

    def __init__(self, memory: Ints) -> None:
        self.memory = memory

    @property
    def not_finite(self) -> Ints:
        """The counts of NaN, +inf and -inf, shape (3, ..., L)."""
        return self.memory[2:5]

    @classmethod
    def from_fields(cls, **fields: NDArray[Any]) -> Self:
        """Gather all fields, of one shape, into one block."""
        memory = np.empty((len(cls.FIELDS), *np.shape(fields["count"])), np.int64)
        arrays = cls(memory)
        for name in cls.FIELDS:
            getattr(arrays, name)[...] = fields[name]
        return arrays

    def replace(self, **fields: NDArray[Any]) -> Self:
        """Return a copy with other values in some fields."""
        arrays = type(self)(self.memory.copy())
        for name, values in fields.items():
            getattr(arrays, name)[...] = values
        return arrays

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (getattr(self, name) for name in self.FIELDS)


class ExactSums:
    """Exact sums of one segment of a stream: arrays over lanes, in one block of memory.

    The sums are integers, in units in which every value is whole: 2**-1074 for floats and
    integers, 10**-scale for decimals. So no addition rounds, and equal values give equal
    memory in whatever order they came and however they were cut and merged.

    Parameters
    ----------
    memory : ndarray of int64, shape (110, L)
        The fields in their order; those of float64 bit for bit.

    Attributes
    ----------
    count, nulls, nans, pos_infs, neg_infs : int64
        As in `LaneArrays`.
    min, max : float64
        Likewise, the nearest float64 of an integer or decimal. -0.0 is less than 0.0.
    decimal : int64
        Whether the unit is 10**-scale; 0 or 1.
    scale : int64
        Digits behind the point, may be negative; 0 where `decimal` is 0.
    total : int64, shape (34, L)
        The sum of x in units: limbs of 64 bits, the lowest first, in two's complement. Of
        floats, 2**63 values of 2**2098 units fit.
    squares : int64, shape (67, L)
        The sum of x**2 in units squared, likewise.
    """

    __slots__ = ("memory",)

    # One unit is 2**-UNIT_BITS where it is not decimal: that of the smallest float64.
    UNIT_BITS: ClassVar[int] = 1074
    TOTAL: ClassVar[slice] = slice(9, 43)
    SQUARES: ClassVar[slice] = slice(43, 110)
    ROWS: ClassVar[int] = 110

    count = _IntRow(0)
    nulls = _IntRow(1)
    nans = _IntRow(2)
    pos_infs = _IntRow(3)
    neg_infs = _IntRow(4)
    min = _FloatRow(5)
    max = _FloatRow(6)
    decimal = _IntRow(7)
    scale = _IntRow(8)

    def __init__(self, memory: Ints) -> None:
        self.memory = memory

    @property
    def total(self) -> Ints:
        """The limbs of Σx."""
        return self.memory[self.TOTAL]

    @property
    def squares(self) -> Ints:
        """The limbs of Σx²."""
        return self.memory[self.SQUARES]

    def integers(self, lane: int) -> tuple[int, int]:
        """Return Σx and Σx² of a lane, in units."""
        total, squares = (
            int.from_bytes(limbs[:, lane].tobytes(), "little", signed=True)
            for limbs in (self.total, self.squares)
        )
        return total, squares

    def put(self, lane: int, total: int, squares: int) -> None:
        """Set Σx and Σx² of a lane, in units.

        Raises
        ------
        OverflowError
            They do not fit into the limbs.
        """
        for limbs, value in ((self.total, total), (self.squares, squares)):
            octets = value.to_bytes(8 * len(limbs), "little", signed=True)
            limbs[:, lane] = np.frombuffer(octets, "<i8")


class Recursion(NamedTuple):
    """What the values of one lane weigh in the recursion y = λ·y + α·x.

    Attributes
    ----------
    weights : float64, shape (rows,)
        Of all values but the first, as of the last; 0 elsewhere. One without a gap before it
        would weigh 1 as of itself.
    decay : float
        P, by which they discount the first.
    before, since : int
        Rows without a value before the first one, or all; and behind the last.
    """

    weights: Floats
    decay: float
    before: int
    since: int


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
    batch : pyarrow.RecordBatch
        One column each, of the schema that was asked for.
    nans, infs : int64, shape (L,)
        NaN and infinities among the input's values that are not null.
    """

    batch: pa.RecordBatch
    nans: Ints
    infs: Ints
