"""How columns that were read as text can be read as numbers, for messages about a fit."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa

from streambn.errors import SchemaError, StreamBNError
from streambn.io import Format, Source, first_text, number_hint
from streambn.jobs.plan import ReadOptions

__all__ = ["number_hints", "with_number_hints"]

# Values that a hint is taken from.
_VALUES = 10_000


def number_hints(source: Source, options: ReadOptions) -> dict[str, str]:
    """Return what to say about each text column of a CSV file that has numbers.

    The values are those of the first block. If all of them are numbers, a later value made the
    column text, and the file is read up to there.
    """
    if not source.rereadable:
        return {}
    hints: dict[str, str] = {}
    with contextlib.suppress(StreamBNError, OSError):
        opened = options.open(source)
        if opened.format is not Format.CSV:
            return {}
        text = {field.name for field in opened.schema if pa.types.is_string(field.type)}
        rows = 0
        for batch in opened.pieces[0].read() if text else ():
            for column in sorted(text):
                hint = _hint(batch[column], options, rows)
                if hint is not None:
                    text.remove(column)
                    hints[column] = hint
            rows += batch.num_rows
            if not text:
                break
    return {column: hint for column, hint in hints.items() if hint}


def with_number_hints(error: SchemaError, source: Source, options: ReadOptions) -> SchemaError:
    """Return an error about columns with what `number_hints` says about them."""
    hints = number_hints(source, options)
    said = [f"Column {c!r}: {hint}." for c, hint in hints.items() if error.column in (None, c)]
    return SchemaError(
        " ".join([error.message, *said]),
        argument=error.argument,
        column=error.column,
        source=error.source,
    )


def _hint(values: Any, options: ReadOptions, before: int) -> str | None:
    """Return what to say about some values; None: all of them are numbers, or none exists."""
    row = first_text(values, options.csv)
    if row is None:
        return None
    near = values.slice(max(row - _VALUES // 2, 0), _VALUES)
    hint = number_hint(near.to_pylist(), options.csv)
    if hint is None:
        return ""
    share = f"{100 * hint.share:.3g} % of its values look like numbers: {hint.options}"
    return f"{share} (row {before + row + 1:,} is {values[row].as_py()!r})"
