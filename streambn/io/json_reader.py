"""Newline-delimited JSON: one object a line, whose fields are the columns.

Arrow parses the lines. This module cuts the input into blocks of whole lines, settles the types
of the columns before the first batch, and finds the line that an error is about.

The types are those that Arrow infers, with integers, floats and nulls united over all blocks, and
uint64 for integers that Arrow would round to floats. A column of text becomes dates or timestamps
if all of its values are. (Arrow's own inference of timestamps drops their time zone.) A file that
is longer than a block is read once for the types and once for the values. A pipe has the types of
its first block.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.errors import StreamBNError

json = lazy_module("json")
pc = lazy_module("pyarrow.compute")
pa_json = lazy_module("pyarrow.json")

__all__ = ["open_json"]

# Bytes of a block. It ends with a whole line, so that it is longer if a line is.
_BLOCK = 2 << 20
# A longer line is not read, or a file without line breaks would be in memory whole.
_LINE = 256 << 20
_UNITS = ["s", "us", "ns"]
# The first of these types that fits all values of a text column becomes its type.
_TEXT_TYPES = [
    pa.date32(),
    *(pa.timestamp(unit, zone) for unit in _UNITS for zone in (None, "UTC")),
]
# What a column of values that Python reads as this type is, for messages.
_KINDS = {bool: "bool", int: "double", float: "double", str: "string"}

# Returns at most so many bytes of the input, and none at its end.
Read = Callable[[int], bytes]
Types = Mapping[str, Any]


class _Block(NamedTuple):
    """Whole lines."""

    data: bytes
    first: int  # number of the first line, from 1


class _Columns(NamedTuple):
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

    def unite(self, other: _Columns) -> _Columns:
        """Return columns for the values of both; raise ArrowInvalid if there is no common type."""
        parsed = pa.unify_schemas([self.parsed, other.parsed], promote_options="permissive")
        for name in self._long() ^ other._long():  # the other integers are small
            index = parsed.get_field_index(name)
            if pa.types.is_integer(parsed.field(index).type):
                parsed = parsed.set(index, pa.field(name, pa.uint64()))
        both = self.texts.keys() & other.texts.keys()
        common = {name: _common_text(self.texts[name], other.texts[name]) for name in both}
        return _Columns(parsed, {**self.texts, **other.texts, **common})

    def _long(self) -> set[str]:
        return {field.name for field in self.parsed if field.type == pa.uint64()}

    @property
    def schema(self) -> Any:
        """The schema of the batches."""
        return pa.schema([f.with_type(self.texts.get(f.name, f.type)) for f in self.parsed])

    def declare(self, types: Types) -> _Columns:
        """Set the types of columns, and add those that do not exist."""
        parsed = self.parsed
        for name, type_ in types.items():
            at = parsed.get_field_index(name)
            found = pa.null() if at < 0 else parsed.field(at).type
            # Arrow casts text to all types, and numbers to text.
            if not pa.types.is_string(found) and (pa.types.is_null(found) or not _is_text(type_)):
                field = pa.field(name, _parsed_type(type_))
                parsed = parsed.append(field) if at < 0 else parsed.set(at, field)
        return _Columns(pa.schema(map(_parsable, parsed)), {**self.texts, **types})


def open_json(read: Read, name: str, types: Types, reread: Callable[[], Read] | None = None) -> Any:
    """Open newline-delimited JSON as a lazy `pyarrow.RecordBatchReader`.

    Parameters
    ----------
    read : callable
        Reads the input from its beginning.
    name : str
        Name of the input in messages.
    types : mapping of str to pyarrow.DataType
        Types of columns, which exist even if no line has them. The others are inferred.
    reread : callable, optional
        Begins to read the input once more. Without it, the types are those of the first block.

    Raises
    ------
    StreamBNError
        A line is not an object or does not fit the types. The message names the line. Raised
        when the reader arrives there, after the batch of the lines before it.
    """
    blocks = _cut(read, name)
    first = list(itertools.islice(blocks, 1 if reread is None else 2))
    whole: Iterator[_Block] = itertools.chain(first, blocks)
    if reread is None or len(first) < 2:
        columns = _infer_all(first, types)
    else:
        columns = _infer_all(whole, types)
        whole = _cut(reread(), name)
    columns = columns.declare(types)
    schema = columns.schema
    return pa.RecordBatchReader.from_batches(schema, _read(whole, columns.parsed, schema, name))


# --- lines ----------------------------------------------------------------------------


def _cut(read: Read, name: str) -> Iterator[_Block]:
    """Cut an input into blocks of whole lines, without those that are blank."""
    waiting: list[bytes] = []
    size, first = 0, 1
    while chunk := read(_BLOCK):
        end = chunk.rfind(b"\n") + 1
        if end:
            data = b"".join([*waiting, chunk[:end]])
            waiting, size = [], 0
            if first == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            if not data.isspace():
                yield _Block(data, first)
            first += data.count(b"\n")
        waiting.append(chunk[end:])
        size += len(waiting[-1])
        if size > _LINE:
            raise StreamBNError(
                f"line {first:,} is longer than {_LINE >> 20} MB, so this is not newline-delimited "
                "JSON. Write one object a line.",
                source=name,
            )
    data = b"".join(waiting)
    if data and not data.isspace():
        yield _Block(data.removeprefix(b"\xef\xbb\xbf") + b"\n", first)


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


def _parse(data: bytes, schema: Any, others: str) -> Any:
    """Parse lines as a table. Columns that are not in the schema: ``"error"`` or ``"infer"``."""
    lines = _count_lines(data)
    if not lines:
        return schema.empty_table()
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


def _fitting(data: bytes, parse: Callable[[bytes], Any]) -> tuple[bytes, bytes, int]:
    """Split lines that cannot be parsed: those that can, the first that cannot, and its index."""
    ends = [0, *(found.end() for found in re.finditer(rb"\n", data))]

    def fails(number: int) -> bool:
        try:
            parse(data[: ends[number]])
        except (pa.ArrowException, UnicodeDecodeError):
            return True
        return False

    number = bisect.bisect_left(range(len(ends) - 1), True, key=fails)
    return data[: ends[number - 1]], data[ends[number - 1] : ends[number]], number - 1


# --- types ----------------------------------------------------------------------------


def _infer_all(blocks: Iterable[_Block], declared: Types) -> _Columns:
    """Infer the columns of blocks, up to the first line that does not fit.

    The error is raised when the line is read, after the batch of those before it.
    """
    columns = _Columns(pa.schema([]), {})

    def infer(data: bytes) -> _Columns:
        return columns.unite(_infer(data, declared, columns.texts))

    for block in blocks:
        try:
            columns = infer(block.data)
        except (pa.ArrowException, UnicodeDecodeError):
            before, _, _ = _fitting(block.data, infer)
            columns = infer(before)
            break
    return columns


def _infer(data: bytes, declared: Types, known: Types) -> _Columns:
    try:
        table = _parse(data, pa.schema([]), "infer")
    except pa.ArrowInvalid:
        if not declared:
            raise
        given = _Columns(pa.schema([]), {}).declare(declared).parsed
        table = _parse(data, given, "infer")
    found = _with_long_integers(data, table)
    schema = pa.schema([field.with_type(_without_times(field.type)) for field in found])
    return _Columns(schema, _text_types(data, table, known))


def _text_types(data: bytes, table: Any, known: Types) -> dict[str, Any]:
    """Return the types of the text columns that have a value."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    times = [name for name, column in columns.items() if pa.types.is_timestamp(column.type)]
    if times:
        text = _parse(data, pa.schema([(name, pa.string()) for name in times]), "ignore")
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
                _parse(data, only, "ignore")
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


# --- batches --------------------------------------------------------------------------


def _read(blocks: Iterable[_Block], parsed: Any, schema: Any, name: str) -> Iterator[Any]:
    def parse(data: bytes) -> Any:
        return _cast(_parse(data, parsed, "error"), schema)

    for block in blocks:
        try:
            batch = parse(block.data)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            before, line, index = _fitting(block.data, parse)
            if before:
                yield parse(before)
            place = f"{name}, line {block.first + index:,}"
            raise _error(line, place, parsed, schema, error) from error
        yield batch
        del batch


def _cast(table: Any, schema: Any) -> Any:
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


# --- errors ---------------------------------------------------------------------------


def _error(line: bytes, place: str, parsed: Any, schema: Any, problem: Exception) -> StreamBNError:
    """Return the error for the first line that does not fit."""
    whole = "Each line must hold one object, as `jq -c .` writes it."
    try:
        row = json.loads(line.rstrip(), object_pairs_hook=_unique, parse_float=_finite)
    except UnicodeDecodeError as error:
        return StreamBNError(f"not in UTF-8: {error.reason}. {whole}", source=place)
    except ValueError as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg}, at character {error.pos + 1:,}"
        return StreamBNError(
            f"not a JSON object: {reason}. {whole} Mend the line, or remove it.", source=place
        )
    if not isinstance(row, dict):
        return StreamBNError(f"{_shown(row)} is not an object. {whole}", source=place)
    for name, value in row.items():
        if name not in schema.names:
            return StreamBNError(
                f"column {name!r} occurs here for the first time. {_remedy(name, value, None)}",
                column=name,
                source=place,
            )
        one = pa.schema([parsed.field(name)]), pa.schema([schema.field(name)])
        try:
            _cast(_parse(json.dumps({name: value}).encode() + b"\n", one[0], "error"), one[1])
        except pa.ArrowException:
            type_ = schema.field(name).type
            kind = "null" if pa.types.is_null(type_) else str(type_)
            return StreamBNError(
                f"column {name!r}: {_shown(value)} does not fit {kind}, the type of the lines "
                f"before. {_remedy(name, value, type_)}",
                column=name,
                source=place,
            )
    return StreamBNError(f"not readable: {str(problem).partition(chr(10))[0]}", source=place)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} occurs twice")
    return row


def _finite(text: str) -> float:
    number = float(text)
    if number in {math.inf, -math.inf}:
        raise ValueError(f"{text} is beyond the range of float64")
    return number


def _remedy(name: str, value: Any, type_: Any) -> str:
    """Return what to do about a value that does not fit a type; None: about a new column."""
    kind = _KINDS.get(type(value))
    if type_ is None or pa.types.is_null(type_):
        possible = True
    elif kind == "string":
        possible = pa.types.is_temporal(type_)
    else:
        possible = kind == "double" and pa.types.is_integer(type_)
    if possible and kind is not None:
        return f"Set its type: --csv-type {shlex.quote(name)}={kind}"
    if possible:
        return "Save the data to a file: its types are inferred from all lines."
    return "A column has one type: write null where a value is missing."


def _shown(value: Any) -> str:
    """Return a value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
