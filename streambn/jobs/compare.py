"""Compare Arrow arrays by value, whatever their encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.kernels.flatten import decode_array

pc = lazy_module("pyarrow.compute")

__all__ = ["first_difference"]


def first_difference(one: pa.Array, other: pa.Array, *, text: bool = False) -> int | None:
    """Return the first row in which two arrays differ in value; None: they are equal.

    Parameters
    ----------
    one, other : pyarrow.Array
        Arrays of the same length, perhaps in another encoding or width. NaN equals NaN.
    text : bool
        Whether `other` was CSV, where an empty string may stand for null.
    """
    if one.type == other.type and one.equals(other):
        return None
    one, other = _decoded(one, text), _decoded(other, text)
    if one.type != other.type:
        one, other = _in_one_type(one, other)
    if one.type != other.type or pa.types.is_nested(one.type):
        values = zip(*_python_values(one, other), strict=True)
        return next((row for row, pair in enumerate(values) if not _same(*pair)), None)
    if pa.types.is_floating(one.type):
        x, y = one.to_numpy(zero_copy_only=False), other.to_numpy(zero_copy_only=False)
        valid = [np.asarray(side.is_valid()) for side in (one, other)]
        wrong = (valid[0] != valid[1]) | ~((x == y) | (np.isnan(x) & np.isnan(y)))
        return int(wrong.argmax()) if wrong.any() else None
    return _first_unequal(one, other)


def _decoded(array: pa.Array, text: bool) -> pa.Array:
    """Return plain values in the widest type of their kind."""
    types = pa.types
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    array = decode_array(array)
    if types.is_string(array.type) or types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    elif types.is_binary(array.type) or types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    if text and (types.is_large_string(array.type) or types.is_large_binary(array.type)):
        array = pc.if_else(pc.equal(pc.binary_length(array), 0), None, array)
    return array


def _in_one_type(one: pa.Array, other: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Cast either side to the type of the other, if it loses nothing."""
    try:
        return one, other.cast(one.type)
    except pa.ArrowException:
        pass
    try:
        return one.cast(other.type), other
    except pa.ArrowException:
        return one, other


def _first_unequal(one: pa.Array, other: pa.Array) -> int | None:
    if one.equals(other):
        return None
    low, high = 0, len(one)  # the first difference is between them
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle].equals(other[low:middle]):
            low = middle
        else:
            high = middle
    return low


def _python_values(one: pa.Array, other: pa.Array) -> tuple[list[Any], list[Any]]:
    try:
        return one.to_pylist(), other.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # Python has no such value
        return list(map(str, one)), list(map(str, other))


def _same(one: Any, other: Any) -> bool:
    """Compare Python values, in which NaN equals NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other or (one != one and other != other))  # noqa: PLR0124
