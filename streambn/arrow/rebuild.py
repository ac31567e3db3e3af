"""Normalized columns in the place of those they came from: fields and arrays."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from streambn.errors import SchemaError
from streambn.kernels.bitmaps import arrow_array, unpack_validity

__all__ = ["cast_passed", "replaced_array", "replaced_field", "told_to_pandas"]

# Types that hold the same values in another layout.
_FAMILIES = (
    (pa.string(), pa.large_string(), pa.string_view()),
    (pa.binary(), pa.large_binary(), pa.binary_view()),
)


def _replaced_type(kind: pa.DataType, size: int | None, floating: pa.DataType) -> pa.DataType:
    """Give the type of a leaf whose values become floats."""
    if pa.types.is_null(kind):
        return floating if size is None else pa.list_(floating, size)
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.fixed_shape_tensor(
            floating, kind.shape, dim_names=kind.dim_names, permutation=kind.permutation
        )
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(floating).with_nullable(True), kind.list_size)
    return floating


def replaced_field(
    field: pa.Field, size: int | None, path: tuple[str, ...], floating: pa.DataType, nullable: bool
) -> pa.Field:
    """Give the field of a column in which the leaf at `path` becomes floats."""
    if not path:
        field = field.with_type(_replaced_type(field.type, size, floating))
        return field.with_nullable(field.nullable or nullable)
    if pa.types.is_null(field.type):
        return field
    fields = [
        replaced_field(child, size, path[1:], floating, nullable)
        if child.name == path[0]
        else child
        for child in field.type
    ]
    return field.with_type(pa.struct(fields))


def replaced_array(
    array: pa.Array, flats: dict[tuple[str, ...], pa.Array], kind: pa.DataType
) -> pa.Array:
    """Put flat values, by their paths below the array, into an array of type `kind`."""
    if () not in flats:
        if pa.types.is_null(array.type):
            return array
        children = []
        for i, field in enumerate(kind):
            below = {path[1:]: flat for path, flat in flats.items() if path[0] == field.name}
            child = array.field(i)
            children.append(replaced_array(child, below, field.type) if below else child)
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=_null_mask(array))
    if isinstance(kind, pa.FixedShapeTensorType):
        storage = replaced_array(array.storage, flats, kind.storage_type)
        return pa.ExtensionArray.from_storage(kind, storage)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flats[()], type=kind, mask=_null_mask(array))
    return flats[()]


def cast_passed(array: pa.Array, field: pa.Field) -> pa.Array:
    """Give a column that passes through the type that it had in the first batch."""
    for family in _FAMILIES:
        if array.type in family and field.type in family:
            return array.cast(field.type)
    raise SchemaError(
        f"column {field.name!r}, which passes through, was {field.type} in the first batch and is "
        f"{array.type} now. Cast it to one type."
    )


def _null_mask(array: pa.Array) -> pa.Array | None:
    if pa.types.is_null(array.type):
        return arrow_array(np.ones(len(array), np.bool_))
    valid = unpack_validity(array, 0, len(array))
    return None if valid is None else arrow_array(~valid)


def told_to_pandas(
    metadata: dict[bytes, bytes] | None, changed: set[str]
) -> dict[bytes, bytes] | None:
    """Let what pandas keeps in the metadata forget the types of columns that are floats now.

    It restores a frame by them: a column that was Int64 would be cast back, and fail.
    """
    try:
        stored = json.loads((metadata or {})[b"pandas"])
        for column in stored["columns"]:
            if column["field_name"] in changed:
                column.update(pandas_type="float64", numpy_type="float64", metadata=None)
    except (KeyError, ValueError, TypeError):
        return metadata
    return {**(metadata or {}), b"pandas": json.dumps(stored).encode()}
