"""Column chunks of floats that do not compress: written as they lie in memory.

Normalized values look like noise. Of a plain column of them an encoder copies every byte
twice, searches it for repetitions that are not there, and ends with what it was given.
Here the pages are made around the values instead: a header before, the levels that say
where nulls are, and for Snappy one literal that is the whole page, which is how Snappy
itself [1]_ stores what it cannot shorten. The values are not copied until the system takes
them. Of 16 columns of 3M rows this saves 0.2 s of the 0.5 s that a rewrite takes of the
processors.

References
----------
.. [1] https://github.com/google/snappy/blob/main/format_description.txt
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from streambn.footers import Chunks, thrift, varint
from streambn.kernels.bitmaps import unpack_validity

__all__ = ["CODECS", "chunk", "is_noise"]

# The codecs whose pages can be made so, as numbered in a footer.
CODECS = {"none": 0, "snappy": 1}
_TYPES = {pa.float32(): 4, pa.float64(): 5}  # as numbered there too
_PLAIN, _RLE, _DATA_PAGE = 0, 3, 0
_I32, _I64, _BINARY, _LIST, _STRUCT, _TRUE = 5, 6, 8, 9, 12, 1
# A page of float64 is a megabyte, as Arrow makes them.
_PAGE_ROWS = 1 << 17
# So much is looked at in three places, and has to shrink by so much to be worth a codec.
_SAMPLE, _WORTH = 16 << 10, 0.95


def is_noise(arrays: Sequence[Any], type_: Any) -> bool:
    """Say whether arrays are floats that Snappy would not shorten, by a few samples."""
    if type_ not in _TYPES:
        return False
    rows = sum(map(len, arrays))
    if rows == 0:
        return False
    places = [arrays[0], arrays[len(arrays) // 2], arrays[-1]]
    count = _SAMPLE // (type_.bit_width // 8)
    starts = (0, max((len(places[1]) - count) // 2, 0), max(len(places[2]) - count, 0))
    for array, start in zip(places, starts, strict=True):
        sample = _values(array.slice(start, count)).tobytes()
        if sample and len(pa.compress(sample, codec="snappy", asbytes=True)) < _WORTH * len(sample):
            return False
    return True


def chunk(arrays: Sequence[Any], field: Any, codec: str) -> Chunks:
    """Make the chunk of a column at the top level.

    Parameters
    ----------
    arrays : sequence of pyarrow.Array
        The column, of float32 or float64.
    field : pyarrow.Field
        Its field in the schema.
    codec : str
        One of `CODECS`.
    """
    parts: list[Any] = []
    sizes = [0, 0]  # decompressed, compressed; headers are in both
    rows = nulls = pages = 0
    low, high = np.inf, -np.inf
    for array in arrays:
        for start in range(0, len(array), _PAGE_ROWS):
            page = array.slice(start, _PAGE_ROWS)
            values = _values(page)
            if len(values):
                # Those that are no number are left out, and found only if there are any.
                extremes = values.min(), values.max()
                if np.isnan(extremes[0]):
                    extremes = np.fmin.reduce(values), np.fmax.reduce(values)
                low, high = np.fmin(low, extremes[0]), np.fmax(high, extremes[1])
            levels = _levels(page) if field.nullable else b""
            size = len(levels) + values.nbytes
            mark = b"" if codec == "none" else _literal(size)
            header = _page_header(len(page), size, len(mark) + size)
            parts += [header + mark + levels, values.data.cast("B")]
            sizes[0] += len(header) + size
            sizes[1] += len(header) + len(mark) + size
            rows += len(page)
            nulls += page.null_count
            pages += 1
    meta = {
        1: (_I32, _TYPES[field.type]),
        2: (_LIST, (_I32, [_PLAIN, _RLE])),
        3: (_LIST, (_BINARY, [field.name.encode()])),
        4: (_I32, CODECS[codec]),
        5: (_I64, rows),
        6: (_I64, sizes[0]),
        7: (_I64, sizes[1]),
        9: (_I64, len(b"PAR1")),
        12: (_STRUCT, _statistics(field.type, nulls, float(low), float(high))),
        13: (_LIST, (_STRUCT, [{1: (_I32, _DATA_PAGE), 2: (_I32, _PLAIN), 3: (_I32, pages)}])),
    }
    return Chunks(parts, [{2: (_I64, 0), 3: (_STRUCT, meta)}])


def _values(array: Any) -> Any:
    """Give the values that are not null, as they lie in memory if none is."""
    kind = np.float32 if array.type == pa.float32() else np.float64
    values = np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]
    valid = unpack_validity(array, 0, len(array))
    return values if valid is None else values[valid]


def _levels(array: Any) -> bytes:
    """Say which values are there: a run of ones, or a bit for each."""
    count = len(array)
    valid = unpack_validity(array, 0, count)
    if valid is not None:
        bits = np.packbits(valid, bitorder="little").tobytes()
        encoded = varint((len(bits) << 1) | 1) + bits
    else:
        encoded = varint(count << 1) + b"\x01"
    return struct.pack("<i", len(encoded)) + encoded


def _literal(size: int) -> bytes:
    """Begin what Snappy makes of so many bytes in which nothing repeats."""
    return varint(size) + b"\xfc" + struct.pack("<I", size - 1)


def _page_header(rows: int, size: int, compressed: int) -> bytes:
    page = {1: rows, 2: _PLAIN, 3: _RLE, 4: _RLE}
    return thrift(
        {
            1: (_I32, _DATA_PAGE),
            2: (_I32, size),
            3: (_I32, compressed),
            5: (_STRUCT, {number: (_I32, value) for number, value in page.items()}),
        }
    )


def _statistics(type_: Any, nulls: int, low: float, high: float) -> dict[int, Any]:
    statistics: dict[int, Any] = {3: (_I64, nulls)}
    if low <= high:
        # Zeros of either sign may be among the values, and they compare equal.
        ends = (high if high else 0.0, low if low else -0.0)
        form = "<f" if type_ == pa.float32() else "<d"
        statistics |= {5 + i: (_BINARY, struct.pack(form, end)) for i, end in enumerate(ends)}
        statistics |= {7: (_TRUE, True), 8: (_TRUE, True)}
    return statistics
