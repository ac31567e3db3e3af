"""The errors of CSV files, each with its remedy."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

from streambn._messages import start_of
from streambn.errors import StreamBNError
from streambn.io.csv_dialect import CsvOptions, Dialect, is_number
from streambn.io.csv_types import number_hint
from streambn.io.formats import after_row

__all__ = ["csv_error", "quoted", "ragged_error", "remedy_of"]


def csv_error(argument: str | None, problem: str, name: str, rows: int) -> StreamBNError:
    """Return an error of a file that occurs after so many rows."""
    where = after_row(rows)
    return StreamBNError(problem, argument=argument, source=f"{name} {where}" if where else name)


def remedy_of(column: str, value: str, kind: str, options: CsvOptions) -> str:
    """Return the options with which a value could be read that does not fit a type."""
    name = shlex.quote(column)
    remedies = [] if column in options.types else [f"--csv-type {name}={_wider(kind, value)}"]
    hint = number_hint([value, "0"], options)
    if hint is not None and "--null-values" not in hint.options:
        return " or ".join([hint.options, *remedies])
    if not is_number(value):
        remedies.insert(0, f"--null-values {shlex.quote(value)} if it stands for a missing one")
    return " or ".join(dict.fromkeys([*remedies, f"--csv-type {name}=string"]))


def _wider(kind: str, value: str) -> str:
    """Return the name of a type that has values of this type and this one."""
    if kind.startswith(("date", "time")):
        return "timestamp[us]"
    return "double" if is_number(value) else "string"


def ragged_error(
    ragged: Any, dialect: Dialect, options: CsvOptions, name: str, rows: int
) -> StreamBNError:
    """Return the error of a row with another number of values than the header.

    Parameters
    ----------
    ragged : pyarrow.csv.InvalidRow
    dialect : Dialect
    options : CsvOptions
    name : str
        Name of the file.
    rows : int
        Number of rows that were read before the block of this row.
    """
    expected, actual = ragged.expected_columns, ragged.actual_columns
    top = "the header" if dialect.names is not None else "the first row"
    counts = [len(row) for _, row in dialect.rows]
    usual = Counter(counts).most_common(1)[0][0] if counts else expected
    wrong = next((n for n, count in enumerate(counts) if count == actual), None)
    place = f"line {dialect.rows[wrong][0]}" if not rows and wrong is not None else ""
    remedy = (
        "Mend the line, put values that contain the delimiter into quotes, or give another "
        "--delimiter"
    )
    if usual not in (expected, 1):
        line, row = dialect.rows[counts.index(usual)]
        names = "" if not any(map(is_number, row)) else " --no-header"
        remedy = f"If the data begin in line {line}, give --skip-lines {line - 1}{names}"
    if dialect.delimiter == "," and expected < actual and options.decimal == ".":
        remedy += "; if the comma is the decimal separator, give --decimal ,"
    return csv_error(
        "delimiter",
        f"{place or 'a row'} has {actual} {'value' if actual == 1 else 'values'}, and {top} "
        f"{expected} (delimiter {dialect.delimiter!r}): {quoted(ragged.text)}. {remedy}",
        name,
        0 if place else rows,
    )


def quoted(value: str) -> str:
    """Return a value as a message shows it, on one line."""
    return repr(start_of(value))
