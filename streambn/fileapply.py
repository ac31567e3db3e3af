"""Applying statistics to files: read, normalized and encoded on threads, written in order.

A Parquet file that becomes one goes block by block (`streambn.rewriting`); all else is one
stream for each output, and several outputs are made at once. The bytes come to the one
who writes in a fixed order, so outputs are written one after the other, and a file is the
same whatever the number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.ahead import ahead
from streambn.errors import StreamBNError
from streambn.files import Source
from streambn.formats import Format
from streambn.inputs import Reading, check_unchanged, left_out, located
from streambn.locations import Stamp
from streambn.outputs import Output
from streambn.progress import Progress, Skipped
from streambn.reading import format_of
from streambn.rewriting import Assembly, Block, ParquetSource, encoded, paths_of
from streambn.streaming import Made, NothingLeftError, keys_of, made_as_stream, rereadable
from streambn.turning import Turn, Turning, Turns
from streambn.writing import Encoding

__all__ = ["Stamps", "apply_files"]

# Encoded bytes that wait to be written.
_ROOM = 32 << 20
# What all blocks under way hold together; one that is larger goes alone.
_UNDER_WAY = 192 << 20
# A block is there read, turned and encoded at once.
_COPIES = 3

# Of the sources of an output, in order.
Stamps = tuple[Stamp | None, ...]


def apply_files(
    turns: Turns,
    plan: Sequence[Output],
    how: Reading,
    encoding: Encoding,
    progress: Progress,
    write: Callable[[Output], contextlib.AbstractContextManager[Any]],
    done: Callable[[Output, Stamps], None] = lambda *_: None,
) -> list[Skipped]:
    """Turn files into files.

    Parameters
    ----------
    turns : Turning or Learning
        What is done to them.
    plan : sequence of Output
        What is to be written, of which sources.
    how : Reading
        How the sources are to be read.
    encoding : Encoding
        How Parquet is to be written.
    progress : Progress
        Is told how it goes.
    write : callable
        Opens an output, which gets its name when the block ends well.
    done : callable
        Is told of each output that has got its name, and what its sources were when they
        were read.

    Returns
    -------
    list of Skipped
        What was damaged and left out.

    Raises
    ------
    StreamBNError, OSError
        Something cannot be read, turned or written; the message says where.
    """
    skipped: list[Skipped] = []
    alone = not isinstance(turns, Turning) or not rereadable(plan)
    under_way = ahead(
        _tasks(plan, turns, how, encoding),
        lambda task: task.made(),
        workers=1 if alone else how.threads,
        room=_ROOM,
        size=lambda made: len(made.data) + 1,
    )
    with contextlib.closing(under_way):
        grouped = itertools.groupby(under_way, lambda pair: (pair[0].output, pair[0].stamps))
        for (output, stamps), group in grouped:
            sizes = [stamp.size for stamp in stamps if stamp is not None]
            progress.start_file(output.sources[0].name, sum(sizes) if sizes else None)
            with contextlib.suppress(NothingLeftError):
                with write(output) as file:
                    _append(group, file.write, how, progress, skipped)
                    for source, stamp in zip(output.sources, stamps, strict=True):
                        check_unchanged(source, stamp)
                done(output, stamps)
            progress.end_file()
    return skipped


class _Task(NamedTuple):
    """A block of an output, or an output that is made as one stream."""

    output: Output
    stamps: Stamps
    made: Callable[[], Iterator[Made]]
    rewrite: _Rewrite | None = None
    block: Block | None = None


def _append(
    group: Iterator[tuple[_Task, Iterator[Made]]],
    write: Callable[[Any], Any],
    how: Reading,
    progress: Progress,
    skipped: list[Skipped],
) -> None:
    """Append all that is made for one output, and take note of what was left out."""
    assembly: Assembly | None = None
    damaged = -1
    for task, made in group:
        rewrite, block = task.rewrite, task.block
        if rewrite is None or block is None:
            for item in made:
                write(item.data)
                progress.add(item.rows, item.bytes)
                skipped += item.skipped
                del item  # or it would be held while the next is made
            continue
        assembly = assembly or rewrite.assembly(write)
        if block.group == damaged:
            continue
        try:
            (item,) = made
        except (StreamBNError, OSError) as error:
            if not how.skipping:
                raise
            damaged = block.group
            assembly.drop_group()
            skipped.append(left_out(rewrite.name, block.where, error))
            continue
        assembly.add(item.data)
        progress.add(item.rows, item.bytes)
        if block.last:
            assembly.end_group(item.rows)
        del item  # or it would be held while the next is made
    if assembly is not None:
        assembly.close()


def _tasks(
    plan: Sequence[Output], turns: Turns, how: Reading, encoding: Encoding
) -> Iterator[_Task]:
    # A single output keeps the threads busy by reading ahead.
    workers = how.threads if len(plan) == 1 else 1
    budget = _Budget(_UNDER_WAY)
    for output in plan:
        stamps = _stamps(output)  # before anything is read: see `check_unchanged`
        rewrite, blocks = None, None
        if isinstance(turns, Turning) and encoding.group_rows is None:
            # What is wrong with it is told when it is read as a stream.
            with contextlib.suppress(StreamBNError, OSError):
                rewrite = _rewrite(output, turns, encoding, budget)
                blocks = rewrite and rewrite.source.blocks()
        if rewrite is not None and blocks:
            for block in blocks:
                yield _Task(output, stamps, functools.partial(rewrite.made, block), rewrite, block)
        else:
            stream = functools.partial(made_as_stream, output, turns, how, encoding, workers)
            yield _Task(output, stamps, stream)


def _stamps(output: Output) -> Stamps:
    """Take note of what the sources are; None: of a pipe, or of one that cannot be read."""

    def stamp(source: Source) -> Stamp | None:
        with contextlib.suppress(StreamBNError, OSError):
            return source.stamp() if source.rereadable else None
        return None

    return tuple(map(stamp, output.sources))


class _Budget:
    """Memory that several threads share: each waits until there is as much as it needs."""

    def __init__(self, total: int) -> None:
        self._total, self._taken = total, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """Take a part of it for the time of the block; what is more than all, takes all."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._total)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


class _Rewrite:
    """A Parquet file that becomes another: what its blocks have in common."""

    def __init__(
        self, source: ParquetSource, turning: Turning, compression: str | None, budget: _Budget
    ) -> None:
        self.source, self.name, self._budget = source, source.name, budget
        self._schema = turning.schema(source.schema)
        codecs = source.codecs
        self._codecs = compression or dict(zip(paths_of(self._schema), codecs, strict=True))
        self._turning = turning
        self._turns: dict[range, tuple[Turn, Any]] = {}

    def made(self, block: Block) -> Iterator[Made]:
        """Read a block, turn it and encode it, all at once."""
        if block.columns not in self._turns:
            fields = [self._schema.field(i) for i in block.columns]
            turn = self._turning.turn([field.name for field in fields])
            self._turns[block.columns] = turn, pa.schema(fields)
        turn, schema = self._turns[block.columns]
        with self._budget.taking(_COPIES * block.size):
            with located(self.name, block.where):
                batches = [turn(batch, schema) for batch in self.source.read(block)]
            data = encoded(batches, schema, self._codecs)
            del batches  # or they would be held until the block is written
        yield Made(data, block.rows if block.last else 0, block.bytes)

    def assembly(self, write: Callable[[Any], Any]) -> Assembly:
        """Begin the file."""
        return Assembly(write, self._schema, self._codecs)


def _rewrite(
    output: Output, turning: Turning, encoding: Encoding, budget: _Budget
) -> _Rewrite | None:
    """Say how a Parquet file becomes another; None: it is not one that does."""
    source = output.sources[0]
    if output.format is not Format.PARQUET or len(output.sources) > 1 or not source.rereadable:
        return None
    if format_of(source.open, source.name) != (Format.PARQUET, None):
        return None
    opened = ParquetSource(source.open, source.name, source.distant)
    if set(keys_of(output, source, turning)) - set(opened.schema.names) or not opened.codecs:
        return None
    return _Rewrite(opened, turning, encoding.compression, budget)
