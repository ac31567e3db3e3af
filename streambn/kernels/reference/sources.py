"""Arrow columns as float64 offsets from a base, which keep the low digits of large integers.

A `Source` returns chunks of columns as float64 arrays of shape ``(F, n)``. Floats and small
integers are returned unchanged, with base 0. 64-bit integers and decimals are returned as
``x - base``. The subtraction is done in integers, *before* the one rounding to float64.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.kernels import doubledouble as dd
from streambn.kernels.bitmaps import unpack_validity
from streambn.kernels.flatten import FlatColumn
from streambn.kernels.interface import Floats

__all__ = ["Source", "group"]

_WORDS = {8: 1, 16: 2, 32: 4}  # bytes of an integer -> 64-bit words
_SAFE = 2**61  # if |x| and |base| are at most this, x - base fits into int64
_EXACT = 2.0**53  # float64 holds every integer up to this
_SAMPLE = 64  # rows in the first search for a centre


class _Layout(NamedTuple):
    """The memory layout of a primitive Arrow type."""

    dtype: np.dtype[Any]
    words: int  # 64-bit words of an integer, or 0 if float64 holds every value
    signed: bool
    power: int  # scale of a decimal, whose value is integer / 10**power


@functools.lru_cache(maxsize=64)
def _layout(kind: pa.DataType) -> _Layout:
    if pa.types.is_decimal(kind):
        if kind.bit_width <= 64:
            return _Layout(np.dtype(f"<i{kind.byte_width}"), 1, True, kind.scale)
        return _Layout(np.dtype(np.uint64), _WORDS[kind.byte_width], True, kind.scale)
    if pa.types.is_integer(kind) and kind.bit_width == 64:
        signed = pa.types.is_signed_integer(kind)
        return _Layout(np.dtype(np.int64 if signed else np.uint64), 1, signed, 0)
    return _Layout(np.dtype(kind.to_pandas_dtype()), 0, True, 0)


class _Part(NamedTuple):
    """One column of a source."""

    index: int  # type: ignore[assignment]  # among all columns; hides tuple.index
    column: FlatColumn
    layout: _Layout
    data: NDArray[Any]  # shape (rows, width), or (rows, width, words) with several words
    features: slice  # the column's features in the source


def _part(index: int, column: FlatColumn, first: int) -> _Part:
    layout = _layout(column.values.type)
    buffer = column.values.buffers()[1]
    per_value = max(layout.words, 1)
    data = b"" if buffer is None else buffer
    # A buffer may end with bytes that are no value: Arrow only says that it is long enough.
    flat = np.frombuffer(data, layout.dtype, count=len(data) // layout.dtype.itemsize)
    begin = column.values.offset * per_value
    flat = flat[begin : begin + len(column.values) * per_value]
    shape = (column.rows, column.width, per_value)[: 2 + (per_value > 1)]
    return _Part(index, column, layout, flat.reshape(shape), slice(first, first + column.width))


def group(columns: Sequence[FlatColumn], values: int) -> list[tuple[Source, NDArray[np.intp]]]:
    """Group columns that can be read together into sources.

    Parameters
    ----------
    columns : sequence of FlatColumn
    values : int
        The largest number of values in a source of several columns. A longer column gets its own
        source, which can read it without a copy.

    Returns
    -------
    list of (Source, ndarray of int)
        Each source, with the indices of its features. Every feature occurs once.
    """
    groups: dict[Any, list[tuple[int, int]]] = {}
    first = 0
    for i, column in enumerate(columns):
        layout = _layout(column.values.type)
        kind = (_has_nulls(column), layout if layout.words else None)
        room = values // max(column.rows, 1)
        # The number of features before the column splits a kind into groups of limited size.
        key = (*kind, first // room) if column.width == 1 and room > 1 else i
        groups.setdefault(key, []).append((i, first))
        first += column.width
    return [
        (
            Source({i: columns[i] for i, _ in members}),
            np.concatenate([np.arange(at, at + columns[i].width) for i, at in members]),
        )
        for members in groups.values()
    ]


def _has_nulls(column: FlatColumn) -> bool:
    return column.outer is not None or column.values.null_count > 0


class Source:
    """Columns of one layout, read in chunks as offsets from a base.

    Parameters
    ----------
    columns : dict
        Columns by their index in the batch. Either float64 holds all their values, or they all
        have one type.

    Attributes
    ----------
    base : ndarray of float64, shape (F,)
        For each feature an integer, in units of ``10**-power``, near its values. The true value
        of an element of a chunk is ``(base + element) / 10**power``.
    power : int
        The scale of decimals, else 0.
    has_nulls : bool
        Whether `missing` may find nulls.
    parts : list
        The columns, as (index, column, layout, data, features).
    """

    def __init__(self, columns: Mapping[int, FlatColumn]) -> None:
        self.parts: list[_Part] = []
        self.width = 0
        for index, column in columns.items():
            self.parts.append(_part(index, column, self.width))
            self.width += column.width
        self.rows = column.rows
        self.has_nulls = any(map(_has_nulls, columns.values()))
        layout = self.parts[0].layout
        self.power = layout.power
        self._integral = layout.words > 0
        self.base = np.zeros(self.width)
        if self._integral:
            # float64 holds the rounded value, so the base itself has no error.
            self.base = np.rint(self._typical())

    def move_base(self, location: Floats) -> None:
        """Let offsets count from a location, shape (F,), where the type of the values reaches it.

        An offset is rounded once. That from the location itself has a relative error of 2**-53,
        whatever the base was.
        """
        if self._integral:
            with np.errstate(all="ignore"):
                near = np.rint(self.out_of_units(location))
                reached = np.abs(near) < 2.0 ** (64 * self.parts[0].layout.words - 2)
            self.base = np.where(reached, near, self.base)

    @property
    def centre(self) -> Floats:
        """The offset from the base at which a reduction may start, shape (F,)."""
        return np.zeros(self.width) if self._integral else self._typical()

    def _typical(self) -> Floats:
        """Return the lower median of the first finite values of each feature, or 0 if none.

        A median, because an outlier in the first row must not become the base. The offsets of all
        other integers from it would be large, and would lose digits in the rounding.
        """
        centre = np.full(self.width, np.nan)
        start, stop = 0, min(_SAMPLE, self.rows)
        while start < stop and np.isnan(centre).any():
            sample = self.read(start, stop)
            null = self.missing(start, stop)
            usable = np.isfinite(sample) if null is None else np.isfinite(sample) & ~null
            found = usable.sum(axis=1)
            ordered = np.sort(np.where(usable, sample, np.inf), axis=1)
            feature, last = np.arange(self.width), np.maximum(found - 1, 0)
            median = ordered[feature, last // 2]
            # 0 is as good a centre for data on both sides of it, and saves the subtraction.
            around_zero = np.abs(median) * 8 <= ordered[feature, last] - ordered[:, 0]
            median = np.where(around_zero, 0.0, median)
            centre = np.where(np.isnan(centre) & (found > 0), median, centre)
            start, stop = stop, min(stop + _SAMPLE * 64, self.rows)
        return np.where(np.isnan(centre), 0.0, centre)

    def missing(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Return the mask of nulls in rows `start` to `stop`, shape (F, n), or None."""
        if not self.has_nulls:
            return None
        null = np.zeros((self.width, min(stop, self.rows) - start), np.bool_)
        for _, column, _, _, features in self.parts:
            valid = unpack_validity(column.values, start * column.width, stop * column.width)
            if valid is not None:
                np.logical_not(valid.reshape(-1, column.width).T, out=null[features])
            if column.outer is not None:
                null[features] |= ~column.outer[start:stop]
        return null

    def read(self, start: int, stop: int) -> Floats:
        """Return rows `start` to `stop` as float64 offsets from the base, shape (F, n).

        The result is contiguous along the rows, and a view of the Arrow buffer where possible.
        """
        if len(self.parts) == 1 and not self._integral:
            return np.ascontiguousarray(self.parts[0].data[start:stop].T, dtype=np.float64)
        values = np.empty((self.width, min(stop, self.rows) - start))
        for part in self.parts:
            block = part.data[start:stop]
            if self._integral:
                values[part.features] = _offsets(block, part.layout, self.base[part.features])
            else:
                values[part.features] = block.T
        return values

    def locate(self, hi: Floats, lo: Floats) -> tuple[Floats, Floats]:
        """Return a location hi + lo in the data's units as an offset from the base."""
        if not self._integral:
            return hi, lo
        scaled = (hi, lo)
        if self.power:
            scaled = _times_power_of_ten(scaled, self.power)
        return dd.add(scaled, dd.wide(-self.base))

    def restore(self, offset: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        """Return an offset from the base as a value hi + lo in the data's units."""
        if not self._integral:
            return offset
        return self.in_units(dd.add(dd.wide(self.base), offset))

    def restore_extremes(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Return the extremes in the data's units, correctly rounded, from their offsets."""
        zero = np.zeros(self.width)
        least, greatest = self.restore((low, zero))[0], self.restore((high, zero))[0]
        if self._integral:
            # `read` has rounded such an offset.
            wide = np.maximum(np.abs(low), np.abs(high)) > _EXACT
            for feature in map(int, np.flatnonzero(wide)):
                found = [float(Fraction(i, 10**self.power)) for i in self._extremes(feature)]
                least[feature], greatest[feature] = found
        return least, greatest

    def _extremes(self, feature: int) -> tuple[int, int]:
        """Return the least and the greatest integer of a feature that has one."""
        part = next(p for p in self.parts if p.features.start <= feature < p.features.stop)
        data = part.data[:, feature - part.features.start]
        null = self.missing(0, self.rows)
        if null is not None:
            data = data[~null[feature]]
        if data.ndim == 1:
            return int(data.min()), int(data.max())
        top = data[:, -1].view(np.int64)
        sides = (data[top == end].astype(object) for end in (top.min(), top.max()))
        low, high = ([_integer(words) for words in rows] for rows in sides)
        return min(low), max(high)

    def in_units(self, value: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        """Divide by ``10**power``."""
        return _times_power_of_ten(value, -self.power) if self.power else value

    def plain(self, offsets: Floats) -> Floats:
        """Return offsets from the base, shape (F, n), as values in the data's units."""
        if not self._integral:
            return offsets
        return (self.base[:, np.newaxis] + offsets) / 10.0**self.power

    def out_of_units(self, value: Floats) -> Floats:
        """Multiply by ``10**power``."""
        return value * 10.0**self.power if self.power else value


def _integer(words: Sequence[int]) -> int:
    """Return a two's-complement integer from its 64-bit words, the lowest first."""
    value = sum(word << 64 * i for i, word in enumerate(words))
    return value - (1 << 64 * len(words)) if words[-1] >> 63 else value


def _offsets(block: NDArray[Any], layout: _Layout, base: Floats) -> Floats:
    """Return integers of shape (n, F[, words]) minus the base, rounded once, shape (F, n)."""
    if block.ndim == 2:
        if _fits(block) and _fits(base):
            return (block.astype(np.int64) - base.astype(np.int64)).T.astype(np.float64)
        wide = block.astype(np.int64 if layout.signed else np.uint64)
        words = [np.ascontiguousarray(wide.T).view(np.uint64)]
    else:
        words = [np.ascontiguousarray(block[..., i].T) for i in range(block.shape[2])]
    extension = np.zeros_like(words[0])
    if layout.signed:
        extension[words[-1] >> np.uint64(63) == 1] = ~np.uint64(0)
    return _difference([*words, extension], [int(b) for b in base])


def _fits(values: NDArray[Any]) -> bool:
    """Return whether every integer is small enough to subtract in int64."""
    if values.size == 0:
        return True
    return bool(values.min() >= -_SAFE and values.max() <= _SAFE)


def _difference(words: list[NDArray[np.uint64]], bases: list[int]) -> Floats:
    """Return little-endian two's-complement integers minus one integer per feature.

    Parameters
    ----------
    words : list of uint64 arrays, shape (F, n)
        The lowest word first. The last word is the sign extension, which keeps the difference
        from overflowing.
    bases : list of int
        One per feature.

    Returns
    -------
    ndarray of float64, shape (F, n)
        Exact where the difference fits into 53 bits.
    """
    mask = 2**64 - 1
    borrow = np.zeros(words[0].shape, np.uint64)
    difference = []
    for i, word in enumerate(words):
        base = np.array([[b >> 64 * i & mask] for b in bases], np.uint64)
        partial = word - base
        difference.append(partial - borrow)
        borrow = ((word < base) | (partial < borrow)).astype(np.uint64)
    negative = difference[-1] >> np.uint64(63) == 1
    magnitude = np.zeros(words[0].shape)
    carry = negative.astype(np.uint64)  # -x is ~x + 1
    unit = 1.0
    for word in difference:
        absolute = np.where(negative, ~word, word) + carry
        carry = carry & (absolute == 0)
        magnitude += absolute.astype(np.float64) * unit
        unit *= 2.0**64
    return np.where(negative, -magnitude, magnitude)


def _times_power_of_ten(value: tuple[Floats, Floats], power: int) -> tuple[Floats, Floats]:
    ten = 10 ** abs(power)
    high = float(ten)
    factor = (high + 0 * value[0], float(ten - int(high)) + 0 * value[0])
    return dd.divide(value, factor) if power < 0 else dd.multiply(value, factor)
