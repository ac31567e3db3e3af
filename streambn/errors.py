"""The exceptions of streambn.

::

    ValueError
    └── StreamBNError            every error that streambn raises on purpose
        ├── SchemaError          a column is missing, not numeric, or changed
        ├── InvalidValueError    a value or an argument is outside its domain
        ├── SnapshotError        a statistics file is damaged, foreign or too new
        ├── MergeError           two sets of statistics do not belong together
        └── NotFittedError       statistics are requested before any data was seen

Each is a `ValueError` too, so code that catches the built-in keeps working. A message names the
column or argument, the value received, and the remedy. The attributes `argument` and `column` hold
the name for callers that have one of their own for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from streambn._lazy import lazy_module
from streambn._messages import listed, shown

difflib = lazy_module("difflib")

__all__ = [
    "InvalidValueError",
    "MergeError",
    "NotFittedError",
    "SchemaError",
    "SnapshotError",
    "StreamBNError",
]


class StreamBNError(ValueError):
    """Base class of all errors of streambn.

    Parameters
    ----------
    message : str
    argument : str, optional
        Name of the argument whose value is at fault.
    column : str, optional
        Name of the column whose values or type are at fault.
    source : str, optional
        Name of the file at fault, and perhaps the place in it. It comes first in the text.

    Attributes
    ----------
    argument, column, source : str or None
        As given, so that callers need not read the message.
    message : str
        The text without the source.

    Notes
    -----
    In the text, characters that do not print are escaped, and the credentials of URLs are hidden,
    because both may come from the data.
    """

    def __init__(
        self,
        message: str = "",
        *,
        argument: str | None = None,
        column: str | None = None,
        source: str | None = None,
    ) -> None:
        message = shown(message)
        super().__init__(message if source is None else f"{shown(source)}: {message}")
        self.message = message
        self.argument = argument
        self.column = column
        self.source = source


class SchemaError(StreamBNError):
    """A column is missing, is not numeric, or has another type than before."""

    @classmethod
    def missing(cls, name: str, available: Iterable[str], remedy: str = "") -> SchemaError:
        """Return the error for a missing column, which names the nearest existing one."""
        names = list(available)
        near = [n for n in names if n.casefold() == name.casefold()]
        near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return cls(
            f"column {name!r} is not in the data.{hint} Its columns: "
            f"{listed(map(repr, names)) or 'none'}.{remedy and ' '}{remedy}",
            column=name,
        )


class InvalidValueError(StreamBNError):
    """A value in the data or an argument is outside its domain."""


class SnapshotError(StreamBNError):
    """A statistics file is damaged, foreign, or from a future version."""


class MergeError(StreamBNError):
    """Two sets of statistics do not belong together."""


class NotFittedError(StreamBNError):
    """Statistics are requested before any data was seen."""
