"""How columns that were read as text can be read as numbers, for messages about a fit."""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa

from streambn.errors import SchemaError, StreamBNError
from streambn.io import DataFile, Format, Source, detect_format, first_text, number_hint
from streambn.jobs.plan import ReadOptions

__all__ = ["number_hints", "number_hints_in_errors"]

# Values that a hint is taken from.
_VALUES = 10_000


def number_hints(source: Source, options: ReadOptions) -> dict[str, str]:
    """Return what to say about each text column of a CSV or JSON file that has numbers.

    The values are those of the first block. If all of them are numbers, a later value made the
    column text, and the file is read up to there.
    """
    if not source.rereadable:
        return {}
    hints: dict[str, str] = {}
    with contextlib.suppress(StreamBNError, OSError):
        if detect_format(source.open, source.name)[0].declares_types:
            return {}
        opened = options.open(source)
        text = {field.name for field in opened.schema if pa.types.is_string(field.type)}
        if opened.format is Format.JSON:
            return _json_hints(opened, text)
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


@contextlib.contextmanager
def number_hints_in_errors(sources: Iterable[Source], options: ReadOptions) -> Iterator[None]:
    """Add what `number_hints` says to the errors of a block about columns of these sources."""
    try:
        yield
    except SchemaError as error:
        source = next((source for source in sources if source.name == error.source), None)
        hints = {} if source is None else number_hints(source, options)
        said = [f"Column {c!r}: {hint}." for c, hint in hints.items() if error.column in (None, c)]
        if not said:
            raise
        raise SchemaError(
            " ".join([error.message, *said]),
            argument=error.argument,
            column=error.column,
            source=error.source,
        ) from error


def _json_hints(opened: DataFile, text: Collection[str]) -> dict[str, str]:
    """Return what to say about strings that are numbers in the first block."""
    hints: dict[str, str] = {}
    for batch in itertools.islice(opened.pieces[0].read(), 1):
        for column in sorted(text):
            values = batch[column].drop_null().slice(0, _VALUES)
            with contextlib.suppress(pa.ArrowInvalid):
                values.cast(pa.float64())
                if len(values):
                    name = shlex.quote(column)
                    hints[column] = f"its values are numbers in quotes: --csv-type {name}=double"
    return hints


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
