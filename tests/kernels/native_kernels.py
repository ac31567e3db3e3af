"""The compiled kernels, direct calls of them, and checks of moments and outputs."""

from __future__ import annotations

import types
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from producers import LAYOUT

from streambn.kernels import BoundColumn, FeatureTransform, Layout, MomentArrays
from streambn.kernels.bitmaps import unpack_validity

native = pytest.importorskip(
    "streambn.kernels.native",
    reason="the compiled kernels are missing: install streambn where there is a C++ compiler",
    exc_type=ImportError,
)
core = native._core

F8, F4, F2 = (np.dtype(kind) for kind in ("f8", "f4", "f2"))


class Output(NamedTuple):
    """The output of a transform, with lists flattened."""

    arrays: list[pa.Array]
    nans: np.ndarray
    infs: np.ndarray


def output_schema(layout, kinds):
    """Return an output schema whose columns have these value types and the layout's list sizes."""
    sizes = [place.size for place in layout.places] + [None] * len(kinds)
    fields = (
        (str(i), kind if size is None else pa.list_(kind, size))
        for i, (kind, size) in enumerate(zip(kinds, sizes, strict=False))
    )
    return pa.schema(fields)


def run_transform(function, columns, transform, dtypes):
    """Call a transform with the given output types, and validate its batch."""
    schema = output_schema(columns.layout, [pa.from_numpy_dtype(dtype) for dtype in dtypes])
    mapped = function(columns, transform, schema)
    mapped.batch.validate(full=True)
    arrays = [getattr(array, "values", array) for array in mapped.batch.columns]
    return Output(arrays, mapped.nans, mapped.infs)


FIELDS = len(MomentArrays.FIELDS)


def open_batch(producer, layout):
    """Open data for the compiled functions; `layout` may be the packed bytes alone."""
    if isinstance(layout, bytes):
        layout = types.SimpleNamespace(packed=layout, schema=None)
    return core.Batch(producer, layout)


def core_moments(producer, layout, decay, ignore_missing, threads, out, weights=None):
    """Call the compiled function directly; `layout` may be the packed bytes alone."""
    core.block_moments(
        open_batch(producer, layout), decay, ignore_missing, weights, threads, None, out
    )


FORMATS = {
    "g": pa.float64(),
    "f": pa.float32(),
    "e": pa.float16(),
    "x": pa.string(),
    "0": pa.null(),
}


def core_transform(producer, layout, *arguments):
    """Call the compiled function directly; letters of `FORMATS` name the output types."""
    *before, formats, counts, threads = arguments
    schema = output_schema(LAYOUT, [FORMATS[letter] for letter in formats])
    return core.transform(
        open_batch(producer, layout), *before, counts, threads, schema.__arrow_c_schema__(),
        pa.allocate_buffer, lambda address: pa.RecordBatch._import_from_c(address, schema),
    )  # fmt: skip


def feature_transform(width, location=0.0, spread=1.0, low=0.0, affine=None, clip=None, known=None):
    """Return a transform of this many features; numbers are shared by all of them."""
    numbers = (location, low, spread, *(affine or (None, None)))
    arrays = (None if number is None else np.full(width, number, F8) for number in numbers)
    return FeatureTransform.of(*arrays, clip, np.ones(width, bool) if known is None else known)


def values_and_validity(array):
    """Return the numbers of an output, including those under nulls, and its validity."""
    kind = array.type.to_pandas_dtype()
    numbers = np.frombuffer(array.buffers()[1] or b"", kind)[array.offset :][: len(array)]
    valid = unpack_validity(array, 0, len(array))
    return numbers, np.ones(len(array), bool) if valid is None else valid


def assert_outputs_equal(a, b):
    """Check that two outputs have the same nulls and numbers, the signs of zeros aside."""
    (ours, valid), (theirs, expected) = values_and_validity(a), values_and_validity(b)
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(ours, theirs)
    assert a.null_count == len(a) - valid.sum()


def plain_layout(width):
    """Return the layout of a batch of this many columns of plain numbers."""
    return Layout([BoundColumn((i,), None) for i in range(width)])


PLAIN = plain_layout(1)


def masked_array(values, valid, kind=None):
    """Return an array that is null where `valid` is false."""
    return pa.array(values, kind, mask=~np.asarray(valid), from_pandas=False)
