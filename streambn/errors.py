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

import contextlib
from collections.abc import Callable, Iterable, Iterator

from streambn._lazy import lazy_module

difflib = lazy_module("difflib")

_MAX_ITEMS = 20  # in a message

__all__ = [
    "InvalidValueError",
    "MergeError",
    "NotFittedError",
    "SchemaError",
    "SnapshotError",
    "StreamBNError",
    "display_name",
    "listed",
    "spell",
    "spelling",
]


def display_name(name: str) -> str:
    r"""Return the name of a column on one line, so that no two names look alike.

    A name with spaces at its ends, control characters or other characters that do not print is
    quoted, as Python quotes it.

    Examples
    --------
    >>> print(display_name("price"), display_name(" price"), display_name("price\n"))
    price ' price' 'price\n'
    """
    odd = not name or not name.isprintable() or name != name.strip()
    return repr(name) if odd or name[0] in "'\"" else name


def listed(items: Iterable[str], limit: int = _MAX_ITEMS) -> str:
    """Return the first items, separated by commas, and the number of the others.

    Examples
    --------
    >>> listed(map(str, range(10_000)), limit=3)
    '0, 1, 2, … 9,997 more'
    """
    items = list(items)
    more = len(items) - limit
    return ", ".join([*items[:limit], *([f"… {more:,} more"] if more > 0 else [])])


def _as_keyword(argument: str, value: object) -> str:
    return f"{argument}=" if value is None else f"{argument}={value!r}"


# The last one is in use.
_spellings: list[Callable[[str, object], str]] = [_as_keyword]


def spell(argument: str, value: object = None) -> str:
    """Return an argument as the user writes it, for a message that advises to give it.

    In Python that is ``columns=`` or ``nan='ignore'``, in the shell ``--columns`` or
    ``--nan ignore``.
    """
    return _spellings[-1](argument, value)


@contextlib.contextmanager
def spelling(write: Callable[[str, object], str]) -> Iterator[None]:
    """Let another interface write the arguments in messages while the block runs.

    It concerns all threads of the process, because any of them may work for the interface.
    """
    _spellings.append(write)
    try:
        yield
    finally:
        _spellings.pop()


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
    """

    def __init__(
        self,
        message: str = "",
        *,
        argument: str | None = None,
        column: str | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(message if source is None else f"{source}: {message}")
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
