"""Parts of messages: names, lists and arguments as the user in hand reads and writes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

__all__ = ["display_name", "listed", "spell", "spelling"]

_MAX_ITEMS = 20


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
