"""JSON values that pass through as their text, such as a number of any length.

A column of them has the type `RawJson`, which no file can declare: it is not registered with Arrow.
"""

from __future__ import annotations

import types
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.io.text_arrays import bytes_array

msgspec = lazy_module("msgspec")
msgspec_json = lazy_module("msgspec.json")

__all__ = ["RawJson", "with_raw_columns", "with_raw_fields"]


class RawJson(pa.ExtensionType):  # type: ignore[misc]
    """The type of values that are JSON text, in binary."""

    def __init__(self) -> None:
        super().__init__(pa.binary(), "streambn.raw_json")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> RawJson:
        del storage_type, serialized
        return cls()


def with_raw_fields(schema: Any, changed: Collection[str]) -> Any:
    """Return a schema in which all columns but some hold the text of their values."""
    raw = [f if f.name in changed else f.with_type(RawJson()) for f in schema]
    return pa.schema(raw, schema.metadata)


def with_raw_columns(batch: Any, data: bytes, schema: Any) -> Any:
    """Return the batch of some lines with the columns of the schema that hold text.

    A field that a line lacks, and one that is null, is null.

    Raises
    ------
    pyarrow.ArrowInvalid
        A line is not JSON. Arrow itself takes ``Infinity`` and ``NaN`` for numbers.
    """
    fields: Any = types.GenericAlias(dict, (str, msgspec.Raw))
    decode = msgspec_json.Decoder(fields).decode
    try:
        rows = [decode(line) for line in data.split(b"\n") if line and not line.isspace()]
    except msgspec.DecodeError as error:
        raise pa.ArrowInvalid(str(error)) from error
    columns = [
        _array([bytes(row.get(field.name, b"null")) for row in rows])
        if isinstance(field.type, RawJson)
        else column
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _array(values: list[bytes]) -> Any:
    valid = np.array([value != b"null" for value in values], np.bool_)
    return pa.ExtensionArray.from_storage(RawJson(), bytes_array(values, pa.binary(), valid))
