"""The types of CSV columns that pass through into a format with types, and lose nothing there.

A *layout* is one way to write the values of a type, such as integers without leading zeros, or
numbers with two decimals each. A column has the type of a layout that all of its values have, so
that each text can be written again from its value and the layout. Without such a layout the column
stays text: 01234 would lose its zero, 1e5 and 100000 would become one number, and a number of 20
digits would lose some. Spaces around a value and the spelling of a missing one do not count.
"""

from __future__ import annotations

import bisect
import decimal
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.io.csv_dialect import CsvOptions
from streambn.io.csv_types import plain_numbers, text_as, without_nulls

pc = lazy_module("pyarrow.compute")

__all__ = [
    "Layout",
    "Layouts",
    "convert",
    "first_misfit",
    "first_text",
    "kind_of",
    "layouts_of",
    "restored",
    "unite",
]

# A number with fewer characters and without an exponent has at most 15 digits, and a float keeps
# those. No float has more than 767 digits.
_UNSURE, _MOST_DIGITS = "[eE]|.{16}", 767
_LARGEST_WHOLE = 1 << 53
_SPECIAL = r"^[-+]?([nN][aA][nN]|[iI][nN][fF]|[iI]nfinity)$"
_DATE, _TIME, _SECONDS = r"\d{4}-\d{2}-\d{2}", r"\d{2}:\d{2}", r":\d{2}"


class Layout(NamedTuple):
    """One way to write the values of a type.

    Attributes
    ----------
    pattern : str
        Regular expression that the values match.
    kind : pyarrow.DataType
    fixed : bool
        Whether floats are written with the same number of decimals each, and not with as many
        digits as tell them apart.
    """

    pattern: str
    kind: Any
    fixed: bool = False


# The layouts that all values of a column have. None: it has no values yet.
Layouts = frozenset[Layout] | None

_TEXT, _BYTES = Layout("", pa.string()), Layout("", pa.binary())
# Of NaN and infinity, which are floats in any layout.
_NO_NUMBER = Layout(_SPECIAL, pa.float64())
_BOOLEANS = [
    Layout(f"^({pair})$", pa.bool_()) for pair in ("true|false", "True|False", "TRUE|FALSE")
]
# If a column has layouts of several types, these give way to the others, in this order.
_ORDER = [pa.binary(), pa.string(), pa.float64()]


def unite(one: Layouts, other: Layouts) -> Layouts:
    """Return the layouts that the values of two parts of a column have in common."""
    if one is None or other is None:
        return other if one is None else one
    for some, others in ((one, other), (other, one)):
        if _NO_NUMBER in some:
            return (some | {x for x in others if pa.types.is_floating(x.kind)}) & others
    return one & other


def kind_of(layouts: Layouts) -> Any:
    """Return the type of a column with these layouts. Text gives way to any other type."""
    if layouts is None:
        return pa.null()
    kinds = {layout.kind for layout in layouts}
    for kind in _ORDER:
        if len(kinds) > 1:
            kinds.discard(kind)
    return kinds.pop()


def layouts_of(column: Any, options: CsvOptions) -> Layouts:
    """Return the layouts that all values of a column of binary text have."""
    try:
        values = without_nulls(column, options).drop_null()
    except pa.ArrowInvalid:  # not in UTF-8
        return frozenset([_BYTES])
    if not len(values):
        return None
    found = {_TEXT, _BYTES}
    others = values.filter(pc.invert(pc.match_substring_regex(values, _SPECIAL)))
    if not len(others):
        return frozenset({*found, _NO_NUMBER})
    for layout in _candidates(others[0].as_py(), options):
        found |= convert(values, [layout], options)[0]
    return frozenset(found)


def first_misfit(column: Any, before: Layouts, kind: Any, options: CsvOptions) -> int:
    """Return the first row up to which a column, after values with some layouts, is not a type."""

    def differs(rows: int) -> bool:
        return bool(kind_of(unite(before, layouts_of(column.slice(0, rows), options))) != kind)

    return bisect.bisect_left(range(1, len(column)), True, key=differs)


def first_text(column: Any, options: CsvOptions) -> int | None:
    """Return the first row up to which a column has no type but text; None: it has one."""

    def is_text(rows: int) -> bool:
        return kind_of(layouts_of(column.slice(0, rows), options)) in _ORDER[:2]

    if not is_text(len(column)):
        return None
    return bisect.bisect_left(range(1, len(column)), True, key=is_text)


def convert(
    values: Any, layouts: Iterable[Layout], options: CsvOptions
) -> tuple[frozenset[Layout], Any]:
    """Return those of some layouts of one type that all values have, and the values in that type.

    Parameters
    ----------
    values : pyarrow.StringArray
        Trimmed text, null where a value is missing.
    layouts : iterable of Layout
    options : CsvOptions
    """
    layouts = tuple(layouts)
    typed = restored(values, layouts, options)
    if typed is not None:
        return frozenset(layouts), typed
    found = []
    for layout in layouts:
        fits = pc.match_substring_regex(values, layout.pattern)
        if pa.types.is_floating(layout.kind) and not pc.all(fits).as_py():
            fits = pc.or_(fits, pc.match_substring_regex(values, _SPECIAL))
        if not pc.all(fits).as_py():
            continue
        try:
            typed = text_as(values, layout.kind, options) if typed is None else typed
        except pa.ArrowInvalid:  # such as a date that does not exist, or an integer out of range
            continue
        if not pa.types.is_floating(layout.kind) or _keep_digits(values, typed, options, layout):
            found.append(layout)
    return frozenset(found), typed


def restored(values: Any, layouts: Sequence[Layout], options: CsvOptions) -> Any:
    """Return text in the type of its only layout, if Arrow writes it as the same text; or None.

    It is the quick way for most values, and there is no other for those that are missing.
    """
    if len(layouts) != 1 or not _is_canonical(layouts[0], values, options):
        return None
    try:
        text = values.cast(pa.string())
        typed = text.cast(layouts[0].kind)
        return typed if typed.cast(pa.string()).equals(text) else None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _is_canonical(layout: Layout, values: Any, options: CsvOptions) -> bool:
    """Return whether Arrow writes values of a type in this layout, and no other way."""
    if options.thousands is not None or options.decimal != "." or layout == _NO_NUMBER:
        return False
    if pa.types.is_floating(layout.kind):
        return not layout.fixed
    first = pc.drop_null(values.slice(0, 1)).to_pylist()
    text = first[0] if first else ""
    return bool(
        re.search(layout.pattern, text if isinstance(text, str) else text.decode(errors="replace"))
    )


# --- layouts --------------------------------------------------------------------------


def _candidates(value: str, options: CsvOptions) -> Iterator[Layout]:
    """Yield the layouts that one value matches."""
    yield from (
        layout
        for layout in (
            *_integer_layouts(options),
            *_float_layouts(options),
            *_fixed_layouts(value, options),
            *_BOOLEANS,
            *_time_layouts(value),
        )
        if re.search(layout.pattern, value)
    )


def _whole(options: CsvOptions) -> list[str]:
    """Return patterns of whole numbers above 0: without groups of digits, and with them."""
    if options.thousands is None:
        return [r"[1-9]\d*"]
    return [r"[1-9]\d*", rf"[1-9]\d{{0,2}}({re.escape(options.thousands)}\d{{3}})*"]


def _integer_layouts(options: CsvOptions) -> Iterator[Layout]:
    for whole in _whole(options):
        yield Layout(rf"^(0|-?{whole})$", pa.int64())  # an integer would lose the sign of -0


def _float_layouts(options: CsvOptions) -> Iterator[Layout]:
    """Yield the layouts of floats as programs write them, with the digits that they need.

    An exponent has a sign, or a decimal point before it: 1e5 is more often an identifier.
    """
    point = re.escape(options.decimal)
    for whole in _whole(options):
        number, part = rf"(0|{whole})", rf"{point}(0|\d*[1-9])"
        exponents = rf"{number}({part})?[eE][-+]\d+|{number}{part}[eE]\d+"
        yield Layout(rf"^-?({number}({part})?|{point}\d*[1-9]|{exponents})$", pa.float64())


def _fixed_layouts(value: str, options: CsvOptions) -> Iterator[Layout]:
    """Yield the layouts of floats that have as many decimals as a value."""
    point = re.escape(options.decimal)
    decimals = re.search(rf"{point}(\d+)", value)
    if decimals is None:
        return
    digits = rf"\d{{{len(decimals[1])}}}"
    for whole in _whole(options):
        for exponent in ("", r"[eE][-+]\d+"):
            yield Layout(rf"^-?(0|{whole})?{point}{digits}{exponent}$", pa.float64(), fixed=True)


def _time_layouts(value: str) -> Iterator[Layout]:
    """Yield the layouts of dates and times that have as many decimals as a value."""
    yield Layout(f"^{_DATE}$", pa.date32())
    yield Layout(f"^{_TIME}$", pa.time32("s"))
    yield Layout(f"^{_TIME}{_SECONDS}$", pa.time32("s"))
    times = [(_TIME, "s"), (_TIME + _SECONDS, "s")]
    if decimals := re.search(r"\.(\d{1,9})Z?$", value):
        times.append((rf"{_TIME}{_SECONDS}\.\d{{{len(decimals[1])}}}", "ns"))
    for time, unit in times:
        for mark in (" ", "T"):
            yield Layout(f"^{_DATE}{mark}{time}$", pa.timestamp(unit))
            yield Layout(f"^{_DATE}{mark}{time}Z$", pa.timestamp(unit, "UTC"))


# --- floats ---------------------------------------------------------------------------


def _keep_digits(texts: Any, floats: Any, options: CsvOptions, layout: Layout) -> bool:
    """Return whether floats stand for all digits of their texts."""
    unsure = pc.match_substring_regex(texts, _UNSURE)
    if not pc.any(unsure).as_py():
        return True
    texts, floats = plain_numbers(texts.filter(unsure), options), floats.filter(unsure)
    if not layout.fixed:  # Arrow writes as many digits as are needed
        texts = texts.filter(pc.not_equal(floats.cast(pa.string()), texts))
    return all(_keeps_digits(text, fixed=layout.fixed) for text in pc.unique(texts).to_pylist())


def _keeps_digits(text: str, *, fixed: bool) -> bool:
    """Return whether a float, written with as many digits as its text, is the same number."""
    number = float(text)
    try:
        exact = decimal.Decimal(text)
    except decimal.InvalidOperation:  # the exponent is beyond all bounds
        return False
    digits = len(exact.as_tuple().digits)
    if math.isinf(number) or digits > _MOST_DIGITS:
        return False
    if fixed:
        return exact == decimal.Decimal(f"{number:.{digits - 1}e}")
    # A whole number without a point may be an identifier. Floats merge large ones.
    whole = "." not in text and "e" not in text.lower()
    return exact == decimal.Decimal(repr(number)) and not (whole and abs(exact) > _LARGEST_WHOLE)
