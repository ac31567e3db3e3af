"""What commands print on stderr."""

from __future__ import annotations

import sys

__all__ = ["plural", "printable", "say"]


def printable(text: str) -> str:
    """Replace control characters, which a file name can contain, by question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)


def plural(number: int, noun: str) -> str:
    """Return a number and its noun, such as ``"2 files"``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def say(message: str) -> None:
    """Print a message on stderr, on one line."""
    print("streambn:", printable(message), file=sys.stderr, flush=True)
