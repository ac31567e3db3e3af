"""Newline-delimited JSON: one object a line, whose fields are the columns.

This module cuts the input into blocks of whole lines, settles the types of the columns before the
first batch, and finds the line that an error is about. A file that is longer than a block is read
once for the types and once for the values. A pipe has the types of its first block.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn._messages import start_of
from streambn.errors import StreamBNError
from streambn.io.csv_passthrough import PassthroughOf
from streambn.io.formats import Format
from streambn.io.json_raw import with_raw_columns, with_raw_fields
from streambn.io.json_types import Columns, Types, cast, infer, parse

json = lazy_module("json")

__all__ = ["open_json"]

# Bytes of a block. It ends with a whole line, so that it is longer if a line is.
_BLOCK = 2 << 20
# A longer line is not read, or a file without line breaks would be in memory whole.
_LINE = 256 << 20
# What a column of values that Python reads as this type is, for messages.
_KINDS = {bool: "bool", int: "double", float: "double", str: "string"}

# Returns at most so many bytes of the input, and none at its end.
Read = Callable[[int], bytes]


class _Block(NamedTuple):
    """Whole lines."""

    data: bytes
    first: int  # number of the first line, from 1


def open_json(
    read: Read,
    name: str,
    types: Types,
    reread: Callable[[], Read] | None = None,
    passthrough: PassthroughOf | None = None,
) -> Any:
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
    passthrough : Passthrough or callable, optional
        The columns that go into JSON as the text that they are. Default: none.

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
    schema = raw = columns.schema
    passed = passthrough(schema) if callable(passthrough) else passthrough
    if passed is not None and passed.into is Format.JSON:
        raw = with_raw_fields(schema, passed.changed)
    return pa.RecordBatchReader.from_batches(raw, _read(whole, columns.parsed, schema, raw, name))


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


def _infer_all(blocks: Iterable[_Block], declared: Types) -> Columns:
    """Infer the columns of blocks, up to the first line that does not fit.

    The reader raises the error later, after the batch of the lines before.
    """
    columns = Columns(pa.schema([]), {})

    def unite(data: bytes) -> Columns:
        return columns.unite(infer(data, declared, columns.texts))

    for block in blocks:
        try:
            columns = unite(block.data)
        except (pa.ArrowException, UnicodeDecodeError):
            before, _, _ = _fitting(block.data, unite)
            columns = unite(before)
            break
    return columns


# --- batches --------------------------------------------------------------------------


def _read(blocks: Iterable[_Block], parsed: Any, schema: Any, raw: Any, name: str) -> Iterator[Any]:
    def read(data: bytes) -> Any:
        batch = cast(parse(data, parsed, "error"), schema)
        return batch if raw is schema else with_raw_columns(batch, data, raw)

    for block in blocks:
        try:
            batch = read(block.data)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            before, line, index = _fitting(block.data, read)
            if before:
                yield read(before)
            place = f"{name}, line {block.first + index:,}"
            raise _error(line, place, parsed, schema, error) from error
        yield batch
        del batch


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
            cast(parse(json.dumps({name: value}).encode() + b"\n", one[0], "error"), one[1])
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
    if isinstance(value, int) and 2**63 <= value < 2**64:
        kind = "uint64"
    if type_ is None or pa.types.is_null(type_):
        possible = True
    elif kind == "string":
        possible = pa.types.is_temporal(type_)
    else:
        possible = kind in {"double", "uint64"} and pa.types.is_integer(type_)
    if possible and kind is not None:
        return f"Set its type: --csv-type {shlex.quote(name)}={kind}"
    if possible:
        return "Save the data to a file: its types are inferred from all lines."
    return "A column has one type: write null where a value is missing."


def _shown(value: Any) -> str:
    """Return a value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False)
    return start_of(text)
