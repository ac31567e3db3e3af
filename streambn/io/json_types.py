"""The types of newline-delimited JSON, and the parse of lines to them.

The types are those that Arrow infers, with integers, floats and nulls united over all blocks, and
uint64 for integers that Arrow would round to floats. A column of text becomes dates or timestamps
if all of its values are. (Arrow's own inference of timestamps drops their time zone.)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from streambn._lazy import lazy_module

pc = lazy_module("pyarrow.compute")
pa_json = lazy_module("pyarrow.json")

__all__ = ["Columns", "Types", "cast", "infer", "parse"]

_UNITS = ["s", "us", "ns"]
# The reader gives a text column the first of these types that fits all values.
_TEXT_TYPES = [
    pa.date32(),
    *(pa.timestamp(unit, zone) for unit in _UNITS for zone in (None, "UTC")),
]

Types = Mapping[str, Any]


class Columns(NamedTuple):
    """The columns of some blocks.

    Attributes
    ----------
    parsed : pyarrow.Schema
        The types that Arrow parses: text is a string there.
    texts : mapping of str to pyarrow.DataType
        The types to which columns are cast: text columns that have a value, and declared ones.
    """

    parsed: Any
    texts: Types

    def unite(self, other: Columns) -> Columns:
        """Return columns for the values of both; raise ArrowInvalid if there is no common type."""
        parsed = pa.unify_schemas([self.parsed, other.parsed], promote_options="permissive")
        for name in self._long() ^ other._long():  # the other integers are small
            index = parsed.get_field_index(name)
            if pa.types.is_integer(parsed.field(index).type):
                parsed = parsed.set(index, pa.field(name, pa.uint64()))
        both = self.texts.keys() & other.texts.keys()
        common = {name: _common_text(self.texts[name], other.texts[name]) for name in both}
        return Columns(parsed, {**self.texts, **other.texts, **common})

    def _long(self) -> set[str]:
        return {field.name for field in self.parsed if field.type == pa.uint64()}

    @property
    def schema(self) -> Any:
        """The schema of the batches."""
        return pa.schema([f.with_type(self.texts.get(f.name, f.type)) for f in self.parsed])

    def declare(self, types: Types) -> Columns:
        """Set the types of columns, and add those that do not exist."""
        parsed = self.parsed
        for name, type_ in types.items():
            at = parsed.get_field_index(name)
            found = pa.null() if at < 0 else parsed.field(at).type
            # Arrow casts text to all types, and numbers to text.
            if not pa.types.is_string(found) and (pa.types.is_null(found) or not _is_text(type_)):
                field = pa.field(name, _parsed_type(type_))
                parsed = parsed.append(field) if at < 0 else parsed.set(at, field)
        return Columns(pa.schema(map(_parsable, parsed)), {**self.texts, **types})


# --- lines ----------------------------------------------------------------------------


def _count_lines(data: bytes) -> int:
    """Count the lines that are not blank; raise ArrowInvalid if one cannot be an object.

    Arrow's parser crashes at a line with null, and does not check the encoding.
    """
    lines = data.count(b"\n")
    if data.startswith(b"{") + data.count(b"\n{") != lines:
        wrong = re.search(rb"^[^\S\n]*+[^\s{]", data, re.M)
        if wrong is not None:
            raise pa.ArrowInvalid("a line does not begin with a brace")
        lines = len(re.findall(rb"^[^\S\n]*+\S", data, re.M))
    data.decode()
    return lines


def parse(data: bytes, schema: Any, others: str) -> Any:
    """Parse lines as a table. Columns that are not in the schema: ``"error"`` or ``"infer"``."""
    lines = _count_lines(data)
    if not lines:
        return pa.Table.from_batches([], schema)  # `schema.empty_table()` imports pandas
    table = pa_json.read_json(
        pa.BufferReader(data),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pa_json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior=others
        ),
    )
    if table.num_columns and table.num_rows != lines:
        raise pa.ArrowInvalid("a line holds a part of an object, or several objects")
    return table


def cast(table: Any, schema: Any) -> Any:
    """Bring a parsed table to its schema, as one batch."""
    columns = []
    for column, field in zip(table.columns, schema, strict=True):
        array = column.combine_chunks()
        if pa.types.is_time(field.type):  # Arrow casts text to timestamps only
            array = pc.binary_join_element_wise("1970-01-01T", array, "").cast(
                pa.timestamp(field.type.unit)
            )
        if isinstance(field.type, pa.BaseExtensionType):
            storage = array.cast(field.type.storage_type)
            columns.append(pa.ExtensionArray.from_storage(field.type, storage))
        else:
            columns.append(array.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


# --- inference ------------------------------------------------------------------------


def infer(data: bytes, declared: Types, known: Types) -> Columns:
    """Infer the columns of some lines.

    Parameters
    ----------
    data : bytes
        Whole lines.
    declared : mapping of str to pyarrow.DataType
        Types of columns that may not be inferable.
    known : mapping of str to pyarrow.DataType
        Types of text columns in the lines before, of which plain text stays so.

    Raises
    ------
    pyarrow.ArrowException, UnicodeDecodeError
        A line is not an object, or a column has values of several kinds.
    """
    try:
        table = parse(data, pa.schema([]), "infer")
    except pa.ArrowInvalid:
        if not declared:
            raise
        given = Columns(pa.schema([]), {}).declare(declared).parsed
        table = parse(data, given, "infer")
    found = _with_long_integers(data, table)
    schema = pa.schema([field.with_type(_without_times(field.type)) for field in found])
    return Columns(schema, _text_types(data, table, known))


def _text_types(data: bytes, table: Any, known: Types) -> dict[str, Any]:
    """Return the types of the text columns that have a value."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    times = [name for name, column in columns.items() if pa.types.is_timestamp(column.type)]
    if times:
        text = parse(data, pa.schema([(name, pa.string()) for name in times]), "ignore")
        columns |= zip(times, text.columns, strict=True)
    found = {}
    for name, column in columns.items():
        if pa.types.is_string(column.type) and column.null_count < len(column):
            plain = known.get(name) == pa.string()
            found[name] = pa.string() if plain else _text_type(column)
    return found


def _with_long_integers(data: bytes, table: Any) -> Any:
    """Return the schema of a table, with uint64 for integers that Arrow read as floats."""
    schema = table.schema
    for index, field in enumerate(schema):
        if pa.types.is_float64(field.type) and (pc.max(table.column(index)).as_py() or 0) >= 2**63:
            only = pa.schema([pa.field(field.name, pa.uint64())])
            with contextlib.suppress(pa.ArrowInvalid):
                parse(data, only, "ignore")
                schema = schema.set(index, only.field(0))
    return schema


def _parsable(field: Any) -> Any:
    """Return a field without lists of nulls, which Arrow parses wrong (apache/arrow#47417)."""
    type_ = field.type
    if pa.types.is_struct(type_):
        return field.with_type(pa.struct(list(map(_parsable, type_))))
    if pa.types.is_list(type_):
        inner = type_.value_field
        null = pa.types.is_null(inner.type)
        return field.with_type(pa.list_(inner.with_type(pa.string()) if null else _parsable(inner)))
    return field


def _without_times(type_: Any) -> Any:
    """Return an inferred type with strings in place of timestamps."""
    if pa.types.is_timestamp(type_):
        return pa.string()
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_without_times(field.type)) for field in type_])
    if pa.types.is_list(type_):
        return pa.list_(type_.value_field.with_type(_without_times(type_.value_type)))
    return type_


def _text_type(column: Any) -> Any:
    """Return the type of a text column that has a value."""
    sample = column.drop_null().slice(0, 16)  # a cast that fails is slow
    for type_ in _TEXT_TYPES:
        try:
            sample.cast(type_)
            column.cast(type_)
        except pa.ArrowInvalid:
            continue
        return type_
    return pa.string()


def _is_text(type_: Any) -> bool:
    types = pa.types
    tests = (types.is_string, types.is_large_string, types.is_string_view)
    return any(test(type_) for test in tests)


def _common_text(one: Any, other: Any) -> Any:
    if one == other:
        return one
    kinds = [kind for kind in (one, other) if not pa.types.is_date(kind)]
    if not all(map(pa.types.is_timestamp, kinds)):
        return pa.string()
    zones = {None if pa.types.is_date(kind) else kind.tz for kind in (one, other)}
    if len(zones) > 1:
        return pa.string()
    return pa.timestamp(max((kind.unit for kind in kinds), key=_UNITS.index), *zones)


def _parsed_type(type_: Any) -> Any:
    """Return the type in which Arrow's parser reads a column that then is cast to a type."""
    types = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return _parsed_type(type_.storage_type)
    if types.is_temporal(type_):
        return pa.int64() if types.is_duration(type_) else pa.string()
    if types.is_float16(type_):
        return pa.float64()
    if types.is_dictionary(type_):
        return _parsed_type(type_.value_type)
    if types.is_struct(type_):
        return pa.struct([field.with_type(_parsed_type(field.type)) for field in type_])
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        return pa.list_(_parsed_type(type_.value_type))
    return type_
