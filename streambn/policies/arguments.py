"""Checks of the policies' arguments."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from streambn.errors import InvalidValueError

__all__ = ["Domain", "check_flag", "is_number", "number", "shown_arguments"]


_LARGEST = int(sys.float_info.max)


class Domain(NamedTuple):
    """The values an argument may take, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


def is_number(value: object) -> bool:
    """Say whether `value` is a real number; a bool is not, nor numpy's duration of 3 months."""
    numeric = isinstance(value, int | float | np.floating | np.integer)
    return numeric and not isinstance(value, bool | np.timedelta64)


def number(
    owner: str, name: str, value: object, words: str, holds: Callable[[float], bool]
) -> float:
    """Return `value` as a Python number if it lies in its domain, else raise."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, int) and abs(plain) > _LARGEST:
        plain = math.inf if plain > 0 else -math.inf
    if not is_number(value) or not isinstance(plain, int | float) or not holds(plain):
        raise InvalidValueError(f"{owner}: {name} must be a number {words}, got {value!r}.")
    return plain


def check_flag(owner: str, name: str, value: object) -> None:
    """Raise unless `value` is a bool."""
    if not isinstance(value, bool):
        raise InvalidValueError(f"{owner}: {name} must be True or False, got {value!r}.")


def shown_arguments(instance: Any) -> list[str]:
    """Give ``name=value`` for each field of a dataclass that is not at its default."""
    return [
        f"{f.name}={value!r}"
        for f in fields(instance)
        if f.repr
        if (value := getattr(instance, f.name)) != f.default
    ]
