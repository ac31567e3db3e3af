"""Memory that values take once they are decoded, which a file may hold in far fewer bytes.

A column of a million equal numbers takes some bytes in a Parquet file, and eight megabytes in
memory. What is read at a time is therefore cut by the sizes here, and not by those in the file.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["fixed_size", "has_fixed_size", "is_text", "leaf_types", "row_size", "value_size"]

# A number is normalized to a float of so many bytes at most. The offset of a text has as many.
_NUMBER = 8


def value_size(leaf: Any) -> int:
    """Return the bytes of a value that is not nested; of text, those without its characters."""
    if pa.types.is_boolean(leaf) or pa.types.is_null(leaf):
        return 1
    try:
        return max(int(leaf.bit_width) // 8, _NUMBER)
    except ValueError:
        return _NUMBER


def is_text(leaf: Any) -> bool:
    """Return whether values of a type have a length of their own, as text and binary do."""
    types = pa.types
    tests = (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)
    return any(test(leaf) for test in (*tests, types.is_string_view, types.is_binary_view))


def leaf_types(type_: Any) -> list[Any]:
    """Return the types of the Parquet columns that store an Arrow column."""
    if isinstance(type_, pa.BaseExtensionType):
        return leaf_types(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return leaf_types(type_.value_type)
    if pa.types.is_nested(type_):
        fields = [type_.field(i).type for i in range(type_.num_fields)]
        return [leaf for kind in fields for leaf in leaf_types(kind)]
    return [type_]


def has_fixed_size(type_: Any) -> bool:
    """Return whether all values of a type take the same memory."""
    if isinstance(type_, pa.BaseExtensionType):
        return has_fixed_size(type_.storage_type)
    if pa.types.is_struct(type_) or pa.types.is_fixed_size_list(type_):
        return all(has_fixed_size(type_.field(i).type) for i in range(type_.num_fields))
    return not (pa.types.is_nested(type_) or is_text(type_))


def row_size(schema: Any) -> int:
    """Return the bytes of a row, without the content of its texts and lists."""
    return sum(map(fixed_size, schema.types))


def fixed_size(type_: Any) -> int:
    """Return the bytes of a value, without the content of texts and lists of any length."""
    if isinstance(type_, pa.BaseExtensionType):
        return fixed_size(type_.storage_type)
    if pa.types.is_fixed_size_list(type_):  # null ones too
        return int(type_.list_size) * fixed_size(type_.value_type)
    if pa.types.is_struct(type_):
        return sum(fixed_size(type_.field(i).type) for i in range(type_.num_fields))
    return _NUMBER if pa.types.is_nested(type_) else value_size(type_)
