"""Durations: parse text and time deltas to whole nanoseconds, and format them."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction
from typing import Final

import numpy as np

from streambn._lazy import lazy_module

msgspec = lazy_module("msgspec")  # only ISO 8601 needs it

__all__ = ["EXAMPLES", "format_duration", "nanoseconds"]

# For error messages.
EXAMPLES: Final = "such as '7d', '1h30min', '250ms', the ISO 8601 'P7D' or a timedelta"

_DAY: Final = 86_400_000_000_000
# The largest first: a duration is formatted in the first unit that divides it.
_UNITS: Final = {
    "d": _DAY,
    "h": _DAY // 24,
    "min": _DAY // 1440,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
_SPELLINGS: Final = {
    7 * _DAY: "w W week weeks",
    _UNITS["d"]: "d D day days",
    _UNITS["h"]: "h H hr hour hours",
    _UNITS["min"]: "min m T minute minutes",
    _UNITS["s"]: "s S sec second seconds",
    _UNITS["ms"]: "ms L milli millis millisecond milliseconds",
    _UNITS["us"]: "us µs U micro micros microsecond microseconds",
    _UNITS["ns"]: "ns N nano nanos nanosecond nanoseconds",
}
_LENGTHS: Final = {word: size for size, words in _SPELLINGS.items() for word in words.split()}
# Bounded, because Python refuses to parse integers of thousands of digits.
_DIGITS: Final = r"\d{1,30}"
_PART: Final = re.compile(
    rf"\s*({_DIGITS}(?:\.{_DIGITS})?|\.{_DIGITS})\s*([A-Za-zµ]+)\s*,?", re.ASCII
)
_ISO_WEEKS: Final = re.compile(rf"\s*P({_DIGITS})W\s*$", re.ASCII)
_CLOCK: Final = re.compile(rf"\s*({_DIGITS}):([0-5]\d):([0-5]\d(?:\.\d{{1,9}})?)\s*$", re.ASCII)


def nanoseconds(value: object) -> int | None:
    """Return the length of a duration in nanoseconds, rounded; None if it is not a duration.

    Parameters
    ----------
    value : str, datetime.timedelta or numpy.timedelta64
        A text is an ISO 8601 duration without months and years, whose lengths vary; or numbers
        with units, or hours:minutes:seconds, as pandas reads them.
    """
    if isinstance(value, np.timedelta64):
        unit, count = np.datetime_data(value.dtype)
        size = {**_UNITS, "D": _DAY, "W": 7 * _DAY, "m": _UNITS["min"]}.get(unit)
        if np.isnat(value) or size is None:
            return None
        return int(value.astype(np.int64)) * count * size
    if isinstance(value, timedelta):
        whole = (value.days * 86_400 + value.seconds) * 10**9 + value.microseconds * 1000
        return whole + int(getattr(value, "nanoseconds", 0))  # of a pandas Timedelta
    if not isinstance(value, str):
        return None
    return _parse_iso(value) if value.strip().startswith("P") else _parse_words(value)


def _parse_iso(text: str) -> int | None:
    if weeks := _ISO_WEEKS.match(text):
        return int(weeks[1]) * 7 * _DAY
    try:
        return nanoseconds(msgspec.convert(text.strip(), timedelta))
    except msgspec.ValidationError:
        return None


def _parse_words(text: str) -> int | None:
    total, position = Fraction(0), 0
    while position < len(text.rstrip()):
        if clock := _CLOCK.match(text, position):
            hours, minutes, seconds = clock.groups()
            total += (int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * 10**9
            return round(total)
        part = _PART.match(text, position)
        if part is None or part[2] not in _LENGTHS:
            return None
        total += Fraction(part[1]) * _LENGTHS[part[2]]
        position = part.end()
    return round(total) if position else None


def format_duration(length: int) -> str:
    """Return a number of nanoseconds in the largest unit that divides it."""
    unit = next(name for name, size in _UNITS.items() if length % size == 0)
    return f"{length // _UNITS[unit]}{unit}"
