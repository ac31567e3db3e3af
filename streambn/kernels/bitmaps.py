"""Conversion between the validity bitmaps of Arrow and the boolean arrays of NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["arrow_array", "filter_rows", "string_array", "unpack_validity"]


def unpack_validity(array: pa.Array, start: int, stop: int) -> NDArray[np.bool_] | None:
    """Return the validity of elements `start` to `stop`, or None if the array has no nulls."""
    bitmap = array.buffers()[0]
    if bitmap is None or array.null_count == 0:
        return None
    first, last = array.offset + start, array.offset + stop
    last = min(last, array.offset + len(array))
    octets = np.frombuffer(bitmap, np.uint8)[first // 8 : -(-last // 8)]
    bits = np.unpackbits(octets, bitorder="little")
    return bits[first % 8 : first % 8 + last - first].view(np.bool_)


def arrow_array(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return numbers or booleans as an Arrow array, null where `valid` is False.

    Contiguous numbers are not copied. `pyarrow.array` gives the same array, but its first call
    imports pandas to recognise pandas' objects, which takes 0.3 s.
    """
    if values.dtype == np.bool_:
        data = np.packbits(values, bitorder="little")
    else:
        data = np.ascontiguousarray(values)
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, values.size, [bitmap, pa.py_buffer(data)])


def string_array(texts: Sequence[str]) -> pa.Array:
    """Return texts as an Arrow array, without an import of pandas: see `arrow_array`."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, encoded), np.int32, len(encoded)), out=offsets[1:])
    buffers = pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))
    return pa.StringArray.from_buffers(len(encoded), *buffers)


def filter_rows(array: pa.Array, rows: NDArray[np.bool_]) -> pa.Array:
    """Return the rows of an array for which the mask is true."""
    try:
        return array.filter(arrow_array(rows))
    except pa.ArrowNotImplementedError:
        # Arrow cannot filter every type. Views and run-end-encoded arrays are among the others.
        edges = np.flatnonzero(np.diff(rows, prepend=False, append=False)).reshape(-1, 2)
        runs = [array.slice(start, stop - start) for start, stop in edges.tolist()]
        return pa.concat_arrays(runs) if runs else array.slice(0, 0)
