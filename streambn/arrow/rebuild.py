"""Put normalized values back into their columns: fields, arrays and metadata."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pyarrow as pa

from streambn.arrow.schemas import is_any_list, map_children, tensor_of
from streambn.arrow.unify import cast_column, holds
from streambn.arrow.vectors import as_stored, needs_conversion
from streambn.errors import SchemaError
from streambn.kernels.bitmaps import arrow_array, unpack_validity

__all__ = ["cast_unchanged", "float_field", "rebuild_array", "update_pandas_metadata"]


def float_field(
    field: pa.Field, size: int | None, path: tuple[str, ...], floating: pa.DataType, nullable: bool
) -> pa.Field:
    """Return a column's field after its leaf has become float.

    The path holds the struct fields that lead from the column to the leaf. `size` is that of the
    leaf's lists. Only a top-level leaf becomes nullable.
    """
    if not path:
        field = field.with_type(_float_type(field.type, size, floating))
        return field.with_nullable(field.nullable or nullable)
    if pa.types.is_null(field.type):
        return field
    fields = [
        float_field(child, size, path[1:], floating, nullable) if child.name == path[0] else child
        for child in field.type
    ]
    return field.with_type(pa.struct(fields))


def _float_type(kind: pa.DataType, size: int | None, floating: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        return floating if size is None else pa.list_(floating, size)
    if isinstance(kind, pa.FixedShapeTensorType):
        return tensor_of(kind, floating)
    if is_any_list(kind):

        def as_float(field: pa.Field) -> pa.Field:
            return field.with_type(_float_type(field.type, None, floating)).with_nullable(True)

        return map_children(kind, as_float)
    return floating


def rebuild_array(
    array: pa.Array, values: dict[tuple[str, ...], pa.Array], kind: pa.DataType
) -> pa.Array:
    """Return `array` as type `kind`, with new flat values for some of its leaves.

    The values are found by the path that leads from the array to their leaf.
    """
    if () not in values:
        if pa.types.is_null(array.type):
            return array
        children = []
        for index, field in enumerate(kind):
            below = {path[1:]: flat for path, flat in values.items() if path[0] == field.name}
            child = _child(array, field.name, index)
            if below:
                child = rebuild_array(child, below, field.type)
            elif child.type != field.type:
                child = cast_unchanged(child, field)
            children.append(child)
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=_null_mask(array))
    if isinstance(kind, pa.FixedShapeTensorType):
        storage = rebuild_array(array.storage, values, kind.storage_type)
        return pa.ExtensionArray.from_storage(kind, storage)
    if needs_conversion(kind):
        size = array.type.list_size
        flat = pa.FixedSizeListArray.from_arrays(values[()], size, mask=_null_mask(array))
        return as_stored(flat, kind)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values[()], type=kind, mask=_null_mask(array))
    return values[()]


def _child(array: pa.StructArray, name: str, likely: int) -> pa.Array:
    """Return the field of a name, which is probably at one index. Two may have the same name."""
    if likely < array.type.num_fields and array.type.field(likely).name == name:
        return array.field(likely)
    index = array.type.get_field_index(name)
    if index < 0:
        raise SchemaError.missing(name, array.type.names)
    return array.field(index)


def _null_mask(array: pa.Array) -> pa.Array | None:
    if pa.types.is_null(array.type):
        return arrow_array(np.ones(len(array), np.bool_))
    valid = unpack_validity(array, 0, len(array))
    return None if valid is None else arrow_array(~valid)


def cast_unchanged(array: pa.Array, field: pa.Field) -> pa.Array:
    """Return a column that is not normalized in the type that it had in the first batch.

    Raises
    ------
    SchemaError
        That type does not hold all values of the new one.
    """
    if holds(field.type, array.type):
        with contextlib.suppress(pa.ArrowException):
            return cast_column(array, field.type)
    raise SchemaError(
        f"column {field.name!r} is {array.type}, but was {field.type} in the first batch. "
        "Cast the column to one type.",
        column=field.name,
    )


def update_pandas_metadata(
    metadata: dict[bytes, bytes] | None, changed: set[str]
) -> dict[bytes, bytes] | None:
    """Return schema metadata in which pandas takes the `changed` columns for float64.

    pandas restores a DataFrame by this metadata. It would cast a normalized column back to
    Int64, for example, and fail.
    """
    try:
        stored = json.loads((metadata or {})[b"pandas"])
        for column in stored["columns"]:
            if column["field_name"] in changed:
                column.update(pandas_type="float64", numpy_type="float64", metadata=None)
    except (KeyError, ValueError, TypeError):
        return metadata
    return {**(metadata or {}), b"pandas": json.dumps(stored).encode()}
