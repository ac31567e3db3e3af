"""Outputs made on several threads and written in order.

A Parquet file that becomes another is made block by block (`streambn.parquet.rewrite`). Any
other output is made as one stream (`streambn.jobs.stream`). With many outputs, each thread makes
and writes whole outputs. With few, all threads make the blocks of one output, and this thread
writes them in order. The bytes do not depend on the threads.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from streambn.arrow import SchemaCache
from streambn.errors import StreamBNError
from streambn.io import (
    Encoding,
    InferenceError,
    prefetch,
)
from streambn.jobs.hints import number_hints_in_errors
from streambn.jobs.inputs import keys_of, needs_of
from streambn.jobs.operations import ApplyStatistics, Operation
from streambn.jobs.plan import Output, ReadOptions
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.jobs.rewrites import Memory, Rewrite
from streambn.jobs.stamps import Learned, Stamps, stamps_of
from streambn.jobs.stream import Chunk, NothingLeftError, stream_output
from streambn.parquet import Assembler, Block, ExpansionError, ParquetSource

__all__ = ["write_outputs"]

# Encoded bytes that may wait to be written. Twice as much saves no time, and takes 200 MB in all
# for 24M rows instead of 167 MB.
_BUFFER_BYTES = 16 << 20
# Whole outputs go to the threads from so many per thread on: with fewer, a thread would be idle
# for long at the end.
_OUTPUTS_PER_THREAD = 4
# Chunks that may be counted later than they are written.
_CHUNKS = 1 << 10
# Memory of all blocks in progress together; a larger block is made alone.
_BLOCK_BYTES = 192 << 20

# Opens the file of an output, which gets its name when the block ends without an error.
_Write = Callable[[Output], AbstractContextManager[Any]]


def write_outputs(
    operation: Operation,
    outputs: Sequence[Output],
    options: ReadOptions,
    encoding: Encoding,
    progress: Progress,
    write: _Write,
    on_complete: Callable[[Output, Stamps, Sequence[Skipped]], None] = lambda *_: None,
    learned: Learned | None = None,
) -> list[Skipped]:
    """Make and write outputs.

    Parameters
    ----------
    operation : Operation
    outputs : sequence of Output
    options : ReadOptions
    encoding : Encoding
        Encoding of Parquet.
    progress : Progress
    write : callable
        Opens an output, on any thread. The output gets its name when the block ends.
    on_complete : callable
        Called for each output that has its name, with the stamps of its sources from before
        they were read, and the damaged parts that were left out.
    learned : mapping of str to Stamp or None, optional
        Stamps of the sources that the statistics were learned from, by path. A source with
        another stamp is an error.

    Returns
    -------
    list of Skipped
        Damaged parts that were left out.

    Raises
    ------
    StreamBNError, OSError
        A source cannot be read or normalized, or an output cannot be written. The message names
        it.
    """
    skipped: list[Skipped] = []
    rereadable = all(source.rereadable for output in outputs for source in output.sources)
    parallel = rereadable and isinstance(operation, ApplyStatistics)
    workers = options.threads_for(len(outputs), progress.total_bytes) if parallel else 1
    readers = options.threads if len(outputs) == 1 else 1
    maker = _Maker(operation, options, encoding, readers)
    # A block that one thread makes and another writes moves between their caches: eight files on
    # two threads take 0.22 s in blocks, 0.19 s as whole outputs.
    whole = workers > 1 and len(outputs) >= _OUTPUTS_PER_THREAD * workers
    in_progress = _whole_outputs if whole else _blocks
    started = (_start(output, learned) for output in outputs)
    with contextlib.closing(in_progress(started, maker, write, workers)) as started_outputs:
        for (output, stamps, _), chunks in started_outputs:
            sizes = [stamp.size for stamp in stamps if stamp is not None]
            size = sum(sizes) if sizes else None
            progress.start_file(output.sources[0].name, size)
            before = len(skipped)
            # After an error, closing removes the temporary file before anything else happens.
            with contextlib.suppress(NothingLeftError), contextlib.closing(chunks):
                for chunk in chunks:
                    if chunk.again:
                        progress.begin_file_again()
                        progress.start_file(output.sources[0].name, size)
                        del skipped[before:]
                    progress.add(chunk.rows, chunk.bytes)
                    skipped += chunk.skipped
                on_complete(output, stamps, skipped[before:])
            progress.end_file()
    return skipped


class _Started(NamedTuple):
    """An output, the stamps of its sources from before they are read, or why they are unusable."""

    output: Output
    stamps: Stamps
    error: StreamBNError | None = None


class _Task(NamedTuple):
    """A block of an output, or a whole output that is made as one stream."""

    started: _Started
    make: Callable[[], Iterator[Chunk]]
    rewrite: Rewrite | None = None
    block: Block | None = None


_Outputs = Generator[tuple[_Started, Generator[Chunk, None, None]], None, None]
_Made = Iterator[tuple[_Task, Iterator[Chunk]]]


def _start(output: Output, learned: Learned | None) -> _Started:
    try:
        return _Started(output, stamps_of(output.sources, learned))
    except StreamBNError as error:  # raised in the turn of this output
        return _Started(output, (), error)


def _fail(error: StreamBNError) -> Iterator[Chunk]:
    raise error


def _whole_outputs(
    outputs: Iterator[_Started], maker: _Maker, write: _Write, workers: int
) -> _Outputs:
    """Make several outputs at a time, each on one thread."""

    def work(started: _Started) -> Iterator[Chunk]:
        made = ((task, task.make()) for task in maker.tasks(started))
        return _write_output(started, made, write, maker)

    return prefetch(outputs, work, workers=workers, capacity=_CHUNKS, size=lambda _: 1)


def _blocks(outputs: Iterator[_Started], maker: _Maker, write: _Write, workers: int) -> _Outputs:
    """Make the blocks of the outputs on several threads, and write one output after the other."""
    tasks = (task for started in outputs for task in maker.tasks(started))
    in_progress = prefetch(
        tasks,
        lambda task: task.make(),
        workers=workers,
        capacity=_BUFFER_BYTES,
        size=lambda chunk: len(chunk.data) + 1,
    )
    with contextlib.closing(in_progress):
        for started, made in itertools.groupby(in_progress, lambda pair: pair[0].started):
            yield started, _write_output(started, made, write, maker)


def _write_output(
    started: _Started, made: _Made, write: _Write, maker: _Maker
) -> Generator[Chunk, None, None]:
    """Write one output; yield each chunk without its data after it was written."""
    with number_hints_in_errors(started.output.sources, maker.options):
        try:
            yield from _write_once(started, made, write, maker.options)
        except (InferenceError, ExpansionError) as error:
            # What was written is gone by now.
            expanded = isinstance(error, ExpansionError)
            if not expanded:  # it has the types of the first rows
                maker.settle(started.output)
            yield Chunk(b"", again=True)
            made = ((task, task.make()) for task in maker.tasks(started, as_stream=expanded))
            yield from _write_once(started, made, write, maker.options)


def _write_once(
    started: _Started, made: _Made, write: _Write, options: ReadOptions
) -> Generator[Chunk, None, None]:
    with write(started.output) as file:
        yield from _append(made, file.write, options)
        for source, stamp in zip(started.output.sources, started.stamps, strict=True):
            source.check_unchanged(stamp)


def _append(made: _Made, write: Callable[[Any], Any], options: ReadOptions) -> Iterator[Chunk]:
    assembly: Assembler | None = None
    damaged_group = -1
    for task, chunks in made:
        rewrite, block = task.rewrite, task.block
        if rewrite is None or block is None:
            for chunk in chunks:
                write(chunk.data)
                yield chunk._replace(data=b"")
                del chunk  # free it while the next one is made
            continue
        assembly = assembly or rewrite.assembly(write)
        if block.group == damaged_group:
            continue
        try:
            (chunk,) = chunks
        except (StreamBNError, OSError) as error:
            if not options.skip_damaged:
                raise
            damaged_group = block.group
            assembly.drop_group()
            yield Chunk(b"", skipped=[Skipped.of(rewrite.name, block.where, error)])
            continue
        assembly.add(chunk.data)
        if block.last:
            assembly.end_group(chunk.rows)
        yield chunk._replace(data=b"")
        del chunk  # free it while the next one is made
    if assembly is not None:
        assembly.close()


class _Maker:
    """Makes the outputs of one job."""

    def __init__(
        self, operation: Operation, options: ReadOptions, encoding: Encoding, readers: int
    ) -> None:
        self.options = options
        self._operation, self._encoding, self._readers = operation, encoding, readers
        self._function = functools.cache(operation.function)  # most files have the same columns
        self._schemas = SchemaCache()
        self._memory = Memory(_BLOCK_BYTES)

    def tasks(self, started: _Started, *, as_stream: bool = False) -> Iterator[_Task]:
        """Yield the tasks that make an output, in order; only one if it must be a stream."""
        if started.error is not None:
            yield _Task(started, functools.partial(_fail, started.error))
            return
        output = started.output
        rewrite, blocks, runs = None, None, None
        dividable = isinstance(self._operation, ApplyStatistics) and not as_stream
        if dividable and self._encoding.group_rows is None:
            # An error here comes again when the source is read as a stream.
            with contextlib.suppress(StreamBNError, OSError):
                rewrite = self._rewrite(output)
                runs = rewrite and rewrite.source.runs()
                blocks = None if rewrite is None or runs else rewrite.source.blocks()
        if rewrite is not None and runs:
            make = functools.partial(rewrite.make_runs, runs, self._readers, self.options)
            yield _Task(started, make)
        elif rewrite is not None and blocks:
            for block in blocks:
                yield _Task(started, functools.partial(rewrite.make, block), rewrite, block)
        else:
            job = (self._operation, self.options, self._encoding, self._readers)
            yield _Task(started, functools.partial(stream_output, output, *job))

    def settle(self, output: Output) -> None:
        """Find types that all values of the sources of an output fit."""
        needs = needs_of(output, self._operation)
        for source in output.sources:
            self.options.settle([source], needs.passthrough(source, self.options))

    def _schema(self, schema: Any) -> Any:
        return self._schemas.get(schema, None, lambda: self._operation.schema(schema))

    def _rewrite(self, output: Output) -> Rewrite | None:
        """Return the rewrite of a Parquet file into another; None if the output is not one."""
        source = output.sources[0]
        if len(output.sources) > 1 or not output.from_parquet_to_parquet:
            return None
        opened = ParquetSource(source.open, source.name, remote=source.remote)
        keys = set(keys_of(output, source, self._operation.features))
        if keys - set(opened.schema.names) or not opened.codecs:
            return None
        schema = self._schema(opened.schema)
        return Rewrite(opened, schema, self._function, self._encoding.compression, self._memory)
