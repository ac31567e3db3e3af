"""The writer of CSV: Arrow's, with a point in every float, and text as it came.

Arrow writes the float 5.0 as ``5``. A reader that takes the type of a column from its first rows,
as many do, would take it for an integer. Text that was read from CSV is of type binary here. It is
written as it came, in quotes only where it needs them, and may be in any encoding. Arrow would put
all of it into quotes, and refuse bytes that are not UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.io.text_arrays import text_array

csv = lazy_module("pyarrow.csv")
pc = lazy_module("pyarrow.compute")

__all__ = ["CsvWriter"]

# Rows that are text at a time: the text of one array must stay below 2 GB.
_ROWS = 1 << 13
# The writer quotes text with one of these characters.
_SPECIAL = '[",\r\n]'
# Floats that are tested at a time, which stay in the processor's cache.
_TESTED = 1 << 16


class CsvWriter:
    """Writes batches to a file as CSV.

    Parameters
    ----------
    file : binary file object
    schema : pyarrow.Schema
    """

    def __init__(self, file: Any, schema: Any) -> None:
        self._file, self._writer = file, csv.CSVWriter(file, schema)
        self._text = [i for i, kind in enumerate(schema.types) if pa.types.is_binary(kind)]
        self._floats = [i for i, kind in enumerate(schema.types) if pa.types.is_floating(kind)]
        # Arrow writes the text of CSV if nothing needs quotes, and nothing else is in quotes.
        self._plain = bool(self._text) and all(map(_is_never_quoted, schema.types))

    def write_batch(self, batch: Any) -> None:
        """Write a batch."""
        if _have_whole_floats(batch.select(self._floats).columns):
            written = None
        elif self._plain:
            written = _plain_lines(batch, self._text)
        elif self._text:
            written = None
        else:
            self._writer.write_batch(batch)
            return
        for lines in _lines(batch) if written is None else (written,):
            self._file.write(lines)

    def close(self) -> None:
        """End the file, which stays open."""
        self._writer.close()


def _have_whole_floats(columns: Sequence[Any]) -> bool:
    """Return whether columns of floats have whole ones, which Arrow writes without a point."""
    if not columns:
        return False
    columns = [c.cast(pa.float32()) if pa.types.is_float16(c.type) else c for c in columns]
    floats = pa.RecordBatch.from_arrays(columns, [""] * len(columns))
    rows = max(_TESTED // len(columns), 1)
    for start in range(0, floats.num_rows, rows):
        # All columns in one call, because a call takes longer than a column of a few values.
        values = floats.slice(start, rows).to_tensor(null_to_nan=True, row_major=False).to_numpy()
        if np.any(np.floor(values) == values):
            return True
    return False


def _is_never_quoted(kind: Any) -> bool:
    """Return whether Arrow writes values of a type without quotes, or they are text of CSV."""
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )


def _plain_lines(batch: Any, text: Sequence[int]) -> Any:
    """Return the lines of a batch as Arrow writes them; None if some text needs quotes."""
    columns = batch.columns
    for index in text:
        columns[index] = columns[index].view(pa.string())  # without a test of the encoding
    plain = pa.RecordBatch.from_arrays(columns, batch.schema.names)
    lines = pa.BufferOutputStream()
    options = csv.WriteOptions(include_header=False, quoting_style="none")
    try:
        csv.write_csv(plain, lines, options)
    except pa.ArrowInvalid:
        return None
    return lines.getvalue()


def _lines(batch: Any) -> Iterator[bytes]:
    """Yield the lines of a batch. They differ from Arrow's only in the points of whole floats."""
    for start in range(0, batch.num_rows, _ROWS):
        values = [_text(column) for column in batch.slice(start, _ROWS).columns]
        comma, nothing, end = text_array([",", "", "\n"], pa.binary())
        rows = pc.binary_join_element_wise(
            *values, comma, null_handling="replace", null_replacement=b""
        )
        ended = pc.binary_join_element_wise(rows, nothing, end)
        yield b"".join(ended.to_pylist())


def _text(column: Any) -> Any:
    """Return the values of a column as CSV, in binary."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _text(column.cast(kind.value_type))
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind):
        return _quoted(column.cast(pa.binary()))
    if types.is_binary(kind):
        special = pc.match_substring_regex(column, _SPECIAL)
        return pc.if_else(special, _quoted(column), column) if pc.any(special).as_py() else column
    text = column.cast(pa.string())
    if types.is_floating(kind) and _have_whole_floats([column]):
        plain = pc.invert(pc.match_substring_regex(text, "[.eni]"))
        zero, point = text_array(["0", "."], pa.string())
        text = pc.if_else(plain, pc.binary_join_element_wise(text, zero, point), text)
    return text.cast(pa.binary())


def _quoted(column: Any) -> Any:
    escaped = pc.replace_substring(column, b'"', b'""')
    quote, nothing = text_array(['"', ""], pa.binary())
    return pc.binary_join_element_wise(quote, escaped, quote, nothing)
