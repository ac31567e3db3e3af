"""Applying statistics to files: read, normalized and encoded on threads, written in order.

A Parquet file that becomes one goes block by block (`streambn.parquet.rewrite`); all else is one
stream for each output. Of many outputs each is made and written by one thread, several at
a time; of a few the blocks are made on all threads, and written in their order. A file is
the same whatever the number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.errors import StreamBNError
from streambn.io import Stamp
from streambn.io.prefetch import prefetch
from streambn.io.sources import Source
from streambn.io.writers import Encoding
from streambn.jobs.inputs import ReadOptions, check_unchanged, left_out, located
from streambn.jobs.operations import ApplyStatistics, BatchFunction, Operation
from streambn.jobs.plan import Output
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.jobs.stream import Made, NothingLeftError, keys_of, made_as_stream, rereadable
from streambn.parquet.rewrite import Assembly, Block, ParquetSource, encoded, paths_of

__all__ = ["Stamps", "apply_files"]

# Encoded bytes that wait to be written. With twice as much, 24M rows took 200 MB and no less time;
# with this, 167 MB as three million do.
_ROOM = 16 << 20
# Outputs for each thread, at least, if none is to be without work for long at the end.
_OUTPUTS_A_THREAD = 4
# Blocks that are written, and wait to be told of.
_STEPS = 1 << 10
# What all blocks under way hold together; one that is larger goes alone.
_UNDER_WAY = 192 << 20
# A block is there read, turned and encoded at once.
_COPIES = 3

# Of the sources of an output, in order.
Stamps = tuple[Stamp | None, ...]


def apply_files(
    turns: Operation,
    plan: Sequence[Output],
    how: ReadOptions,
    encoding: Encoding,
    progress: Progress,
    write: Callable[[Output], contextlib.AbstractContextManager[Any]],
    done: Callable[[Output, Stamps, Sequence[Skipped]], None] = lambda *_: None,
) -> list[Skipped]:
    """Turn files into files.

    Parameters
    ----------
    turns : ApplyStatistics or LearnAndApply
        What is done to them.
    plan : sequence of Output
        What is to be written, of which sources.
    how : ReadOptions
        How the sources are to be read.
    encoding : Encoding
        How Parquet is to be written.
    progress : Progress
        Is told how it goes.
    write : callable
        Opens an output, which gets its name when the block ends well; on any thread.
    done : callable
        Is told of each output that has got its name, what its sources were when they
        were read, and what of them was left out.

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
    workers = how.threads if isinstance(turns, ApplyStatistics) and rereadable(plan) else 1
    make = _Making(turns, how, encoding, readers=how.threads if len(plan) == 1 else 1)
    # Bytes that one thread has made and another writes go from one cache to the other: eight
    # files on two threads took 0.22 s in blocks, and 0.19 s with a thread for each of them.
    apart = workers > 1 and len(plan) >= _OUTPUTS_A_THREAD * workers
    parts = _apart(plan, make, write, workers) if apart else _in_blocks(plan, make, write, workers)
    with contextlib.closing(parts):
        for (output, stamps), steps in parts:
            sizes = [stamp.size for stamp in stamps if stamp is not None]
            progress.start_file(output.sources[0].name, sum(sizes) if sizes else None)
            before = len(skipped)
            # However it ends, what was begun of the output is removed before all else goes on.
            with contextlib.suppress(NothingLeftError), contextlib.closing(steps):
                for step in steps:
                    progress.add(step.rows, step.bytes)
                    skipped += step.skipped
                done(output, stamps, skipped[before:])
            progress.end_file()
    return skipped


class _Step(NamedTuple):
    """What was read for what was written last, and left out."""

    rows: int
    bytes: int
    skipped: Sequence[Skipped]


class _Begun(NamedTuple):
    """An output, and what its sources are when they begin to be read."""

    output: Output
    stamps: Stamps


class _Task(NamedTuple):
    """A block of an output, or an output that is made as one stream."""

    begun: _Begun
    made: Callable[[], Iterator[Made]]
    rewrite: _Rewrite | None = None
    block: Block | None = None


# Opens an output, which gets its name when the block ends well.
_Write = Callable[[Output], contextlib.AbstractContextManager[Any]]
_Parts = Generator[tuple[_Begun, Generator[_Step, None, None]], None, None]


def _apart(plan: Sequence[Output], make: _Making, write: _Write, workers: int) -> _Parts:
    """Make several outputs at a time, each on a thread."""

    def work(begun: _Begun) -> Iterator[_Step]:
        made = ((task, task.made()) for task in make.tasks(begun))
        return _written(begun, made, write, make.how)

    begun = map(_begun, plan)
    return prefetch(begun, work, workers=workers, capacity=_STEPS, size=lambda _: 1)


def _in_blocks(plan: Sequence[Output], make: _Making, write: _Write, workers: int) -> _Parts:
    """Make the blocks of outputs on several threads, and write one after the other."""
    tasks = (task for output in plan for task in make.tasks(_begun(output)))
    under_way = prefetch(
        tasks,
        lambda task: task.made(),
        workers=workers,
        capacity=_ROOM,
        size=lambda made: len(made.data) + 1,
    )
    with contextlib.closing(under_way):
        for begun, made in itertools.groupby(under_way, lambda pair: pair[0].begun):
            yield begun, _written(begun, made, write, make.how)


def _written(
    begun: _Begun, made: Iterator[tuple[_Task, Iterator[Made]]], write: _Write, how: ReadOptions
) -> Generator[_Step, None, None]:
    with write(begun.output) as file:
        yield from _appended(made, file.write, how)
        for source, stamp in zip(begun.output.sources, begun.stamps, strict=True):
            check_unchanged(source, stamp)


def _appended(
    made: Iterator[tuple[_Task, Iterator[Made]]], write: Callable[[Any], Any], how: ReadOptions
) -> Iterator[_Step]:
    """Append all that is made for one output, and tell what was left out."""
    assembly: Assembly | None = None
    damaged = -1
    for task, items in made:
        rewrite, block = task.rewrite, task.block
        if rewrite is None or block is None:
            for item in items:
                write(item.data)
                yield _Step(item.rows, item.bytes, item.skipped)
                del item  # or it would be held while the next is made
            continue
        assembly = assembly or rewrite.assembly(write)
        if block.group == damaged:
            continue
        try:
            (item,) = items
        except (StreamBNError, OSError) as error:
            if not how.skipping:
                raise
            damaged = block.group
            assembly.drop_group()
            yield _Step(0, 0, [left_out(rewrite.name, block.where, error)])
            continue
        assembly.add(item.data)
        if block.last:
            assembly.end_group(item.rows)
        yield _Step(item.rows, item.bytes, ())
        del item  # or it would be held while the next is made
    if assembly is not None:
        assembly.close()


def _begun(output: Output) -> _Begun:
    def stamp(source: Source) -> Stamp | None:
        # None: of a pipe, or of what cannot be read, which is told when it is.
        with contextlib.suppress(StreamBNError, OSError):
            return source.stamp() if source.rereadable else None
        return None

    return _Begun(output, tuple(map(stamp, output.sources)))


class _Making:
    """How outputs are made: what all of a job have in common."""

    def __init__(
        self, turns: Operation, how: ReadOptions, encoding: Encoding, readers: int
    ) -> None:
        self.how = how
        self._turns, self._encoding, self._readers = turns, encoding, readers
        self._turn = functools.cache(turns.turn)  # most files have the same columns
        self._budget = _Budget(_UNDER_WAY)

    def tasks(self, begun: _Begun) -> Iterator[_Task]:
        """Say what there is to do for an output, in order."""
        output = begun.output
        rewrite, blocks = None, None
        if isinstance(self._turns, ApplyStatistics) and self._encoding.group_rows is None:
            # What is wrong with it is told when it is read as a stream.
            with contextlib.suppress(StreamBNError, OSError):
                rewrite = self._rewrite(output, self._turns)
                blocks = rewrite and rewrite.source.blocks()
        if rewrite is not None and blocks:
            for block in blocks:
                yield _Task(begun, functools.partial(rewrite.made, block), rewrite, block)
        else:
            how = (self._turns, self.how, self._encoding, self._readers)
            yield _Task(begun, functools.partial(made_as_stream, output, *how))

    def _rewrite(self, output: Output, turning: ApplyStatistics) -> _Rewrite | None:
        """Say how a Parquet file becomes another; None: it is not one that does."""
        source = output.sources[0]
        if len(output.sources) > 1 or not output.of_parquet:
            return None
        opened = ParquetSource(source.open, source.name, source.remote)
        if set(keys_of(output, source, turning)) - set(opened.schema.names) or not opened.codecs:
            return None
        schema = turning.schema(opened.schema)
        return _Rewrite(opened, schema, self._turn, self._encoding.compression, self._budget)


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
        self,
        source: ParquetSource,
        schema: Any,
        turn: Callable[[tuple[str, ...]], BatchFunction],
        compression: str | None,
        budget: _Budget,
    ) -> None:
        self.source, self.name, self._budget = source, source.name, budget
        self._schema, self._turn = schema, turn
        codecs = source.codecs
        self._codecs = compression or dict(zip(paths_of(self._schema), codecs, strict=True))

    def made(self, block: Block) -> Iterator[Made]:
        """Read a block, turn it and encode it, all at once."""
        schema = pa.schema([self._schema.field(i) for i in block.columns])
        turn = self._turn(tuple(schema.names))
        with self._budget.taking(_COPIES * block.size):
            with located(self.name, block.where):
                batches = [turn(batch, schema) for batch in self.source.read(block)]
            data = encoded(batches, schema, self._codecs)
            del batches  # or they would be held until the block is written
        yield Made(data, block.rows if block.last else 0, block.bytes)

    def assembly(self, write: Callable[[Any], Any]) -> Assembly:
        """Begin the file."""
        return Assembly(write, self._schema, self._codecs)
