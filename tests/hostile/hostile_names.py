"""Names that an attacker gives to columns and files, and a strategy of such texts."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["CONTROLS", "NAMES", "hostile_texts"]

# What a terminal would obey: set the title, clear the screen, ask for the cursor, ring.
CONTROLS = ("\x1b]0;PWNED\x07", "\x1b[2J", "\x1b[6n", "\x9b31m", "\x07", "\x08", "\x7f", "\x00")

NAMES = {
    "title": "\x1b]0;PWNED\x07price",
    "clear": "\x1b[2J\x1b[31mprice",
    "c1": "\x9b2Jprice",
    "carriage return": "price\rPWNED",
    "new line": "price\nstreambn: done",
    "backspaces": "price\x08\x08\x08\x08\x08",
    "right to left": "price\u202egpj.exe",
    "isolate": "\u2066price\u2069",
    "zero width": "pri\u200bce",
    "byte order mark": "\ufeffprice",
    "line separator": "price\u2028next",
    "html": "<img src=x onerror=alert(1)>",
    "markdown": "`|`[x](http://evil)|",
    "formula": "=HYPERLINK(A1)",
    "long": "x" * 100_000,
    "braces": "{0} %s [red]x[/red] ${HOME}",
    "password": "ftp://ada:s3cret@host/price",
}

_PIECES = st.sampled_from(
    [*CONTROLS, "\u202e", "\u2028", "\ud800", "\udce9", "\U000e0041", "\u00a0"]
)
hostile_texts = st.lists(_PIECES | st.text(max_size=4) | st.characters(), max_size=8).map("".join)
