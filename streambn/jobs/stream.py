"""Outputs made as one stream of batches: from any number of sources, in any format."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.errors import StreamBNError
from streambn.io import (
    DataFile,
    Encoding,
    Format,
    InferenceError,
    Joined,
    OutputBuffer,
    Piece,
    Source,
    after_row,
    join_none,
    join_small,
    located,
    prefetch,
    write_batches,
)
from streambn.jobs.inputs import needs_of, open_input, read_schemas
from streambn.jobs.operations import Operation
from streambn.jobs.output_schema import SourceMap, settle_schema
from streambn.jobs.plan import Output, ReadOptions
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.jobs.stamps import Learned, stamps_of
from streambn.parquet import ParquetSource

__all__ = ["Chunk", "NothingLeftError", "stream_output", "write_stdout"]

# Longer and larger batches are normalized in slices, so that the results need less memory than
# the batch.
_ROWS = 1 << 17
_LARGE_BYTES, _SLICE_BYTES = 32 << 20, 12 << 20
# Arrow writes a batch in many parts, and each would be a call of Python.
_WRITE_BYTES = 1 << 16
# Decoded bytes that may wait to be normalized.
_BUFFER_BYTES = 32 << 20


class NothingLeftError(StreamBNError):
    """Every source of an output was damaged and skipped."""


class Chunk(NamedTuple):
    """A part of an output, and the input that was read, or left out, since the one before."""

    data: Any  # the bytes to append, whose length is their number
    rows: int = 0
    bytes: int = 0
    skipped: Sequence[Skipped] = ()
    again: bool = False  # whether the output begins again: earlier chunks are gone


def stream_output(
    output: Output, operation: Operation, options: ReadOptions, encoding: Encoding, workers: int
) -> Iterator[Chunk]:
    """Make the bytes of an output, chunk by chunk. The workers are threads that read ahead.

    Raises
    ------
    NothingLeftError
        All sources were skipped.
    InferenceError
        The output must be made again, with the types that its sources settle.
    StreamBNError, OSError
        A source cannot be read or normalized, or the format cannot hold the result.
    """
    tally, buffer = _Tally(), OutputBuffer()
    schema, batches = _read_and_map(output, operation, options, workers, tally)
    if schema is None:
        yield tally.chunk(b"")
        raise NothingLeftError(f"{output.name}: nothing is left to write, all was skipped")
    for _ in _encode(buffer, schema, batches, output, encoding):
        yield tally.chunk(buffer.take())


def write_stdout(
    operation: Operation,
    output: Output,
    options: ReadOptions,
    progress: Progress,
    learned: Learned | None = None,
) -> list[Skipped]:
    """Write a stream to standard output, each batch as soon as it is ready.

    `learned` has the stamps that the sources must have; see `stamps_of`.
    """
    tally = _Tally()
    stamps = stamps_of(output.sources, learned)
    skipped: list[Skipped] = []
    out = _WholeWrites(sys.stdout.buffer)
    progress.start_file(output.sources[0].name)
    workers = options.threads if all(source.rereadable for source in output.sources) else 1
    schema, batches = _read_and_map(output, operation, options, workers, tally)

    def count() -> None:
        chunk = tally.chunk(b"")
        progress.add(chunk.rows, chunk.bytes)
        skipped.extend(chunk.skipped)

    if schema is None:
        count()
        raise NothingLeftError("nothing is left to write: all was skipped")
    for _ in _encode(out, schema, batches, output, Encoding()):
        count()
    for source, stamp in zip(output.sources, stamps, strict=True):
        source.check_unchanged(stamp)
    progress.end_file()
    return skipped


class _Tally:
    """Counts the input that was read since the last chunk."""

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self.skipped: list[Skipped] = []

    def chunk(self, data: Any) -> Chunk:
        """Return a chunk with the counts, and count from zero again."""
        chunk = Chunk(data, self.rows, self.bytes, self.skipped)
        self.rows, self.bytes, self.skipped = 0, 0, []
        return chunk


class _WholeWrites:
    """A file that writes all bytes of each write.

    With PYTHONUNBUFFERED, as in many containers, a write to stdout is one system call. It writes
    only a part if the process is stopped and continued while the pipe is full, and Arrow would
    not write the rest.
    """

    closed = False

    def __init__(self, file: Any) -> None:
        self._file, self._failed = file, False

    def write(self, data: Any) -> int:
        """Write all of the data."""
        if self._failed:  # Arrow writes what is in its buffer again
            return len(data)
        self._failed = True
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._failed = False
        return len(data)

    def flush(self) -> None:
        """Flush the file."""
        if not self._failed:
            self._file.flush()

    def close(self) -> None:
        """Do nothing: the file stays open."""


def _encode(
    out: Any, schema: Any, batches: Iterator[Joined], output: Output, encoding: Encoding
) -> Iterator[None]:
    if encoding.compression is None and output.from_parquet_to_parquet:
        source = output.sources[0]
        codecs = ParquetSource(source.open, source.name, remote=source.remote).codecs
        encoding = encoding._replace(compression=next(iter(codecs), None))
    buffered = pa.BufferedOutputStream(pa.PythonFile(out, "w"), _WRITE_BYTES)
    file = buffered
    if output.codec is not None:
        file = pa.CompressedOutputStream(buffered, output.codec)
    steps = write_batches(file, schema, batches, output.format, encoding)
    try:
        with contextlib.closing(steps):
            for _ in steps:
                buffered.flush()
                yield
    except (pa.ArrowException, ArithmeticError, UnicodeDecodeError) as error:
        # Also a decimal of a million digits, or the name of a time zone that is not UTF-8.
        reason = str(error).strip().partition("\n")[0]
        # Such as of dictionaries that differ between batches, which an IPC file cannot hold, or
        # of a column whose type text cannot hold.
        remedy = ".arrows or .parquet" if output.format is Format.IPC_FILE else ".parquet or .arrow"
        raise StreamBNError(
            f"cannot be written as {output.format.value}: {reason}. Write {remedy} instead.",
            source=output.name,
        ) from error
    finally:
        file.close()
    yield


def _read_and_map(
    output: Output, operation: Operation, options: ReadOptions, workers: int, tally: _Tally
) -> tuple[Any, Iterator[Joined]]:
    """Return the schema and the batches of an output; None if no source can be read."""
    needs = needs_of(output, operation)
    schemas = read_schemas(output, needs, options)
    settled = settle_schema(operation, schemas, options)

    def sources() -> Iterator[tuple[Source, DataFile, SourceMap]]:
        opened = schemas.first
        schema, function = None, None
        for source in output.sources:
            try:
                opened = opened or open_input(output, source, needs, options)
                if function is None or not opened.schema.equals(schema, check_metadata=True):
                    with located(source.name):
                        function = SourceMap(operation, opened.schema, settled, options)
                    schema = opened.schema
                yield source, opened, function
            except InferenceError:
                raise
            except (StreamBNError, OSError) as error:
                if not options.skip_damaged:
                    raise
                tally.skipped.append(Skipped.of(source.name, "", error))
            opened = None

    if settled is None:
        for _ in sources():  # notes why each source is skipped
            pass
        return None, iter(())
    join = _join_none if operation.depends_on_batches else _join_small
    return settled, itertools.chain.from_iterable(
        _map_source(*opened, join, options, workers, tally) for opened in sources()
    )


def _join_small(piece: Piece) -> Iterator[Joined]:
    return join_small(piece.read(), piece.ready)


def _join_none(piece: Piece) -> Iterator[Joined]:
    return join_none(piece.read())


class _Mapped(NamedTuple):
    """Output batches, and the bytes that were read for them."""

    joined: Joined
    bytes: int


def _map_source(
    source: Source,
    opened: DataFile,
    function: SourceMap,
    join: Callable[[Piece], Iterator[Joined]],
    options: ReadOptions,
    workers: int,
    tally: _Tally,
) -> Iterator[Joined]:
    """Yield the output batches of a source."""
    size = source.stamp().size if source.rereadable else 0
    rows = 0

    def map_one(batch: Any, cuts: tuple[int, ...], before: int) -> _Mapped:
        with located(source.name, after_row(before)):
            out = function(batch)
        # Without the input batch, which would stay in memory as well.
        return _Mapped(Joined(out, cuts), int(batch.nbytes))

    def map_parts(joined: Joined, before: int) -> Iterator[_Mapped]:
        if len(joined.cuts) > 1:
            # If one of the joined batches is at fault, those before it are still written.
            with contextlib.suppress(StreamBNError):
                mapped = map_one(joined.batch, joined.cuts, before)
                yield mapped
                return
        for batch in joined.parts():
            most = _ROWS
            if batch.nbytes > _LARGE_BYTES:
                most = max(min(most, batch.num_rows * _SLICE_BYTES // batch.nbytes), 1)
            for start in range(0, max(batch.num_rows, 1), most):
                part = batch.slice(start, most)
                yield map_one(part, (part.num_rows,), before)
                before += part.num_rows

    def map_batches(batches: Iterator[Joined], before: int) -> Iterator[_Mapped]:
        for joined in batches:
            if joined.damaged is not None:
                where, error = joined.damaged
                tally.skipped.append(Skipped.of(source.name, where, error))
                continue
            yield from map_parts(joined, before)
            before += joined.batch.num_rows
            del joined  # releases it before the next one is read

    pieces = prefetch(
        opened.pieces,
        join,
        workers=workers,
        capacity=_BUFFER_BYTES,
        size=lambda joined: joined.nbytes,
    )
    with contextlib.closing(pieces):
        for piece, raw in pieces:
            parts = map_batches(raw, rows)
            try:
                if options.skip_damaged and piece.independent:
                    parts = _all_or_none(parts)
                for part in parts:
                    rows += part.joined.batch.num_rows
                    tally.rows += part.joined.batch.num_rows
                    tally.bytes += 0 if piece.independent else part.bytes
                    yield part.joined
            except InferenceError:
                raise
            except (StreamBNError, OSError) as error:
                if not options.skip_damaged:
                    raise
                where = piece.where or after_row(rows)
                tally.skipped.append(Skipped.of(source.name, where, error))
            if piece.independent:
                tally.bytes += round(piece.fraction * size)


def _all_or_none(parts: Iterator[_Mapped]) -> Iterator[_Mapped]:
    """Yield the parts of a piece once all of them are ready, and hold none that was yielded."""
    ready = deque(parts)
    while ready:
        yield ready.popleft()
