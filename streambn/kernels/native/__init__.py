"""The kernels in C++: the same functions as `streambn.kernels.reference`, the same results.

A batch goes over the Arrow C data interface at once, is read at the speed of memory without
the interpreter's lock, and its sums are right to the same digits: the mean of a chunk enters
a double-double merge, short batches are summed to the last bit, integers are subtracted as
integers. Sources are in ``src``; `_core` is what is compiled of them.

Attributes
----------
simd : str
    The instruction set in use: ``avx512``, ``avx2`` or ``baseline``. All give the same
    bits, up to the hundredth; the environment variable ``STREAMBN_SIMD`` lowers it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from streambn.kernels import reference
from streambn.kernels.interface import Columns, LaneArrays, LaneTransform, Mapped
from streambn.kernels.native import _core
from streambn.kernels.nesting import decoded
from streambn.kernels.reference import empty_moments

__all__ = [
    "block_moments",
    "denormalize",
    "empty_moments",
    "merge_moments",
    "normalize",
    "set_threads",
    "simd",
]

simd: str = _core.simd

# From here on a subtraction of the location can overflow; the reference scales.
_FAR = 2.0**969

_threads = 1


def set_threads(count: int) -> None:
    """Use at most `count` threads for a batch; the results do not depend on it."""
    global _threads  # noqa: PLW0603 - a setting of the process, as in every threaded library
    _threads = count


def block_moments(columns: Columns, decay: float = 1.0, ignore_na: bool = False) -> LaneArrays:
    """See `streambn.kernels.reference.block_moments`."""
    plain = decoded(columns) if columns.layout.encoded else columns
    memory = np.empty((len(LaneArrays.FIELDS), plain.layout.lanes), np.int64)
    _core.block_moments(plain.batch, plain.layout.packed, decay, ignore_na, _threads, memory)
    return LaneArrays(memory)


def merge_moments(older: LaneArrays, newer: LaneArrays) -> LaneArrays:
    """See `streambn.kernels.reference.merge_moments`."""
    memory = np.empty(older.memory.shape, np.int64)
    _core.merge_moments(older.memory, newer.memory, memory)
    return LaneArrays(memory)


def normalize(
    columns: Columns, lanes: LaneTransform, dtypes: Sequence[np.dtype[np.floating]]
) -> Mapped:
    """See `streambn.kernels.reference.normalize`."""
    if _is_far(lanes):
        return reference.normalize(columns, lanes, dtypes)
    return _transform(columns, lanes, dtypes, inverse=False)


def denormalize(
    columns: Columns, lanes: LaneTransform, dtypes: Sequence[np.dtype[np.floating]]
) -> Mapped:
    """See `streambn.kernels.reference.denormalize`."""
    if _is_far(lanes):
        return reference.denormalize(columns, lanes, dtypes)
    return _transform(columns, lanes, dtypes, inverse=True)


def _is_far(lanes: LaneTransform) -> bool:
    # A comparison with NaN is false; both kernels give NaN there.
    return bool((np.maximum(np.abs(lanes.location_hi), lanes.spread) > _FAR).any())


class _Outcome:
    """A struct array of flat columns, to be imported."""

    def __init__(self, schema: pa.Schema, array: object) -> None:
        self._schema, self._array = schema, array

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._schema.__arrow_c_schema__(), self._array


def _transform(
    columns: Columns,
    lanes: LaneTransform,
    dtypes: Sequence[np.dtype[np.floating]],
    inverse: bool,
) -> Mapped:
    plain = decoded(columns) if columns.layout.encoded else columns
    nans, infs = np.zeros((2, plain.layout.lanes), np.int64)
    array = _core.transform(
        plain.batch,
        plain.layout.packed,
        lanes.location_hi,
        lanes.location_lo,
        lanes.spread,
        lanes.gamma,
        lanes.beta,
        math.inf if lanes.clip is None or inverse else lanes.clip,
        lanes.known,
        inverse,
        bytes(_FORMATS[dtype.itemsize] for dtype in dtypes),
        nans,
        infs,
        _threads,
    )
    schema = pa.schema([(str(i), pa.from_numpy_dtype(dtype)) for i, dtype in enumerate(dtypes)])
    return Mapped(pa.record_batch(_Outcome(schema, array)).columns, nans, infs)


_FORMATS = {8: ord("g"), 4: ord("f"), 2: ord("e")}
