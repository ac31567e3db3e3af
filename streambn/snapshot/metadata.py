"""Metadata: what a user writes beside statistics, such as offsets into their stream.

Metadata hold values of JSON types. Reading returns values equal to those that were written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from streambn.errors import InvalidValueError

__all__ = ["check_metadata"]

# The integers that other readers of JSON can hold.
_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1
_MAX_DEPTH: Final = 100
_KINDS: Final = "text, numbers, True, False, None, lists, and dicts with text as keys"

_Path = tuple[str | int, ...]


def check_metadata(metadata: Any) -> dict[str, Any]:
    """Return a copy of metadata, which no later change of the argument reaches.

    Raises
    ------
    InvalidValueError
        It is not a dict, or a value in it is not of a JSON type. The message names the place, such
        as ``metadata['offsets'][0]``.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidValueError(
            f"metadata must be a dict, got {type(metadata).__name__}.", argument="metadata"
        )
    return _copy_dict(metadata, (), [])


def _copy(value: Any, path: _Path, outer: list[int]) -> Any:
    """Return a copy of a value, given the ids of the dicts and lists that it is in."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _check_text(value, path, "is")
    if isinstance(value, int):
        if not _LEAST <= value <= _MOST:
            raise _invalid(path, "is an integer beyond 64 bits", "Write it as text.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _invalid(
                path, f"is {value}, which JSON lacks", "Write None, or write it as text."
            )
        return float(value)
    if isinstance(value, dict):
        return _copy_dict(value, path, outer)
    if isinstance(value, list):
        _enter(value, path, outer)
        copy = [_copy(each, (*path, index), outer) for index, each in enumerate(value)]
        outer.pop()
        return copy
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    raise _invalid(path, f"is of type {name}", f"Metadata holds only {_KINDS}: convert it.")


def _copy_dict(value: Mapping[Any, Any], path: _Path, outer: list[int]) -> dict[str, Any]:
    _enter(value, path, outer)
    copy = {}
    for key, each in value.items():
        if not isinstance(key, str):
            raise _invalid(
                path, f"has the key {key!r:.100}", "Metadata has only text as keys: write str(key)."
            )
        copy[_check_text(key, path, "has the key")] = _copy(each, (*path, key), outer)
    outer.pop()
    return copy


def _enter(value: Any, path: _Path, outer: list[int]) -> None:
    if id(value) in outer:
        raise _invalid(path, "contains itself", "Write each value once.")
    if len(outer) == _MAX_DEPTH:
        raise _invalid(path[:1], f"is nested more than {_MAX_DEPTH} levels deep", "Flatten it.")
    outer.append(id(value))


def _check_text(value: str, path: _Path, verb: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        problem = f"{verb} {value!r:.100}, which is not Unicode text"
        raise _invalid(path, problem, "Encode it as Unicode text.") from None
    return str.__str__(value)


def _invalid(path: _Path, problem: str, remedy: str) -> InvalidValueError:
    place = "".join(f"[{key!r}]" for key in path)
    return InvalidValueError(f"metadata{place} {problem}. {remedy}", argument="metadata")
