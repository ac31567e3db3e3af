"""Extraction of bound columns from structs, lists and encodings, as primitive arrays."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn._lazy import lazy_module
from streambn.errors import InvalidValueError
from streambn.kernels.bitmaps import arrow_array, unpack_validity
from streambn.kernels.interface import ABSENT, BoundColumn, Columns, Layout

pc = lazy_module("pyarrow.compute")  # takes 40 ms to import, and few columns need it

__all__ = [
    "FlatColumn",
    "check_offsets",
    "damaged_column",
    "decode_array",
    "decode_column",
    "decode_columns",
    "flatten_columns",
    "iterate_features",
]


class FlatColumn(NamedTuple):
    """One bound column of a record batch as a primitive array.

    Attributes
    ----------
    values : pyarrow.Array
        Integers, floats or decimals, row by row, of length ``rows * width``. May be a slice.
        Its own validity bitmap marks the null elements.
    width : int
        Number of features in the column: 1, or the size of the fixed-size list.
    outer : ndarray of bool, shape (rows,), or None
        False where an enclosing list or struct is null. None if none is null.
    """

    values: pa.Array
    width: int
    outer: NDArray[np.bool_] | None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.values) // self.width


def flatten_columns(columns: Columns) -> list[FlatColumn]:
    """Return every bound column as a primitive array."""
    return [_flatten(columns.batch, place) for place in columns.layout.places]


def iterate_features(
    columns: Columns, lanes: Iterable[int]
) -> Iterator[tuple[int, pa.Array, NDArray[np.bool_]]]:
    """Yield the values of the selected features, in ascending order of the features.

    Yields
    ------
    feature : int
        The index of the feature.
    values : pyarrow.Array
        One value per row.
    finite : ndarray of bool, shape (rows,)
        True where the value is neither null, NaN nor infinite.
    """
    places = columns.layout.places
    ends = list(itertools.accumulate(place.width for place in places))
    by_place = itertools.groupby(
        sorted(map(int, lanes)), lambda feature: bisect_right(ends, feature)
    )
    for i, here in by_place:
        column, before = _flatten(columns.batch, places[i]), ends[i] - places[i].width
        for feature in here:
            values = column.values
            if column.width > 1:
                values = values.take(
                    pa.array(np.arange(feature - before, len(values), column.width))
                )
            if column.outer is not None:
                values = pc.if_else(arrow_array(column.outer), values, None)
            finite = unpack_validity(values, 0, len(values))
            finite = np.ones(len(values), np.bool_) if finite is None else finite
            if pa.types.is_floating(values.type):
                finite = finite & np.isfinite(_floats(values))
            yield feature, values, finite


def _floats(values: pa.Array) -> NDArray[np.floating]:
    """Return a view of the values of a float array. Elements under nulls are arbitrary."""
    dtype: np.dtype[Any] = np.dtype(values.type.to_pandas_dtype())
    buffer = values.buffers()[1]
    return np.frombuffer(buffer, dtype, len(values), values.offset * dtype.itemsize)


def decode_columns(columns: Columns) -> Columns:
    """Return the bound columns, decoded, in a batch that holds no other columns."""
    arrays, places = [], []
    for i, (place, column) in enumerate(
        zip(columns.layout.places, flatten_columns(columns), strict=True)
    ):
        missing = None if column.outer is None else arrow_array(~column.outer)
        array, path = column.values, [i]
        if place.size is not None:
            array = pa.FixedSizeListArray.from_arrays(array, place.size, mask=missing)
        elif missing is not None:
            # The enclosing validity and the column's own are kept apart, as those of a struct
            # and its field.
            array, path = pa.StructArray.from_arrays([array], ["0"], mask=missing), [i, 0]
        arrays.append(array)
        places.append(BoundColumn(tuple(path), place.size))
    batch = pa.RecordBatch.from_arrays(arrays, names=[str(i) for i in range(len(arrays))])
    return Columns(batch, Layout(places, batch.schema), columns.weights, columns.times)


def _flatten(batch: pa.RecordBatch | NDArray[Any], place: BoundColumn) -> FlatColumn:
    if place.path[0] == ABSENT:
        return FlatColumn(pa.nulls(len(batch) * place.width, pa.float64()), place.width, None)
    if isinstance(batch, np.ndarray):
        run = batch[:, place.path[0] : place.path[0] + place.width]
        return FlatColumn(arrow_array(np.ascontiguousarray(run).reshape(-1)), place.width, None)
    array, outer = batch.column(place.path[0]), None
    for index in place.path[1:]:
        if pa.types.is_null(array.type):
            break  # every field below it is null too
        outer = _both(outer, unpack_validity(array, 0, len(array)))
        array = array.field(index)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    width = place.width
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array) * width, pa.float64())
    elif pa.types.is_fixed_size_list(array.type):
        outer = _both(outer, unpack_validity(array, 0, len(array)))
        array = array.values.slice(array.offset * width, len(array) * width)
    if pa.types.is_dictionary(array.type) or pa.types.is_run_end_encoded(array.type):
        array = decode_column(array, _name(batch.schema, place.path))
    return FlatColumn(array, width, outer)


def _name(schema: pa.Schema, path: tuple[int, ...]) -> str:
    """Return the name of a column or a struct field, with those above it."""
    field = schema.field(path[0])
    names = [field.name]
    for index in path[1:]:
        field = field.type.field(index)
        names.append(field.name)
    return ".".join(names)


def decode_array(array: pa.Array) -> pa.Array:
    """Return the array without its dictionary or run-end encoding.

    Raises
    ------
    pyarrow.ArrowException
        An index is outside of the dictionary, the run ends do not ascend, or an offset is negative.
    """
    if pa.types.is_dictionary(array.type):
        array.validate()
        check_offsets(array, array.dictionary)
        return array.dictionary_decode()
    if pa.types.is_run_end_encoded(array.type):
        check_offsets(array, array.run_ends, array.values)
        array.validate(full=True)  # Arrow would follow run ends that do not ascend
        return pc.run_end_decode(array)
    return array


def check_offsets(*arrays: pa.Array) -> None:
    """Raise an ArrowInvalid if an array starts before its buffers, which Arrow does not notice."""
    for array in arrays:
        if array.offset < 0:
            raise pa.ArrowInvalid(f"an array has the offset {array.offset}")


def decode_column(array: pa.Array, name: str) -> pa.Array:
    """Do the same as `decode_array`, and raise an `InvalidValueError` that names the column."""
    try:
        return decode_array(array)
    except (pa.ArrowInvalid, pa.ArrowIndexError) as error:
        raise damaged_column(error, name) from error


def damaged_column(error: Exception, name: str) -> InvalidValueError:
    """Return the error for a column that Arrow finds invalid."""
    return InvalidValueError(
        f"column {name!r} is damaged: {error}. The batch was rejected. Ask its producer for valid "
        "Arrow data.",
        column=name,
    )


def _both(a: NDArray[np.bool_] | None, b: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if a is None or b is None:
        return b if a is None else a
    return a & b
