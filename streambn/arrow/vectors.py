"""Vectors that are stored as lists: conversion to the fixed-size lists that the kernels read.

A column of ``list``, ``large_list``, ``list_view`` or ``large_list_view`` holds vectors if all its
lists have one length. Fixed-size lists of fixed-size lists are tensors, whose elements follow each
other row by row.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.arrow.schemas import list_value_type
from streambn.errors import SchemaError
from streambn.kernels.bitmaps import arrow_array, unpack_validity
from streambn.kernels.flatten import check_offsets, damaged_column

pc = lazy_module("pyarrow.compute")  # takes 40 ms to import, and few columns need it

__all__ = ["as_flat", "as_stored", "is_list", "needs_conversion", "vector_size", "vector_type"]


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is of lists of numbers whose length may vary."""
    return list_value_type(kind) is not None


def vector_type(kind: pa.DataType, size: int) -> pa.DataType:
    """Return the type of flat fixed-size lists that holds the values of a list type."""
    while pa.types.is_fixed_size_list(kind) or is_list(kind):
        kind = kind.value_type
    return pa.list_(pa.float64() if pa.types.is_null(kind) else kind, size)


def needs_conversion(kind: pa.DataType) -> bool:
    """Return whether a numeric column must be converted before the kernels can read it."""
    return is_list(kind) or (
        pa.types.is_fixed_size_list(kind) and pa.types.is_fixed_size_list(kind.value_type)
    )


def vector_size(array: pa.Array, name: str) -> int | None:
    """Return the length of the first list that is not null; None if all of them are null.

    Raises
    ------
    InvalidValueError
        A list lies outside of its values.
    """
    _check_lists(array, name)
    valid = array.drop_null()
    return None if len(valid) == 0 else int(pc.list_value_length(valid.slice(0, 1))[0].as_py())


def _check_lists(array: pa.Array, name: str) -> None:
    """Validate the offsets of lists of numbers, which Arrow follows wherever they lead."""
    try:
        check_offsets(array, array.values)
        array.validate(full=True)
    except pa.ArrowException as error:
        raise damaged_column(error, name) from error


def as_flat(array: pa.Array, size: int, name: str) -> pa.FixedSizeListArray:
    """Return a column of vectors or tensors as flat fixed-size lists.

    Parameters
    ----------
    array : pyarrow.Array
        Of a type for which `needs_conversion` is true.
    size : int
        Number of elements in a row.
    name : str
        Name of the column in messages.

    Raises
    ------
    SchemaError
        A list has another length.
    InvalidValueError
        A list lies outside of its values.
    """
    _check_lists(array, name)
    if pa.types.is_fixed_size_list(array.type):
        return _flatten_tensor(array, size)
    valid = unpack_validity(array, 0, len(array))
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    other = lengths != size if valid is None else (lengths != size) & valid
    if other.any():
        row = int(np.flatnonzero(other)[0])
        raise SchemaError(
            f"column {name!r} holds vectors of {size} numbers, but row {row} of the batch has "
            f"{int(lengths[row])}. All lists of a column must have one length.",
            column=name,
        )
    values = array.flatten()  # without the null lists
    if pa.types.is_null(values.type):
        values = values.cast(pa.float64())
    lists = pa.FixedSizeListArray.from_arrays(values, size)
    if valid is None:
        return lists
    return lists.take(pa.array(np.cumsum(valid) - 1, mask=~valid))


def _flatten_tensor(array: pa.Array, size: int) -> pa.FixedSizeListArray:
    valid = unpack_validity(array, 0, len(array))
    mask = None if valid is None else arrow_array(~valid)
    inner = array.values.slice(
        array.offset * array.type.list_size, len(array) * array.type.list_size
    )
    if pa.types.is_fixed_size_list(inner.type.value_type):
        inner = _flatten_tensor(inner, size // array.type.list_size)
    width = inner.type.list_size
    values = inner.values.slice(inner.offset * width, len(inner) * width)
    present = unpack_validity(inner, 0, len(inner))
    if present is not None:  # the elements of a null list are null
        values = pc.if_else(arrow_array(np.repeat(present, width)), values, None)
    return pa.FixedSizeListArray.from_arrays(values, size, mask=mask)


def as_stored(flat: pa.FixedSizeListArray, kind: pa.DataType) -> pa.Array:
    """Return flat fixed-size lists as the list or tensor type of a column."""
    types = pa.types
    values, size, valid = flat.values, flat.type.list_size, unpack_validity(flat, 0, len(flat))
    mask = None if valid is None else arrow_array(~valid)
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        large = types.is_large_list_view(kind)
        make, dtype = (pa.LargeListViewArray, np.int64) if large else (pa.ListViewArray, np.int32)
        starts = (np.arange(len(flat)) * size).astype(dtype)
        sizes = np.full(len(flat), size, dtype)
        return make.from_arrays(starts, sizes, values, type=kind, mask=mask)
    if not types.is_fixed_size_list(kind):
        return flat.cast(kind)
    if types.is_fixed_size_list(kind.value_type):
        inner = pa.FixedSizeListArray.from_arrays(values, size // kind.list_size)
        values = as_stored(inner, kind.value_type)
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=mask)
