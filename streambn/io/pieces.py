"""An open file as pieces: what a reader of any format returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from streambn.errors import StreamBNError
from streambn.io.csv_passthrough import KeptText, Passthrough
from streambn.io.formats import Format

__all__ = ["ColumnSelector", "Damaged", "DataFile", "Opener", "Piece"]

# Returns the top-level columns that are needed, given the schema; None for all of them.
ColumnSelector = Callable[[Any], list[str] | None]
# Opens a file for random access.
Opener = Callable[[], Any]


class Piece(NamedTuple):
    """A part of a file.

    Attributes
    ----------
    where : str
        Its place in messages, such as ``"in row group 3"``; empty for a whole file.
    read : callable
        Returns its batches. The piece of a CSV file or a stream can be read once. It raises an
        error at a damaged batch, or yields a `Damaged` in its place if it was opened so.
    fraction : float
        Its part of the file, from 0 to 1.
    independent : bool
        Whether the other pieces are readable if this one is damaged.
    ready : callable or None
        Returns whether the next batch can be read without a wait; None: each one can.
    """

    where: str
    read: Callable[[], Iterator[Any]]
    fraction: float
    independent: bool
    ready: Callable[[], bool] | None = None


class Damaged(NamedTuple):
    """What stands in place of a damaged batch whose successors are readable.

    Attributes
    ----------
    where : str
        Its place in messages, such as ``"in record batch 3"``.
    error : StreamBNError
    """

    where: str
    error: StreamBNError


class DataFile(NamedTuple):
    """An open file.

    Attributes
    ----------
    format : Format
    schema : pyarrow.Schema
    pieces : list of Piece
        In order.
    kept_text : sequence of KeptText
        CSV columns that pass through as text, although they look like numbers or times.
    passthrough : Passthrough or None
        The CSV columns that keep their text.
    """

    format: Format
    schema: Any
    pieces: list[Piece]
    kept_text: Sequence[KeptText] = ()
    passthrough: Passthrough | None = None
