"""The writer of newline-delimited JSON.

Floats read back to the same bits. JSON has no NaN and no infinity, which become null. Decimals
are numbers, times are text in ISO 8601, durations are integers in their unit, and a map is a list
of objects with the fields key and value.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.arrow import is_any_list
from streambn.io.json_raw import RawJson

logging = lazy_module("logging")
msgspec = lazy_module("msgspec")
msgspec_json = lazy_module("msgspec.json")
pc = lazy_module("pyarrow.compute")

__all__ = ["JsonWriter", "json_values"]

# Values that are Python objects at a time, which bounds the memory.
_VALUES = 1 << 17


class JsonWriter:
    """Writes record batches as newline-delimited JSON.

    Parameters
    ----------
    file : binary file object
        The caller closes it.
    schema : pyarrow.Schema
        Its metadata is not kept.

    Raises
    ------
    pyarrow.ArrowInvalid
        Two columns have the same name, or a column is of a type that JSON cannot hold.
    """

    def __init__(self, file: Any, schema: Any) -> None:
        twice = [name for name in schema.names if schema.names.count(name) > 1]
        if twice:
            raise pa.ArrowInvalid(f"two columns are called {twice[0]!r}")
        for field in schema:
            json_values(pa.nulls(0, field.type), field.name)
        self._file, self._schema = file, schema
        self._encoder = msgspec_json.Encoder(decimal_format="number")
        self._raw = [field.name for field in schema if isinstance(field.type, RawJson)]
        self._lost: list[int] = []  # numbers of values that are NaN or infinite

    def write_batch(self, batch: Any) -> None:
        """Write the rows of a batch."""
        columns = [
            json_values(column, field.name, self._lost.append)
            for column, field in zip(batch.columns, self._schema, strict=True)
        ]
        plain = pa.RecordBatch.from_arrays(columns, self._schema.names)
        rows = max(_VALUES // max(len(columns), 1), 1)
        for start in range(0, batch.num_rows, rows):
            lines = plain.slice(start, rows).to_pylist()
            for line in lines if self._raw else ():
                line |= {name: msgspec.Raw(line[name] or b"null") for name in self._raw}
            self._file.write(self._encoder.encode_lines(lines))

    def close(self) -> None:
        """Say how many numbers were lost."""
        if lost := sum(self._lost):
            logging.getLogger("streambn").warning(
                "wrote %s NaN or infinite values as null: JSON has no number for them", f"{lost:,}"
            )
            self._lost = []


def json_values(array: Any, name: str, on_lost: Callable[[int], Any] = lambda _: None) -> Any:
    """Return an array as JSON holds it: of booleans, numbers, text, lists and structs.

    Parameters
    ----------
    array : pyarrow.Array
    name : str
        Name of its column in messages.
    on_lost : callable
        Called with a number of values that are NaN or infinite, and become null.

    Raises
    ------
    pyarrow.ArrowInvalid
        JSON cannot hold this type.
    """

    def inner(part: Any) -> Any:
        return json_values(part, name, on_lost)

    types, kind = pa.types, array.type
    if isinstance(kind, pa.UuidType):
        texts = [
            None if each is None else str(uuid.UUID(bytes=each))
            for each in array.storage.to_pylist()
        ]
        return pa.array(texts, pa.string())
    if isinstance(kind, RawJson):
        return array.storage
    if isinstance(kind, pa.BaseExtensionType):
        return inner(array.storage)
    if types.is_dictionary(kind):
        return inner(array.dictionary_decode())
    if types.is_run_end_encoded(kind):
        return inner(pc.run_end_decode(array))
    if types.is_struct(kind):
        fields = [inner(field) for field in array.flatten()]
        return pa.StructArray.from_arrays(fields, kind.names, mask=array.is_null())
    if types.is_map(kind):
        return inner(array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
    if is_any_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        ends = pc.cumulative_sum(lengths.cast(pa.int64()))
        starts = pa.concat_arrays([pa.array([0], pa.int64()), ends])
        valid = pa.concat_arrays([array.is_valid(), pa.array([True])])
        offsets = pc.if_else(valid, starts, None)
        return pa.LargeListArray.from_arrays(offsets, inner(array.flatten()))
    if types.is_timestamp(kind):
        text = array.cast(pa.timestamp(kind.unit, kind.tz and "UTC")).cast(pa.string())
        return pc.replace_substring(text, " ", "T", max_replacements=1)
    if types.is_date(kind) or types.is_time(kind):
        return array.cast(pa.string())
    if types.is_duration(kind):
        return array.cast(pa.int64())
    if types.is_float16(kind):
        return inner(array.cast(pa.float32()))
    if types.is_floating(kind):
        finite = pc.is_finite(array)
        if pc.all(finite).as_py() is False:
            on_lost(pc.sum(pc.invert(finite)).as_py())
            array = pc.if_else(finite, array, None)
        return array
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    number = types.is_integer(kind) or types.is_decimal(kind)
    if text or number or types.is_boolean(kind) or types.is_null(kind):
        return array
    raise pa.ArrowInvalid(f"column {name!r} is {kind}")
