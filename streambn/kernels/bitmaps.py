"""Validity bitmaps as NumPy has booleans, and the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["arrow_array", "filter_rows", "unpack_validity"]


def unpack_validity(array: pa.Array, start: int, stop: int) -> NDArray[np.bool_] | None:
    """Elements `start` to `stop` of the validity bitmap as booleans; None: all valid."""
    bitmap = array.buffers()[0]
    if bitmap is None or array.null_count == 0:
        return None
    first, last = array.offset + start, array.offset + stop
    last = min(last, array.offset + len(array))
    octets = np.frombuffer(bitmap, np.uint8)[first // 8 : -(-last // 8)]
    bits = np.unpackbits(octets, bitorder="little")
    return bits[first % 8 : first % 8 + last - first].view(np.bool_)


def arrow_array(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """Wrap numbers or booleans, without a copy of the numbers, under their validity.

    `pyarrow.array` would do the same and import pandas first, to see if it is given one
    of its objects: 0.3 s at the first call.
    """
    if values.dtype == np.bool_:
        data = np.packbits(values, bitorder="little")
    else:
        data = np.ascontiguousarray(values)
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, values.size, [bitmap, pa.py_buffer(data)])


def filter_rows(array: pa.Array, rows: NDArray[np.bool_]) -> pa.Array:
    """Return the rows of an array for which the mask is true."""
    try:
        return array.filter(arrow_array(rows))
    except pa.ArrowNotImplementedError:
        # Arrow has not got that for all types: for views and for what is run-end-encoded.
        edges = np.flatnonzero(np.diff(rows, prepend=False, append=False)).reshape(-1, 2)
        runs = [array.slice(start, stop - start) for start, stop in edges.tolist()]
        return pa.concat_arrays(runs) if runs else array.slice(0, 0)
