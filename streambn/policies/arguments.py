"""Checks and representation of a policy's arguments."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from streambn.errors import InvalidValueError

__all__ = ["Domain", "check_flag", "check_number", "format_arguments", "is_name", "is_number"]

_LARGEST = int(sys.float_info.max)
_MAX_ITEMS = 4  # of a mapping


class Domain(NamedTuple):
    """The values that an argument may take, as words and as a test."""

    words: str
    contains: Callable[[float], bool]


def is_number(value: object) -> bool:
    """Return whether `value` is a real number; bools and NumPy durations are not."""
    numeric = isinstance(value, int | float | np.floating | np.integer)
    return numeric and not isinstance(value, bool | np.timedelta64)


def check_number(owner: str, name: str, value: object, domain: Domain) -> float:
    """Return `value` as a Python number.

    Raises
    ------
    InvalidValueError
        It is not a number in the domain.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, int) and abs(plain) > _LARGEST:
        plain = math.inf if plain > 0 else -math.inf
    if not is_number(value) or not isinstance(plain, int | float) or not domain.contains(plain):
        raise InvalidValueError(
            f"{owner}: {name} must be a number {domain.words}, got {value!r}.", argument=name
        )
    # A large integer that float64 does not hold would come back otherwise from a file.
    return plain if plain == float(plain) else float(plain)


def check_flag(owner: str, name: str, value: object) -> None:
    """Raise an InvalidValueError unless `value` is a bool."""
    if not isinstance(value, bool):
        raise InvalidValueError(
            f"{owner}: {name} must be True or False, got {value!r}.", argument=name
        )


def is_name(value: object) -> bool:
    """Return whether a column can have this name: Unicode text, which is all that Arrow holds."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def format_arguments(instance: Any) -> list[str]:
    """Return ``name=value`` for each field of a dataclass that differs from its default."""
    return [
        f"{f.name}={_brief(value)}"
        for f in fields(instance)
        if f.repr
        if (value := getattr(instance, f.name)) != f.default
    ]


def _brief(value: object) -> str:
    """Return the representation of a value; of a long mapping, the beginning."""
    if not isinstance(value, Mapping):
        return repr(value)
    shown = [f"{key!r}: {item!r}" for key, item in islice(value.items(), _MAX_ITEMS)]
    more = len(value) - len(shown)
    return f"{{{', '.join([*shown, f'… {more:,} more'] if more else shown)}}}"
