"""Questions to ask of Arrow types and schemas, and a cache for the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import pyarrow as pa

__all__ = [
    "SchemaCache",
    "float_type",
    "has_run_ends",
    "is_any_list",
    "is_encoded",
    "is_float",
    "list_value_type",
    "map_children",
    "numeric_type",
    "pandas_index_columns",
    "tensor_of",
]

_FLOAT64 = pa.float64()
_FLOATS = frozenset(kind.id for kind in (pa.float16(), pa.float32(), _FLOAT64))
_NUMBERS = _FLOATS.union(
    kind.id
    for kind in (
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.decimal32(1), pa.decimal64(1), pa.decimal128(1), pa.decimal256(1)),
    )
)

# Types of lists whose length may vary: a test, and a function that makes the type of a field.
_LISTS = (
    (pa.types.is_list, pa.list_),
    (pa.types.is_large_list, pa.large_list),
    (pa.types.is_list_view, pa.list_view),
    (pa.types.is_large_list_view, pa.large_list_view),
)
_MAX_SCALE = 200  # of decimals, which have at most 76 digits


def numeric_type(kind: pa.DataType) -> tuple[pa.DataType, int | None] | None:
    """Return the value type and the list size of a numeric type, or None for any other type.

    The size is None for plain numbers, and that of a whole tensor for fixed-size lists of
    fixed-size lists. Dictionary and run-end encodings count as the type that they encode.
    """
    if kind.id in _NUMBERS:  # the common case first: a schema may have thousands of columns
        return (kind, None) if _fits_float64(kind) else None
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        inner = numeric_type(kind.value_type)
        if kind.list_size < 1 or inner is None:
            return None
        return inner[0], kind.list_size * (inner[1] or 1)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    return (kind, None) if kind.id in _NUMBERS and _fits_float64(kind) else None


def _fits_float64(kind: pa.DataType) -> bool:
    """Return whether float64 holds the powers of ten between the digits of a number type."""
    return not pa.types.is_decimal(kind) or abs(kind.scale) <= _MAX_SCALE


def is_float(kind: pa.DataType) -> bool:
    """Return whether a type is float16, float32 or float64."""
    return kind.id in _FLOATS


def float_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of normalized values: floats keep their type, others become float64."""
    if (listed := list_value_type(kind)) is not None:
        kind = listed
    values = (numeric_type(kind) or (kind, None))[0]
    return values if is_float(values) else _FLOAT64


def list_value_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the value type of lists of numbers whose length may vary; None for other types.

    Lists of nulls count, because their values may turn out to be numbers.
    """
    if not any(is_kind(kind) for is_kind, _ in _LISTS):
        return None
    value: pa.DataType = kind.value_type
    numeric = numeric_type(value)
    return (
        value if pa.types.is_null(value) or (numeric is not None and numeric[1] is None) else None
    )


def is_encoded(kind: pa.DataType) -> bool:
    """Return whether a numeric type is dictionary-encoded or run-end-encoded."""
    if kind.id in _NUMBERS:
        return False
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind))


def has_run_ends(kind: pa.DataType | pa.Schema) -> bool:
    """Return whether a type, or a part of it, is run-end-encoded."""
    if isinstance(kind, pa.Schema):
        return any(map(has_run_ends, kind.types))
    if isinstance(kind, pa.BaseExtensionType):
        return has_run_ends(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return has_run_ends(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return True
    return any(has_run_ends(kind.field(i).type) for i in range(kind.num_fields))


def pandas_index_columns(schema: pa.Schema) -> set[str]:
    """Return the names of the columns that hold the index of a pandas DataFrame."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        return {name for name in stored.get("index_columns", []) if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):
        return set()


def is_any_list(kind: pa.DataType) -> bool:
    """Return whether a type is of lists, of fixed size or not."""
    return pa.types.is_fixed_size_list(kind) or any(is_kind(kind) for is_kind, _ in _LISTS)


def map_children(kind: pa.DataType, function: Callable[[pa.Field], pa.Field]) -> pa.DataType:
    """Return a struct, list or map with other fields; any other type is unchanged."""
    if pa.types.is_struct(kind):
        return pa.struct([function(field) for field in kind])
    if pa.types.is_map(kind):  # keys are never null
        key = function(kind.key_field).with_nullable(False)
        return pa.map_(key, function(kind.item_field), keys_sorted=kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(function(kind.value_field), kind.list_size)
    for is_kind, make in _LISTS:
        if is_kind(kind):
            return make(function(kind.value_field))
    return kind


def tensor_of(kind: pa.FixedShapeTensorType, values: pa.DataType) -> pa.DataType:
    """Return a tensor type of the same shape with other values."""
    return pa.fixed_shape_tensor(
        values, kind.shape, dim_names=kind.dim_names, permutation=kind.permutation
    )


class SchemaCache:
    """A small cache keyed by schema.

    A stream has one schema, or two if it is normalized. Resolving 50 columns takes longer than
    reducing 1000 rows of them, so each schema is resolved once.
    """

    __slots__ = ("_entries",)

    _SIZE: ClassVar[int] = 8

    def __init__(self) -> None:
        self._entries: list[tuple[pa.Schema, Any, Any]] = []

    def get(self, schema: pa.Schema, key: Any, make: Callable[[], Any]) -> Any:
        """Return the value for an equal schema and key; call `make` if there is none yet."""
        for known, other, value in tuple(self._entries):
            if other == key and (schema is known or schema.equals(known, check_metadata=True)):
                return value
        value = make()
        if len(self._entries) > self._SIZE:
            self._entries.clear()
        self._entries.append((schema, key, value))
        return value
