"""The dialect of a CSV file: its encoding, its delimiter, and the place of its header.

What the options leave open is detected in the first lines of the file. A file whose first line
may be data or names is refused: a wrong guess would lose a row in silence.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from streambn.errors import InvalidValueError, StreamBNError

__all__ = ["CsvOptions", "Dialect", "detect_dialect", "detect_encoding", "is_number"]

_DELIMITERS = (",", ";", "\t", "|")
# Rows that are enough to tell the delimiter.
_ROWS = 25
_NUMBER = re.compile(r"\s*[-+]?(\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?\s*")
_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class CsvOptions(NamedTuple):
    """How CSV files are read.

    Attributes
    ----------
    types : mapping of str to pyarrow.DataType
        Types of columns. The others are inferred from the first two megabytes.
    delimiter : str or None
        Character between values; None: detected among the comma, the semicolon, the tab and
        the vertical bar.
    decimal : str
        Decimal separator, ``"."`` or ``","``.
    thousands : str or None
        Separator of groups of digits.
    null_values : sequence of str
        Values that stand for a missing one, besides the empty value, NA, N/A, #N/A, NULL and
        their like.
    header : bool or None
        Whether the first line holds the names of the columns. None: it does, and a line of
        numbers is refused. Without a header, the columns are f0, f1, and so on.
    skip_lines : int
        Lines before the header, or before the data. Blank lines, and comments that begin with
        ``#``, are skipped without it.
    encoding : str or None
        Encoding of the text; None: UTF-8, or UTF-16 if the file begins with its mark.
    """

    types: Mapping[str, Any] = MappingProxyType({})
    delimiter: str | None = None
    decimal: str = "."
    thousands: str | None = None
    null_values: Sequence[str] = ()
    header: bool | None = None
    skip_lines: int = 0
    encoding: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The default of `types` cannot be pickled.
        return CsvOptions, ({**self.types}, *self[1:])

    def check(self) -> CsvOptions:
        """Return these options if they can be used together.

        Raises
        ------
        InvalidValueError
            A separator is not one character or is used twice, or the encoding is unknown.
        """
        for argument in ("delimiter", "decimal", "thousands"):
            value = getattr(self, argument)
            if value is not None and (len(value) != 1 or value.isalnum() or value in '"\r\n+-'):
                raise InvalidValueError(
                    f"{value!r} must be one character, and no letter, digit, sign or quote.",
                    argument=argument,
                )
        if self.decimal not in ".,":
            raise InvalidValueError(
                f"{self.decimal!r} must be a point or a comma.", argument="decimal"
            )
        for one, other in (("thousands", "decimal"), ("decimal", "delimiter")):
            if getattr(self, one) == getattr(self, other):
                raise InvalidValueError(
                    f"{getattr(self, one)!r} cannot be the {other} separator as well. Set both.",
                    argument=one,
                )
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise InvalidValueError(
                    f"{self.encoding!r} is not an encoding that Python knows. Examples: utf-8, "
                    "utf-16, latin-1, cp1252, shift-jis.",
                    argument="encoding",
                ) from None
        return self

    @property
    def identity(self) -> list[str]:
        """The options that a result depends on, besides the types, as text."""
        given = self._replace(types={})
        default = CsvOptions(types={})
        pairs = zip(self._fields, given, default, strict=True)
        return [f"csv {name} {value!r}" for name, value, usual in pairs if value != usual]


class Dialect(NamedTuple):
    """How the lines of one file are cut into values.

    Attributes
    ----------
    delimiter : str
    skip_lines : int
        Physical lines before the data.
    names : list of str or None
        Names of the columns; None: the file has none.
    rows : list of (int, list of str)
        The first rows, the header included: the number of the last line of each, from 1, and
        its values.
    several : bool
        Whether there are several columns.
    width : int
        Length of the longest of the first lines.
    empty : bool
        Whether the file is known to have no rows.
    """

    delimiter: str
    skip_lines: int
    names: list[str] | None
    rows: list[tuple[int, list[str]]]
    several: bool
    width: int
    empty: bool


def detect_encoding(start: bytes, options: CsvOptions) -> str:
    """Return the encoding of a file, given its first bytes."""
    if options.encoding is not None:
        return codecs.lookup(options.encoding).name
    return "utf-16" if start.startswith(_BYTE_ORDER_MARKS) else "utf8"


def detect_dialect(sample: str, options: CsvOptions, name: str, *, whole: bool) -> Dialect:
    """Return the dialect of a file.

    Parameters
    ----------
    sample : str
        The beginning of the file.
    options : CsvOptions
    name : str
        Name of the file in messages.
    whole : bool
        Whether the sample is all of the file.

    Raises
    ------
    StreamBNError
        The first line may be data, or the values are apart by spaces. The message names the
        option.
    """
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", sample.removeprefix("\ufeff"))
    if not whole and len(lines) > 1 and lines[-1][-1] not in "\r\n":
        lines.pop()  # it is cut off
    first = _first_line(lines, options.skip_lines)
    delimiter = options.delimiter or _sniff(lines[first:], options)
    if options.header is not False:
        first = _header_line(lines, first, options.skip_lines, delimiter)
    rows = [(first + end, row) for end, row in _rows(lines[first:], delimiter)]
    end, header = rows[0] if rows else (first, [])
    if len(header) == 1 and options.delimiter is None:
        _refuse_spaces(lines[first:], name)
    several = len(header) > 1
    width = max(map(len, lines[first : first + _ROWS]), default=0)
    if options.header is False:
        return Dialect(delimiter, first, None, rows, several, width, empty=whole and not rows)
    if options.header is None:
        _refuse_numbers(header, name)
    # An empty line is a row of a table of one column.
    rest = (line for line in lines[end:] if not several or line.strip())
    empty = whole and next(rest, None) is None
    return Dialect(delimiter, end, _unique(header), rows, several, width, empty)


def _first_line(lines: Sequence[str], skip: int) -> int:
    """Return the number of lines before the first that is neither blank nor a comment."""
    for number, line in enumerate(lines[skip:], skip):
        if line.strip() and not line.startswith("#"):
            return number
    return skip


def _header_line(lines: Sequence[str], first: int, skip: int, delimiter: str) -> int:
    """Return the line of the header, which may begin with ``#``.

    The last comment is the header if it has as many values as the line after it, and that line
    has a number.
    """
    if first > skip and lines[first - 1].startswith("#"):
        header, row = (values for _, values in _rows(lines[first - 1 : first + 1], delimiter))
        if len(header) == len(row) and _numbers(row):
            return first - 1
    return first


def _rows(lines: Sequence[str], delimiter: str) -> list[tuple[int, list[str]]]:
    """Return the first rows, each with the number of lines up to its end."""
    reader = csv.reader(lines, delimiter=delimiter)
    rows = []
    with contextlib.suppress(csv.Error):  # such as of a very long value
        for row in reader:
            if row:
                rows.append((reader.line_num, row))
            if len(rows) == _ROWS:
                break
    return rows


def _sniff(lines: Sequence[str], options: CsvOptions) -> str:
    """Return the delimiter with which most rows have as many values as the first, and several."""
    best, most = _DELIMITERS[0], (0, 0, 0)
    for delimiter in _DELIMITERS:
        if delimiter == options.decimal:
            continue
        counts = [len(row) for _, row in _rows(lines, delimiter)]
        if not counts or max(counts) < 2:
            continue
        agreeing = counts.count(counts[0]) if counts[0] > 1 else 0
        score = (agreeing, Counter(counts).most_common(1)[0][1] if agreeing else 0, counts[0])
        if score > most:
            best, most = delimiter, score
    return ";" if best == options.decimal else best


def _refuse_spaces(lines: Sequence[str], name: str) -> None:
    """Refuse rows of numbers with spaces between them."""
    rows = [line.split() for line in lines[:_ROWS] if line.strip()]
    counts = {len(row) for row in rows}
    values = [value for row in rows[1:] or rows for value in row]
    if len(counts) != 1 or len(rows[0]) < 2 or 2 * _numbers(values) < len(values):
        return
    single = all(len(line.rstrip("\r\n").split(" ")) == len(rows[0]) for line in lines[:_ROWS])
    remedy = (
        "give --delimiter ' '"
        if single
        else "several of them stand between two values, so replace them first, as by tr -s ' ' ','"
    )
    raise StreamBNError(
        f"each line has {len(rows[0])} values with spaces between them, and no delimiter: {remedy}",
        argument="delimiter",
        source=name,
    )


def _refuse_numbers(header: Sequence[str], name: str) -> None:
    """Refuse a header with numbers that are not like years or positions."""
    numbers = [value for value in header if _NUMBER.fullmatch(value)]
    if not numbers:
        return
    named = [value for value in header if value.strip()]
    whole = [int(value) for value in numbers if value.strip().isdigit()]
    ordered = len(whole) == len(numbers) > 1 and whole == sorted(set(whole))
    consecutive = ordered and whole[-1] - whole[0] == len(whole) - 1
    years = ordered and whole[0] >= 1800 and whole[-1] <= 2200
    if len(numbers) < len(named) and (consecutive or years):
        return
    shown = ", ".join(map(shlex.quote, numbers[:3])) + (", …" if len(numbers) > 3 else "")
    raise StreamBNError(
        f"the first line has numbers where the names of columns are expected ({shown}): give "
        "--no-header if it is data, or --header if these are names",
        argument="header",
        source=name,
    )


def is_number(value: str) -> bool:
    """Return whether a value is a decimal number."""
    return _NUMBER.fullmatch(value) is not None


def _numbers(values: Iterable[str]) -> int:
    return sum(map(is_number, values))


def _unique(names: Sequence[str]) -> list[str]:
    """Return names in which a repeated one gets a number, as in pandas: x, x.1, x.2."""
    taken, seen, result = set(names), Counter[str](), []
    for name in names:
        unique = name
        while seen[name] and unique in taken:
            unique = f"{name}.{seen[name]}"
            seen[name] += 1
        seen[name] += not seen[name]
        taken.add(unique)
        result.append(unique)
    return result
