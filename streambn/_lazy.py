"""Import modules on first use, for a fast start of the package."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

__all__ = ["lazy_module"]


class _LazyModule(ModuleType):
    """A placeholder that imports its module when an attribute is read."""

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # `inspect` asks every object for it, and no module has it
            raise AttributeError(name)
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)
        return value


def lazy_module(name: str) -> Any:
    """Return a module that is imported when one of its attributes is first read.

    Use it where an import costs start-up time that most callers can do without, such as that of
    `pyarrow.csv` in a job that reads Parquet.

    Examples
    --------
    >>> from streambn._lazy import lazy_module
    >>> fractions = lazy_module("fractions")
    >>> fractions.Fraction(1, 2)
    Fraction(1, 2)
    """
    return _LazyModule(name)
