"""Arrow arrays compared by value, whatever their encoding: row by row, and NaN equals NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["IncomparableError", "differing"]

_TEXT = frozenset(
    kind.id
    for kind in (
        *(pa.string(), pa.large_string(), pa.string_view()),
        *(pa.binary(), pa.large_binary(), pa.binary_view()),
    )
)


class IncomparableError(TypeError):
    """Two arrays are of types that have no values in common."""


def differing(one: pa.Array, other: pa.Array, *, text: bool = False) -> NDArray[np.bool_]:
    """Say in which rows two arrays of the same length hold different values.

    Parameters
    ----------
    one : pyarrow.Array
    other : pyarrow.Array
        Perhaps of another type: another encoding or width, or nested alike. It is cast.
    text : bool
        `other` was text and its type was inferred: it tells no null from an empty string,
        and `one` is cast if it is a string.

    Returns
    -------
    ndarray of bool

    Raises
    ------
    IncomparableError
        The types cannot be brought together.
    """
    if one.type == other.type and one.equals(other):
        return np.zeros(len(one), np.bool_)
    one, other = _decoded(one, text), _decoded(other, text)
    unlike: NDArray[np.bool_] = _valid(one) != _valid(other)
    if pa.types.is_null(one.type) or pa.types.is_null(other.type):
        return unlike
    if pa.types.is_struct(one.type) and pa.types.is_struct(other.type):
        unlike |= _fields_differ(one, other, text)
    elif _is_list(one.type) and _is_list(other.type):
        unlike |= _lists_differ(one, other, text)
    else:
        unlike |= _values_differ(*_brought_together(one, other, text))
    return unlike


def _decoded(array: pa.Array, text: bool) -> pa.Array:
    """Take an array out of its encoding."""
    import pyarrow.compute as pc  # noqa: PLC0415  (40 ms to import)

    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    elif pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if array.type.id in _TEXT:
        # The largest of each, which every other fits into.
        is_binary = pa.types.is_binary(array.type) or array.type in (
            pa.large_binary(),
            pa.binary_view(),
        )
        array = array.cast(pa.large_binary() if is_binary else pa.large_string())
        if text:
            empty = pc.equal(pc.binary_length(array), 0)
            array = pc.if_else(empty, pa.scalar(None, array.type), array)
    return array


def _valid(array: pa.Array) -> NDArray[np.bool_]:
    return _numpy(array.is_valid())


def _numpy(array: pa.Array) -> NDArray[Any]:
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_map(kind)
    )


def _fields_differ(one: pa.Array, other: pa.Array, text: bool) -> NDArray[np.bool_]:
    names = [[field.name for field in array.type] for array in (one, other)]
    if names[0] != names[1]:
        raise IncomparableError
    unlike = np.zeros(len(one), np.bool_)
    # Flattened, a field is null where the struct is.
    for field, other_field in zip(one.flatten(), other.flatten(), strict=True):
        unlike |= differing(field, other_field, text=text)
    return unlike


def _lists_differ(one: pa.Array, other: pa.Array, text: bool) -> NDArray[np.bool_]:
    lengths = [_lengths(array) for array in (one, other)]
    unlike: NDArray[np.bool_] = lengths[0] != lengths[1]
    if unlike.any():  # then only those that are as long as each other
        alike = np.flatnonzero(~unlike)
        rows = pa.array(alike)
        unlike[alike] |= _lists_differ(one.take(rows), other.take(rows), text)
        return unlike
    values = differing(_elements(one), _elements(other), text=text)
    unlike[np.repeat(np.arange(len(one)), lengths[0])[values]] = True
    return unlike


def _lengths(array: pa.Array) -> NDArray[np.int64]:
    """Count the elements of each list; a null has none."""
    import pyarrow.compute as pc  # noqa: PLC0415

    if pa.types.is_map(array.type):  # of which Arrow has no lengths
        return np.where(_valid(array), np.diff(_numpy(array.offsets)), 0)
    return _numpy(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)


def _elements(array: pa.Array) -> pa.Array:
    if not pa.types.is_map(array.type):
        return array.flatten()  # without what lies under nulls
    if array.null_count:
        array = array.drop_null()
    first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
    pairs = pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])
    return pairs.slice(first, last - first)


def _brought_together(one: pa.Array, other: pa.Array, text: bool) -> tuple[pa.Array, pa.Array]:
    """Give both one type: that of `one`, but of a string that of what it was read as."""
    if one.type == other.type:
        return one, other
    ways = [lambda: (one, other.cast(one.type)), lambda: (one.cast(other.type), other)]
    for way in reversed(ways) if text and one.type.id in _TEXT else ways:
        try:
            return way()
        except pa.ArrowException:  # of the type or of a value
            continue
    raise IncomparableError


def _values_differ(one: pa.Array, other: pa.Array) -> NDArray[np.bool_]:
    """Compare plain values of one type, where both are there."""
    import pyarrow.compute as pc  # noqa: PLC0415

    if pa.types.is_floating(one.type):
        x, y = _numpy(one), _numpy(other)  # where nulls are NaN
        unlike: NDArray[np.bool_] = ~((x == y) | (np.isnan(x) & np.isnan(y)))
        return unlike & _valid(one) & _valid(other)
    try:
        return _numpy(pc.fill_null(pc.not_equal(one, other), False))
    except pa.ArrowException:  # Arrow compares such values only as a whole
        return _halved(one, other)


def _halved(one: pa.Array, other: pa.Array) -> NDArray[np.bool_]:
    if one.equals(other):
        return np.zeros(len(one), np.bool_)
    if len(one) == 1:
        return _valid(one) & _valid(other)
    half = len(one) // 2
    parts = [(one[:half], other[:half]), (one[half:], other[half:])]
    return np.concatenate([_halved(*part) for part in parts])
