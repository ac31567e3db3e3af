"""Arrow arrays as float64 lanes, around a base so that no low digit is lost.

A `Source` hands out chunks of a column as float64 of shape ``(L, n)``: the values
themselves for floats and small integers (base 0), and ``x - base`` for 64-bit integers
and decimals, subtracted in integers *before* the one rounding to float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Column, Floats

__all__ = ["Source", "unpack_validity"]

_WORDS = {8: 1, 16: 2, 32: 4}  # bytes of an integer -> 64-bit words
_SAFE = 2**61  # |x|, |base| below this: x - base fits into int64
_SAMPLE = 64  # rows looked at for a first centre


def unpack_validity(array: pa.Array, start: int, stop: int) -> NDArray[np.bool_] | None:
    """Elements `start` to `stop` of the validity bitmap as booleans; None: all valid."""
    bitmap = array.buffers()[0]
    if bitmap is None or array.null_count == 0:
        return None
    first, last = array.offset + start, array.offset + stop
    octets = np.frombuffer(bitmap, np.uint8)[first // 8 : -(-last // 8)]
    bits = np.unpackbits(octets, bitorder="little")
    return bits[first % 8 : first % 8 + stop - start].view(np.bool_)


class _Layout(NamedTuple):
    """How a primitive Arrow type lies in memory."""

    dtype: np.dtype[np.generic]
    words: int  # 0: a float64 holds every value; else 64-bit words of an integer
    signed: bool
    power: int  # decimal scale: value = integer / 10**power


def _layout(kind: pa.DataType) -> _Layout:
    if pa.types.is_decimal(kind):
        if kind.bit_width <= 64:
            return _Layout(np.dtype(f"<i{kind.byte_width}"), 1, True, kind.scale)
        return _Layout(np.dtype(np.uint64), _WORDS[kind.byte_width], True, kind.scale)
    if pa.types.is_integer(kind) and kind.bit_width == 64:
        signed = pa.types.is_signed_integer(kind)
        return _Layout(np.dtype(np.int64 if signed else np.uint64), 1, signed, 0)
    return _Layout(np.dtype(kind.to_pandas_dtype()), 0, True, 0)


class Source:
    """One column, ready to be read in chunks around a base.

    Attributes
    ----------
    base : ndarray of float64, shape (width,)
        Integers, in units of ``10**-power``: one of the column's own values, rounded.
        The true value of a chunk's element is ``(base + element) / 10**power``.
    centre : ndarray of float64, shape (width,)
        An offset from the base amid the data, where a reduction may start.
    power : int
        The scale of a decimal; else 0.
    has_nulls : bool
        Whether `missing` may find any.
    """

    def __init__(self, column: Column) -> None:
        self.width = column.width
        self.rows = column.rows
        self._column = column
        self._layout = layout = _layout(column.values.type)
        self.power = layout.power
        self.has_nulls = column.outer is not None or column.values.null_count > 0
        self._integral = layout.words > 0
        data = column.values.buffers()[1]
        per_value = max(layout.words, 1)
        flat = np.frombuffer(data if data is not None else b"", layout.dtype)
        begin = column.values.offset * per_value
        flat = flat[begin : begin + len(column.values) * per_value]
        # (rows, width) for one word a value, (rows, width, words) for more.
        self._data = flat.reshape((self.rows, self.width, per_value)[: 2 + (per_value > 1)])
        self.base = np.zeros(self.width)
        self.centre = self._typical()
        if self._integral:
            # float64 holds the rounded value, so base + offset loses nothing.
            self.base, self.centre = np.rint(self.centre), self.base

    def _typical(self) -> Floats:
        """Take the lower median of the first finite values, a lane at a time; 0 if none.

        A median, because one outlier in front must not set the base: the integers
        behind it would then be rounded before they are subtracted.
        """
        centre = np.full(self.width, np.nan)
        start, stop = 0, min(_SAMPLE, self.rows)
        while start < stop and np.isnan(centre).any():
            sample = self.read(start, stop)
            null = self.missing(start, stop)
            usable = np.isfinite(sample) if null is None else np.isfinite(sample) & ~null
            found = usable.sum(axis=1)
            ordered = np.sort(np.where(usable, sample, np.inf), axis=1)
            middle = np.maximum(found - 1, 0)[:, np.newaxis] // 2
            median = np.take_along_axis(ordered, middle, axis=1)[:, 0]
            centre = np.where(np.isnan(centre) & (found > 0), median, centre)
            start, stop = stop, min(stop + _SAMPLE * 64, self.rows)
        return np.where(np.isnan(centre), 0.0, centre)

    def missing(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Nulls among rows `start` to `stop`, shape (L, n); None: there are none."""
        valid = unpack_validity(self._column.values, start * self.width, stop * self.width)
        null = None if valid is None else ~valid.reshape(-1, self.width).T
        outer = self._column.outer
        if outer is not None:
            hidden = ~outer[np.newaxis, start:stop]
            null = np.repeat(hidden, self.width, axis=0) if null is None else null | hidden
        return null

    def read(self, start: int, stop: int) -> Floats:
        """Rows `start` to `stop` as float64 offsets from the base, shape (L, n).

        Contiguous along the rows; a view of the Arrow buffer where that is possible.
        """
        block = self._data[start:stop]
        if not self._integral:
            return np.ascontiguousarray(block.T, dtype=np.float64)
        if block.ndim == 2:
            if _fits(block) and _fits(self.base):
                integers = block.astype(np.int64) - self.base.astype(np.int64)
                return np.ascontiguousarray(integers.T, dtype=np.float64)
            block = block.astype(np.int64 if self._layout.signed else np.uint64)
            words = [np.ascontiguousarray(block.T).view(np.uint64)]
        else:
            words = [np.ascontiguousarray(block[..., i].T) for i in range(block.shape[2])]
        extension = words[-1] >> np.uint64(63) if self._layout.signed else np.uint64(0)
        words.append(np.where(extension == 1, ~np.uint64(0), np.uint64(0)) + 0 * words[0])
        return _difference(words, [int(b) for b in self.base])

    def locate(self, hi: Floats, lo: Floats) -> tuple[Floats, Floats]:
        """Express a location hi + lo of the data's units as an offset from the base."""
        if not self._integral:
            return hi, lo
        scaled = (hi, lo)
        if self.power:
            scaled = _times_power_of_ten(scaled, self.power)
        return dd.add(scaled, (-self.base, np.zeros_like(self.base)))

    def restore(self, offset: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        """Turn an offset from the base back into the data's units, as hi + lo."""
        if not self._integral:
            return offset
        return self.in_units(dd.add((self.base, np.zeros_like(self.base)), offset))

    def in_units(self, value: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        """Divide by ``10**power``."""
        return _times_power_of_ten(value, -self.power) if self.power else value

    def out_of_units(self, value: Floats) -> Floats:
        """Multiply by ``10**power``."""
        return value * 10.0**self.power if self.power else value


def _fits(block: NDArray[Any]) -> bool:
    """Say whether every integer is small enough to subtract in int64."""
    if block.size == 0:
        return True
    return bool(block.min() >= -_SAFE and block.max() <= _SAFE)


def _difference(words: list[NDArray[np.uint64]], bases: list[int]) -> Floats:
    """Subtract one integer a lane from little-endian two's-complement integers.

    Parameters
    ----------
    words : list of uint64 arrays, shape (L, n)
        The lowest word first; the last one is the sign extension, so that the
        difference cannot overflow.
    bases : list of int
        One a lane.

    Returns
    -------
    ndarray of float64, shape (L, n)
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
    factor = (np.float64(high) + 0 * value[0], np.float64(ten - int(high)) + 0 * value[0])
    if power < 0:
        return dd.divide(value, factor)
    product = dd.scale(value, factor[0])
    return dd.add(product, (value[0] * factor[1], np.zeros_like(value[0])))
