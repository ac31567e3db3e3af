"""One type for columns that several sources store differently, and columns cast to it.

The common type is that of Arrow's own permissive unification. Where Arrow has none because the
sources encode the same values differently, it is that of the values without their encoding.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.arrow.schemas import is_any_list, map_children, tensor_of
from streambn.kernels.bitmaps import filter_rows, unpack_validity

pc = lazy_module("pyarrow.compute")

__all__ = [
    "cast_column",
    "common_field",
    "has_required",
    "holds",
    "input_type",
    "null_in_required",
    "nullable_field",
    "untyped_field",
]

_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
_LARGE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
# Integers beside decimals become decimals of so many digits. Arrow gives them too few.
_DIGITS = {1: 3, 2: 5, 4: 10, 8: 20}


def common_field(one: pa.Field, other: pa.Field) -> pa.Field | None:
    """Return a field that holds the values of both, with the name and metadata of the first.

    It is nullable if either is. None: no type holds both.

    Examples
    --------
    >>> import pyarrow as pa
    >>> required = pa.field("x", pa.float32(), nullable=False)
    >>> common_field(required, pa.field("x", pa.float64()))
    pyarrow.Field<x: double>
    >>> common_field(pa.field("x", pa.int64()), pa.field("x", pa.string())) is None
    True
    """
    kind = _common_type(one.type, other.type)
    if kind is None:
        return None
    nullable = one.nullable or other.nullable or pa.types.is_null(one.type)
    return one.with_type(kind).with_nullable(nullable or pa.types.is_null(other.type))


def holds(kind: pa.DataType, other: pa.DataType) -> bool:
    """Return whether a column of one type can hold the values of another type.

    Encodings and the width of offsets do not matter.
    """
    kind, other = _large(kind), _large(other)
    return bool(_common_type(kind, other) == kind)


def _large(kind: pa.DataType) -> pa.DataType:
    """Return the plain type whose offsets have 64 bits."""
    kind = _plain(_as_list(kind))
    if pa.types.is_list(kind):
        return pa.large_list(kind.value_field)
    return _LARGE.get(kind, kind)


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other:
        return one
    one, other = _as_list(one), _as_list(other)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _common_struct(one, other)
    if _is_tensor(one) and _is_tensor(other):
        kind = _common_type(one.value_type, other.value_type)
        shapes = [(t.shape, t.dim_names, t.permutation) for t in (one, other)]
        if kind is not None and shapes[0] == shapes[1]:
            return tensor_of(one, kind)
    one, other = _as_decimal(one, other), _as_decimal(other, one)
    return _unified(one, other) or _unified(_plain(one), _plain(other))


def _common_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    fields = []
    for field in one:
        index = other.get_field_index(field.name)
        found = field.with_nullable(True) if index < 0 else common_field(field, other.field(index))
        if found is None:
            return None
        fields.append(found)
    fields += [field.with_nullable(True) for field in other if field.name not in one.names]
    return pa.struct(fields)


def _unified(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that Arrow unifies two types to, or None."""
    if _holds_list_view(one) or _holds_list_view(other):
        return None
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    try:
        kind = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    # Arrow keeps a field inside a list or a map non-nullable that one of them does not have.
    return _nullable(kind)


def _as_list(kind: pa.DataType) -> pa.DataType:
    """Return the type of lists that holds the same values as list views."""
    if pa.types.is_list_view(kind):
        return pa.list_(kind.value_field)
    return pa.large_list(kind.value_field) if pa.types.is_large_list_view(kind) else kind


def _holds_list_view(kind: pa.DataType) -> bool:
    """Return whether list views are inside of a type, where no cast reaches them."""
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return True
    return any(_holds_list_view(kind.field(i).type) for i in range(kind.num_fields))


def _as_decimal(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the decimal type that holds an integer type, if the other one is decimal."""
    if pa.types.is_integer(kind) and pa.types.is_decimal(other):
        return pa.decimal128(_DIGITS[kind.bit_width // 8], 0)
    return kind


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of the same values without an encoding, a view, or an extension."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    return _VIEWS.get(kind) or map_children(kind, lambda field: field.with_type(_plain(field.type)))


def nullable_field(field: pa.Field) -> pa.Field:
    """Return a field that is nullable, and so is every field below it."""
    return field.with_type(_nullable(field.type)).with_nullable(True)


def _nullable(kind: pa.DataType) -> pa.DataType:
    return map_children(kind, nullable_field)


def has_required(field: pa.Field) -> bool:
    """Return whether a field, or one below it, is not nullable."""
    if not field.nullable:
        return True
    kind = field.type
    if pa.types.is_map(kind) or not pa.types.is_nested(kind):
        return False  # the keys of a map, which Arrow itself keeps free of nulls
    return any(has_required(kind.field(i)) for i in range(kind.num_fields))


def null_in_required(field: pa.Field, array: pa.Array) -> str | None:
    """Return the dotted name of a field that holds null although it is not nullable.

    Arrow validates neither its own batches nor the files of others for this.
    """
    name = str(field.name)
    if not field.nullable and array.null_count:
        return name
    if pa.types.is_struct(field.type):
        valid = unpack_validity(array, 0, len(array))
        inside = array if valid is None else filter_rows(array, valid)
        children = [(child, inside.field(i)) for i, child in enumerate(field.type)]
    elif pa.types.is_nested(field.type) and hasattr(array, "flatten"):  # lists
        children = [(field.type.field(0), array.flatten())]
    else:
        return None
    for child, values in children:
        if has_required(child) and (found := null_in_required(child, values)):
            return f"{name}.{found}"
    return None


def _is_tensor(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.FixedShapeTensorType)


def cast_column(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column in the common type of its own type and others.

    Raises
    ------
    pyarrow.ArrowException
        A value does not fit the type.
    """
    if array.type == kind:
        return array
    if pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if _is_tensor(kind):
        return pa.ExtensionArray.from_storage(kind, array.cast(kind.storage_type))
    if pa.types.is_struct(array.type) and pa.types.is_struct(kind):
        return _cast_struct(array, kind)
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        array = _lists(array)
    out = array.cast(kind)
    if pa.types.is_nested(kind):  # some casts of lists give invalid offsets
        out.validate(full=True)
    # Arrow refuses integers that a float would round, but not decimals.
    rounds = pa.types.is_decimal(array.type) and pa.types.is_floating(kind)
    if rounds and not out.cast(array.type).equals(array):
        raise pa.ArrowInvalid(f"a value of {array.type} has too many digits for {kind}")
    return out


def _cast_struct(array: pa.StructArray, kind: pa.StructType) -> pa.StructArray:
    children = []
    for field in kind:
        index = array.type.get_field_index(field.name)
        if index < 0:
            children.append(pa.nulls(len(array), field.type))
        else:
            children.append(cast_column(array.field(index), field.type))
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())


def _lists(array: pa.Array) -> pa.Array:
    """Return list views as lists. Arrow's own cast loses their offsets."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    is_large = pa.types.is_large_list_view(array.type)
    make, index = (pa.LargeListArray, pa.int64()) if is_large else (pa.ListArray, pa.int32())
    kind = _as_list(array.type)
    flat = array.flatten()
    return make.from_arrays(pa.array(offsets, index), flat, type=kind, mask=array.is_null())


def untyped_field(source: pa.Field, mapped: pa.Field) -> pa.Field:
    """Return the field of a mapped column, with the null type where its source has it.

    A column that holds only nulls has no type yet, whatever type the map gives it.
    """
    if pa.types.is_null(source.type):
        return mapped.with_type(pa.null())
    if pa.types.is_struct(source.type) and pa.types.is_struct(mapped.type):
        pairs = zip(source.type, mapped.type, strict=True)
        return mapped.with_type(pa.struct([untyped_field(*pair) for pair in pairs]))
    return mapped


def input_type(source: pa.DataType, mapped: pa.DataType, target: pa.DataType) -> pa.DataType:
    """Return the type that a column needs, so that it becomes `target` when it is mapped.

    Parameters
    ----------
    source, mapped : pyarrow.DataType
        Type of the column, and the one that it is mapped to alone.
    target : pyarrow.DataType
        The common type of several mapped columns.

    Notes
    -----
    Columns that pass through take the common type, and so do floats, which become wider.
    Integers and decimals that are normalized keep their type and all of their digits.
    """
    if source == mapped or pa.types.is_null(source):
        return target
    if mapped == target:
        return source
    if all(map(pa.types.is_struct, (source, mapped, target))):
        return pa.struct([_input_field(field, source, mapped) for field in target])
    source, mapped = (kind.storage_type if _is_tensor(kind) else kind for kind in (source, mapped))
    if all(is_any_list(kind) or _is_tensor(kind) for kind in (source, mapped, target)):
        values = input_type(source.value_type, mapped.value_type, target.value_type)
        if _is_tensor(target):
            return tensor_of(target, values)
        return map_children(target, lambda field: field.with_type(values))
    # An encoded float.
    return target


def _input_field(target: pa.Field, source: pa.StructType, mapped: pa.StructType) -> pa.Field:
    index = source.get_field_index(target.name)
    if index < 0:
        return target
    kind = input_type(source.field(index).type, mapped.field(index).type, target.type)
    return target.with_type(kind)
