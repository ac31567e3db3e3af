"""The exceptions of streambn.

::

    ValueError
    └── StreamBNError            every error that streambn raises on purpose
        ├── SchemaError          a column is missing, not numeric, or changed
        ├── InvalidValueError    a value or an argument is outside its domain
        ├── SnapshotError        a statistics file is damaged, foreign or too new
        ├── MergeError           two sets of statistics do not belong together
        └── NotFittedError       statistics are asked for before anything was seen

Each is a `ValueError` too, so code that catches the built-in keeps working.
A message names the column or argument, the value received, and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "InvalidValueError",
    "MergeError",
    "NotFittedError",
    "SchemaError",
    "SnapshotError",
    "StreamBNError",
]


class StreamBNError(ValueError):
    """Root of the tree."""


class SchemaError(StreamBNError):
    """A column is missing, is not numeric, or is not what it was."""

    @classmethod
    def missing(cls, name: str, available: Iterable[str]) -> SchemaError:
        """Column `name` is not there; the message names the nearest that is."""
        import difflib  # noqa: PLC0415 - only to say what went wrong

        names = list(available)
        near = [n for n in names if n.casefold() == name.casefold()]
        near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
        return cls(f"column {name!r} is not in the data.{hint} Its columns: {listed or 'none'}.")


class InvalidValueError(StreamBNError):
    """A value in the data or an argument is outside its domain."""


class SnapshotError(StreamBNError):
    """A statistics file is damaged, foreign, or from a future version."""


class MergeError(StreamBNError):
    """Two sets of statistics do not belong together."""


class NotFittedError(StreamBNError):
    """Statistics are asked for before any data was seen."""
