"""Normalization of a batch, and its inverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.kernels.bitmaps import arrow_array, unpack_validity
from streambn.kernels.flatten import FlatColumn, flatten_columns
from streambn.kernels.interface import Columns, FeatureTransform, Floats, Ints, Transformed
from streambn.kernels.reference.blocks import BLOCK
from streambn.kernels.reference.sources import Source, group

__all__ = ["arrays_of", "denormalize", "map_matrix", "normalize"]

# Beyond this, subtracting the location can overflow.
_OVERFLOW = 2.0**969


@np.errstate(all="ignore")
def normalize(columns: Columns, lanes: FeatureTransform, schema: pa.Schema) -> Transformed:
    """Return y = clip((x − location)/scale)·γ + β for all columns of a batch.

    Values are computed in float64 and rounded once to the output type. Nulls stay null, with 0
    under them. NaN stays NaN. Features that are not `known` become null.

    Parameters
    ----------
    columns : Columns
    lanes : FeatureTransform
        The map of each feature.
    schema : pyarrow.Schema
        Schema of the output: a float for each column of numbers, and a fixed-size list of floats
        for each column of lists. A list is null where it or a struct around it is null. A number
        under a null struct is 0, not null.
    """
    return _map_columns(columns, lanes, schema, _normalize_chunk, lanes.location_hi)


@np.errstate(all="ignore")
def denormalize(columns: Columns, lanes: FeatureTransform, schema: pa.Schema) -> Transformed:
    """Return x = ((y − β)/γ)·scale + location, the inverse of `normalize` without clip."""
    return _map_columns(columns, lanes, schema, _denormalize_chunk)


def map_matrix(
    columns: Columns, lanes: FeatureTransform, inverse: bool, out: NDArray[np.floating]
) -> tuple[Ints, Ints]:
    """Map the bound columns of a matrix into the same columns of an array of floats.

    Parameters
    ----------
    columns : Columns
        Plain columns of a matrix.
    lanes : FeatureTransform
        The map of each feature. Those that are not `known` become 0.
    inverse : bool
        Whether to apply the map of `denormalize` instead of that of `normalize`.
    out : ndarray of a float type
        Of the shape of the matrix. Its other columns stay as they are.

    Returns
    -------
    nans, infs : ndarray of int64, shape (F,)
        NaN and infinite values found in the input.
    """
    kind, places = pa.from_numpy_dtype(out.dtype), columns.layout.places
    schema = pa.schema([(str(i), kind) for i in range(len(places))])
    mapped = (denormalize if inverse else normalize)(columns, lanes, schema)
    for place, array in zip(places, mapped.batch.columns, strict=True):
        out[:, place.path[0]] = np.frombuffer(array.buffers()[1], out.dtype, len(array))
    return mapped.nans, mapped.infs


_ChunkMap = Callable[[Source, Floats, FeatureTransform], Floats]


def _map_columns(
    columns: Columns,
    transform: FeatureTransform,
    schema: pa.Schema,
    chunk_map: _ChunkMap,
    base: Floats | None = None,
) -> Transformed:
    counts = np.zeros((2, len(transform.known)), np.int64)
    nans, infs = counts
    plain = flatten_columns(columns)
    arrays: list[pa.Array] = [None] * len(plain)
    kinds = schema.types
    dtypes = [_dtype(kind) for kind in kinds]
    for source, where in group(plain, BLOCK):
        part = transform.take(where)
        if base is not None:
            source.move_base(base[where])
        outs = [np.empty((source.rows, p.column.width), dtypes[p.index]) for p in source.parts]
        step = max(1, BLOCK // source.width)
        for start in range(0, source.rows, step):
            stop = start + step
            x, null = source.read(start, stop), source.missing(start, stop)
            y = chunk_map(source, x, part)
            # A sum is finite only if all its terms are, so most chunks need no closer look.
            if not np.isfinite(x.sum()):
                seen = True if null is None else ~null
                nans[where] += (np.isnan(x) & seen).sum(axis=1)
                infs[where] += (np.isinf(x) & seen).sum(axis=1)
            if null is not None:
                y[null] = 0.0
            if not part.known.all():
                y[~part.known] = 0.0
            for p, out in zip(source.parts, outs, strict=True):
                out[start:stop] = y[p.features].T
        for p, out in zip(source.parts, outs, strict=True):
            flat = _to_arrow(p.column, out, part.known[p.features])
            arrays[p.index] = _as_list(p.column, flat, kinds[p.index])
    return Transformed(pa.RecordBatch.from_arrays(arrays, schema=schema), counts)


def arrays_of(
    columns: Sequence[FlatColumn], y: Floats, known: NDArray[np.bool_], schema: pa.Schema
) -> pa.RecordBatch:
    """Return mapped values as a batch.

    Parameters
    ----------
    columns : sequence of FlatColumn
        The input.
    y : ndarray of float64, shape (rows, F)
        0 under nulls.
    known : ndarray of bool, shape (rows, F)
        False where the output is null although the input is not.
    schema : pyarrow.Schema
        As for `normalize`.
    """
    arrays, start = [], 0
    for column, kind in zip(columns, schema.types, strict=True):
        features = slice(start, start + column.width)
        out = np.where(known[:, features], y[:, features], 0.0).astype(_dtype(kind))
        arrays.append(_as_list(column, _to_arrow(column, out, known[:, features]), kind))
        start += column.width
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    """Return the type of the values of an output column."""
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return dtype


def _as_list(column: FlatColumn, flat: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return flat values as lists or tensors if the output type asks for them."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.ExtensionArray.from_storage(kind, _as_list(column, flat, kind.storage_type))
    if not pa.types.is_fixed_size_list(kind):
        return flat
    mask = None if column.outer is None else arrow_array(~column.outer)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)


def _normalize_chunk(source: Source, x: Floats, transform: FeatureTransform) -> Floats:
    hi, lo = source.locate(transform.location_hi, transform.location_lo)
    scale = source.out_of_units(transform.scale)
    if (np.maximum(np.abs(hi), scale) > _OVERFLOW).any():
        x, hi, lo, scale = x / 4, hi / 4, lo / 4, scale / 4
    y = x - hi[:, np.newaxis]
    if lo.any():
        y -= lo[:, np.newaxis]
    y /= scale[:, np.newaxis]
    if transform.clip is not None:
        np.clip(y, -transform.clip, transform.clip, out=y)
    if transform.gamma is not None and transform.beta is not None:
        y *= transform.gamma[:, np.newaxis]
        y += transform.beta[:, np.newaxis]
    return y


def _denormalize_chunk(source: Source, y: Floats, transform: FeatureTransform) -> Floats:
    y = source.plain(y)
    if transform.gamma is not None and transform.beta is not None:
        y = (y - transform.beta[:, np.newaxis]) / transform.gamma[:, np.newaxis]
    hi, lo, scale = transform.location_hi, transform.location_lo, transform.scale
    rescaled = (np.maximum(np.abs(hi), scale) > _OVERFLOW).any()
    if rescaled:
        hi, lo, scale = hi / 4, lo / 4, scale / 4
    x = y * scale[:, np.newaxis]
    x += lo[:, np.newaxis]
    x += hi[:, np.newaxis]
    return x * 4 if rescaled else x


def _to_arrow(column: FlatColumn, out: NDArray[np.floating], known: NDArray[np.bool_]) -> pa.Array:
    """Return the output as an Arrow array, null where the input is null or not `known`."""
    n = out.size
    valid = unpack_validity(column.values, 0, n)
    if not known.all():
        known_values = np.broadcast_to(known, out.shape).reshape(-1)
        valid = known_values if valid is None else valid & known_values
    return arrow_array(out, valid)
