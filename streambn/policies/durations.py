"""Lengths of time: from whatever says one to a whole number of nanoseconds, and back to text."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction
from typing import Final

import numpy as np

__all__ = ["DURATIONS", "nanoseconds", "shown_duration"]

# What an error says that a duration looks like.
DURATIONS: Final = "such as '7d', '1h30min', '250ms', the ISO 8601 'P7D' or a timedelta"

_DAY: Final = 86_400_000_000_000
# The largest first: a length is shown in the first of which it is a multiple.
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
# No number has more digits than any length needs, nor than Python reads.
_DIGITS: Final = r"\d{1,30}"
_PART: Final = re.compile(
    rf"\s*({_DIGITS}(?:\.{_DIGITS})?|\.{_DIGITS})\s*([A-Za-zµ]+)\s*,?", re.ASCII
)
_ISO_WEEKS: Final = re.compile(rf"\s*P({_DIGITS})W\s*$", re.ASCII)
_CLOCK: Final = re.compile(rf"\s*({_DIGITS}):([0-5]\d):([0-5]\d(?:\.\d{{1,9}})?)\s*$", re.ASCII)


def nanoseconds(value: object) -> int | None:
    """Return the length of a duration in nanoseconds, rounded; None: it is none.

    Parameters
    ----------
    value : str, datetime.timedelta or numpy.timedelta64
        A text is one of ISO 8601 without months and years, whose length depends on the calendar,
        or numbers with units, and hours:minutes:seconds, as pandas reads them.
    """
    if isinstance(value, np.timedelta64):
        unit, count = np.datetime_data(value.dtype)
        size = {**_UNITS, "D": _DAY, "W": 7 * _DAY, "m": _UNITS["min"]}.get(unit)
        if np.isnat(value) or size is None:
            return None
        return int(value.astype(np.int64)) * count * size
    if isinstance(value, timedelta):
        whole = (value.days * 86_400 + value.seconds) * 10**9 + value.microseconds * 1000
        return whole + int(getattr(value, "nanoseconds", 0))  # which pandas' has
    if not isinstance(value, str):
        return None
    return _from_iso(value) if value.strip().startswith("P") else _from_words(value)


def _from_iso(text: str) -> int | None:
    if weeks := _ISO_WEEKS.match(text):
        return int(weeks[1]) * 7 * _DAY
    import msgspec  # noqa: PLC0415 - hardly ever needed

    try:
        return nanoseconds(msgspec.convert(text.strip(), timedelta))
    except msgspec.ValidationError:
        return None


def _from_words(text: str) -> int | None:
    total, at = Fraction(0), 0
    while at < len(text.rstrip()):
        if clock := _CLOCK.match(text, at):
            hours, minutes, seconds = clock.groups()
            total += (int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * 10**9
            return round(total)
        part = _PART.match(text, at)
        if part is None or part[2] not in _LENGTHS:
            return None
        total += Fraction(part[1]) * _LENGTHS[part[2]]
        at = part.end()
    return round(total) if at else None


def shown_duration(length: int) -> str:
    """Spell a number of nanoseconds in the largest unit of which it is a multiple."""
    unit = next(name for name, size in _UNITS.items() if length % size == 0)
    return f"{length // _UNITS[unit]}{unit}"
