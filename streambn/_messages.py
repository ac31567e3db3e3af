"""Parts of messages: names, lists and arguments as the user in hand reads and writes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from streambn._credentials import redact

__all__ = [
    "display_name",
    "escape",
    "escape_bytes",
    "listed",
    "shown",
    "spell",
    "spelling",
    "start_of",
]

_MAX_ITEMS = 20
_MAX_NAME = 200
_MAX_MESSAGE = 10_000


def shown(text: str) -> str:
    r"""Return a text as messages show it: escaped, without the credentials of URLs, and not long.

    The names and values in it may come from anybody, and so may the messages of other libraries
    that quote them.

    Examples
    --------
    >>> print(shown("ftp://ada:s3cret@host/\x1b[2J.csv: no such file"))
    ftp://***@host/\x1b[2J.csv: no such file
    """
    return _shorten(escape(redact(text)), _MAX_MESSAGE)


def escape(text: str) -> str:
    r"""Return a text in which each character that does not print is escaped.

    These are control characters, which a terminal obeys, characters that hide or reorder others,
    line separators, and the bytes of a file name that is not UTF-8.

    Examples
    --------
    >>> print(escape("caf\udce9\t\u202etxt.csv"))
    caf\xe9\t\u202etxt.csv
    """
    if text.isprintable():  # as most
        return text
    return "".join(c if c.isprintable() else _escape_character(c) for c in text)


def _escape_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python decodes a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code < 0x100:  # not to be taken for such a byte
        return f"\\u{code:04x}"
    return ascii(character)[1:-1]


def escape_bytes(path: str) -> str:
    """Return a path in which only the bytes that are not UTF-8 are escaped, for JSON."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def display_name(name: str) -> str:
    r"""Return the name of a column on one line, so that no two names look alike.

    A name with spaces at its ends, control characters or other characters that do not print is
    quoted, as Python quotes it. The middle of a very long name is left out.

    Examples
    --------
    >>> print(display_name("price"), display_name(" price"), display_name("price\n"))
    price ' price' 'price\n'
    """
    odd = not name or not name.isprintable() or name != name.strip()
    return _shorten(repr(name) if odd or name[0] in "'\"" else name, _MAX_NAME)


def start_of(text: str, limit: int = 60) -> str:
    """Return a text of at most `limit` characters: the start of a longer one."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _shorten(text: str, limit: int) -> str:
    """Leave out the middle of a text that is longer than the limit."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} more characters … {text[-half:]}"


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
