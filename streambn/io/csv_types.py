"""The types of CSV columns: the type that all values fit, and numbers that are written as text.

Arrow infers the type of a column from the first block of a file. A later value may not fit it,
such as 1.5 in a column of integers. `infer_types` then reads the whole file, and returns types
that every value fits.
"""

from __future__ import annotations

import io
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.io.csv_dialect import CsvOptions
from streambn.io.text_arrays import text_array

csv = lazy_module("pyarrow.csv")
pc = lazy_module("pyarrow.compute")

__all__ = [
    "NumberHint",
    "NumberPattern",
    "first_text",
    "infer_types",
    "null_values",
    "number_hint",
    "numbers_in_text",
    "parse_numbers",
    "parse_text",
    "plain_numbers",
    "text_as",
    "type_named",
    "without_nulls",
]

# Arrow's null values without those that spell NaN, which is a float value and not a null.
_NULLS = ("", "#N/A", "#N/A N/A", "#NA", "N/A", "NA", "NULL", "n/a", "null")
# Types of dates and times that Arrow infers. Each type can read the values of the types before it.
_TIMES = (
    (pa.date32(), pa.timestamp("s"), pa.timestamp("ns")),
    (pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC")),
)
_INFERRED = (
    *(pa.int64(), pa.bool_(), pa.float64(), pa.time32("s"), pa.string(), pa.binary()),
    *(kind for ladder in _TIMES for kind in ladder),
)
# No value contains the unit separator.
_SEPARATOR = "\x1f"
# Values that a hint looks at; the part of them that must be numbers; and the number of different
# other values, which may stand for a missing one.
_HINT_VALUES = 10_000
_HINT_SHARE = 0.1
_HINT_NULLS = 3


def null_values(options: CsvOptions) -> list[str]:
    """Return all values that stand for a missing one."""
    return [*_NULLS, *(value for value in options.null_values if value not in _NULLS)]


def type_named(name: str) -> Any:
    """Return the type that Arrow infers of this name; None if there is none."""
    return next((kind for kind in _INFERRED if str(kind) == name), None)


# --- inference --------------------------------------------------------------------------


def infer_types(batches: Iterable[Any], options: CsvOptions) -> dict[str, Any]:
    """Return a type for each column that all its values fit.

    The types are those that Arrow infers for a block. Where blocks differ, integers become
    floats, dates become timestamps, and everything else becomes text. A column without values
    has no type.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
        All columns as text.
    options : CsvOptions
    """
    types: dict[str, Any] = {}
    for batch in batches:
        open_columns = [
            name
            for name in batch.schema.names
            if name not in options.types and types.get(name) not in (pa.string(), pa.binary())
        ]
        for name, kind in _infer(batch.select(open_columns), options).items():
            types[name] = _common(types[name], kind) if name in types else kind
    return types


def _infer(batch: Any, options: CsvOptions) -> dict[str, Any]:
    """Return the types that Arrow infers for one block; none for a column without values."""
    if not batch.num_columns:
        return {}
    types = {}
    for name, kind in zip(batch.schema.names, _parse(batch, options, {}).schema.types, strict=True):
        if pa.types.is_string(kind):
            kind = numbers_in_text(batch[name], options) or kind  # noqa: PLW2901
        if not pa.types.is_null(kind):
            types[name] = kind
    return types


def _parse(batch: Any, options: CsvOptions, types: Mapping[str, Any]) -> Any:
    """Return columns of text in the given types. Arrow infers the types of the others."""
    block = io.BytesIO()
    # Arrow writes text in any encoding if it does not know that it is binary.
    text = [c.view(pa.string()) if pa.types.is_binary(c.type) else c for c in batch.columns]
    plain = pa.RecordBatch.from_arrays(text, batch.schema.names)
    csv.write_csv(plain, block, csv.WriteOptions(include_header=False, delimiter=_SEPARATOR))
    return csv.read_csv(
        pa.BufferReader(block.getbuffer()),
        csv.ReadOptions(column_names=batch.schema.names, block_size=block.tell() + 1),
        csv.ParseOptions(delimiter=_SEPARATOR, newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types=types,
            null_values=null_values(options),
            decimal_point=options.decimal,
        ),
    )


def parse_text(column: Any, name: str, options: CsvOptions) -> Any:
    """Return a column of binary text as Arrow would read it from a CSV file."""
    kind = options.types.get(name) or numbers_in_text(column, options)
    if kind is not None and options.thousands is not None:
        return text_as(without_nulls(column, options), kind, options)
    types = {} if kind is None else {name: kind}
    batch = pa.RecordBatch.from_arrays([column], [name])
    return _parse(batch, options, types).column(0).combine_chunks()


def _common(one: Any, other: Any) -> Any:
    """Return the type that the values of two types fit."""
    if one == other:
        return one
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    for ladder in _TIMES:
        if one in ladder and other in ladder:
            return max(one, other, key=ladder.index)
    return pa.binary() if pa.binary() in (one, other) else pa.string()


# --- numbers that are written as text ---------------------------------------------------


class NumberPattern(NamedTuple):
    """Regular expressions of integers and of all numbers, for the separators of some options."""

    integer: str
    number: str

    @classmethod
    def of(cls, decimal: str, thousands: str | None) -> NumberPattern:
        """Return the patterns for two separators.

        The last group of digits has three, and each one before it two or three.
        """
        point, digits = re.escape(decimal), r"\d+"
        if thousands is not None:
            comma = re.escape(thousands)
            digits = rf"(\d+|\d{{1,3}}({comma}\d{{2,3}})*{comma}\d{{3}})"
        number = rf"[-+]?({digits}({point}\d*)?|{point}\d+)([eE][-+]?\d+)?"
        special = r"[-+]?([nN][aA][nN]|[iI][nN][fF]|[iI]nfinity)"
        return cls(rf"^-?{digits}$", rf"^({number}|{special})$")


def numbers_in_text(column: Any, options: CsvOptions) -> Any:
    """Return the type of the numbers in a column of text with thousands separators.

    None: there are other values, or no thousands separator was given.
    """
    if options.thousands is None:
        return None
    pattern = NumberPattern.of(options.decimal, options.thousands)
    values = without_nulls(column, options).drop_null()
    if not len(values):
        return None
    for expression, kind in zip(pattern, (pa.int64(), pa.float64()), strict=True):
        if pc.all(pc.match_substring_regex(values, expression)).as_py():
            return kind
    return None


def parse_numbers(column: Any, kind: Any, options: CsvOptions) -> tuple[Any, int]:
    """Return a column of text as numbers, and the first row that has none; −1: all have."""
    pattern = NumberPattern.of(options.decimal, options.thousands)
    expression = pattern.integer if pa.types.is_integer(kind) else pattern.number
    values = without_nulls(column, options)
    fits = pc.match_substring_regex(values, expression)
    row = pc.index(fits, pa.scalar(False)).as_py()
    if row >= 0:
        return None, row
    return text_as(values, kind, options), -1


def plain_numbers(values: Any, options: CsvOptions) -> Any:
    """Return the text of numbers with a point, and without groups of digits and plus signs."""
    if options.thousands is not None:
        values = pc.replace_substring(values, options.thousands, "")
    if options.decimal != ".":
        values = pc.replace_substring(values, options.decimal, ".")
    return pc.ascii_ltrim(values, "+")


def text_as(values: Any, kind: Any, options: CsvOptions) -> Any:
    """Return trimmed text as another type; raise ArrowInvalid if a value has none."""
    types = pa.types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        values = plain_numbers(values, options)
    elif types.is_time(kind):  # Arrow casts text to timestamps only
        times = pc.replace_substring_regex(values, "^", "1970-01-01T")
        return times.cast(pa.timestamp(kind.unit)).cast(kind)
    return values.cast(kind)


def without_nulls(column: Any, options: CsvOptions) -> Any:
    """Return trimmed text, null where a value stands for a missing one."""
    if pa.types.is_binary(column.type):
        column = column.cast(pa.string())
    values = pc.ascii_trim_whitespace(column)
    missing = pc.is_in(values, value_set=text_array(null_values(options), pa.string()))
    return pc.if_else(missing, pa.nulls(1, pa.string())[0], values)


def first_text(column: Any, options: CsvOptions) -> int | None:
    """Return the first row of a column of text that is neither a number nor missing."""
    pattern = NumberPattern.of(options.decimal, options.thousands)
    fits = pc.match_substring_regex(without_nulls(column, options), pattern.number)
    row = pc.index(fits, pa.scalar(False)).as_py()
    return row if row >= 0 else None


class NumberHint(NamedTuple):
    """How a column of text can be read as numbers.

    Attributes
    ----------
    share : float
        The part of its values that are numbers as soon as the options are given.
    options : str
        The options of the command line, such as ``"--thousands ,"``.
    """

    share: float
    options: str


def number_hint(values: Iterable[str | None], options: CsvOptions) -> NumberHint | None:
    """Find options that read most of these values as numbers. Return None if there are none.

    Parameters
    ----------
    values : iterable of str or None
        Values of a column of text, such as those of its first batch.
    options : CsvOptions
        The options that read the column as text.

    Examples
    --------
    >>> from streambn.io import CsvOptions, number_hint
    >>> number_hint(["2,288", "1,047", "194"], CsvOptions())
    NumberHint(share=1.0, options='--thousands ,')
    >>> number_hint(["1.5", "-", "2.5"], CsvOptions())
    NumberHint(share=0.6666666666666666, options='--null-values -')
    """
    missing = set(null_values(options))
    texts = (value.strip() for value in itertools.islice(values, _HINT_VALUES) if value)
    counts = Counter(text for text in texts if text not in missing)
    fitting, others, given = 0, list(counts), dict[str, str]()
    for separators in _other_separators(options):
        decimal = separators.get("decimal", options.decimal)
        thousands = separators.get("thousands", options.thousands)
        pattern = re.compile(NumberPattern.of(decimal, thousands).number)
        unlike = [text for text in counts if not pattern.match(text)]
        like = counts.total() - sum(counts[text] for text in unlike)
        if like > fitting:
            fitting, others, given = like, unlike, separators
    if not fitting or len(others) > _HINT_NULLS or fitting < _HINT_SHARE * counts.total():
        return None
    flags = [f"--{name} {shlex.quote(value)}" for name, value in given.items()]
    if others:
        flags.append(f"--null-values {shlex.quote(','.join(sorted(others)))}")
    return NumberHint(fitting / counts.total(), " ".join(flags)) if flags else None


def _other_separators(options: CsvOptions) -> Iterable[dict[str, str]]:
    """Return the separators that may have been meant, the likeliest first."""
    groups = [{"thousands": mark} for mark in (",", ".", " ", "'", "\u00a0", "\u202f")]
    points = [{"decimal": mark} for mark in ".,"]
    both = [{**point, **group} for point in points for group in groups]
    for given in ({}, *groups, *points, *both):
        decimal = given.get("decimal", options.decimal)
        if decimal != given.get("thousands", options.thousands):
            yield given
