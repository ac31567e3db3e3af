"""The inputs of a fit as tasks: each is a piece of an input, to be read and learned on its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from streambn.arrow import SchemaCache
from streambn.errors import SchemaError, StreamBNError
from streambn.io import Joined, Piece, Source, Stamp, join_none, join_small
from streambn.jobs.plan import ReadOptions
from streambn.policies import Policy
from streambn.statistics import Statistics

__all__ = ["Task", "open_needed", "tasks_of"]

# Opens a source; returns it and its whole schema.
_Open = Callable[[Source], tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of a source to learn, or a source that has none or that cannot be opened.

    `number` is that of the first piece, or the first batch of a dependent piece, to learn.
    `schema` is that of the whole source, of which only some columns may be read.
    """

    index: int
    source: Source
    stamp: Stamp | None
    schema: Any = None
    piece: Piece | None = None
    number: int = 0
    is_last: bool = True
    error: StreamBNError | OSError | None = None

    @property
    def independent(self) -> bool:
        """Whether the rest of the source can be read without it."""
        return self.piece is None or self.piece.independent

    @property
    def size(self) -> int:
        """Bytes that it takes in the file; 0 if they are unknown."""
        if self.piece is None or self.stamp is None:
            return 0
        return round(self.piece.fraction * self.stamp.size)

    def read(self, policy: Policy) -> Iterator[Joined]:
        """Read the batches that are not learned yet, small ones joined where nothing forbids it."""
        if self.error is not None:
            raise self.error
        if self.piece is None:
            return iter(())
        # A dependent piece is read from its beginning, up to the batches to learn.
        learned = 0 if self.piece.independent else self.number
        batches = itertools.islice(self.piece.read(), learned, None)
        ready = self.piece.ready
        # Which batches of a pipe are joined depends on their arrival, and so may rounding.
        if policy.depends_on_batches or not (ready is None or policy.exact):
            return join_none(batches)
        return join_small(batches, ready)


def tasks_of(source: Source, index: int, done: int, open_one: _Open) -> Iterator[Task]:
    """Yield the tasks of a source.

    Parameters
    ----------
    source : Source
    index : int
        Its place among the inputs.
    done : int
        Pieces of the source, or batches of a dependent piece, that are learned already.
    open_one : callable
        Opens a source; returns it and its whole schema.
    """
    stamp = None
    try:
        stamp = source.stamp() if source.rereadable else None
        opened, schema = open_one(source)
    except (StreamBNError, OSError) as error:
        yield Task(index, source, stamp, error=error)
        return
    pieces = opened.pieces
    rest = [(n, p) for n, p in enumerate(pieces) if n >= done or not p.independent]
    if not rest:
        yield Task(index, source, stamp, schema)
    for number, piece in rest:
        first = number if piece.independent else done
        yield Task(index, source, stamp, schema, piece, first, is_last=piece is pieces[-1])


def open_needed(
    statistics: Statistics, options: ReadOptions, cache: SchemaCache, source: Source
) -> tuple[Any, Any]:
    """Open a source to read the columns that may be needed; return it and its whole schema."""
    whole: list[Any] = []

    def select(schema: Any) -> list[str] | None:
        own = schema.names
        for name in wanted:
            if name in source.keys and name not in own:
                schema = schema.append(pa.field(name, source.keys[name].type))
        whole.append(schema)
        try:  # most files have the same columns
            needed = cache.get(
                schema, None, lambda: {*statistics.bind(schema).columns_to_read(schema)}
            )
        except SchemaError:
            return None  # learning reports it, with its place
        if not needed.issubset(schema.names):
            return None  # so that the error can name the nearest column
        return [name for name in own if name in needed] or None

    wanted = statistics.named_columns
    opened = options.open(source, keys=wanted, select_columns=select)
    return opened, whole[0] if whole else opened.schema
