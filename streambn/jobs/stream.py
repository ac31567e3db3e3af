"""Outputs made as one stream of batches: from any number of sources, in any format."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.errors import SchemaError, StreamBNError
from streambn.io import (
    Encoding,
    Format,
    OutputBuffer,
    Source,
    after_row,
    located,
    open_source,
    prefetch,
    write_batches,
)
from streambn.jobs.operations import Operation
from streambn.jobs.plan import Output, ReadOptions
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.parquet import ParquetSource

__all__ = ["Chunk", "NothingLeftError", "concat", "keys_of", "stream_output", "write_stdout"]

# Longer batches are normalized in slices, so that the results need less memory than the batch.
_ROWS = 1 << 17
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


def keys_of(output: Output, source: Source, operation: Operation) -> list[str]:
    """Return the Hive partition keys that become columns of the output.

    A copy in a folder keeps the keys in its path, so only keys that are normalized become
    columns there.
    """
    return [key for key in source.keys if not output.mirrored or key in operation.features]


def stream_output(
    output: Output, operation: Operation, options: ReadOptions, encoding: Encoding, workers: int
) -> Iterator[Chunk]:
    """Make the bytes of an output, chunk by chunk. The workers are threads that read ahead.

    Raises
    ------
    NothingLeftError
        All sources were skipped.
    StreamBNError, OSError
        A source cannot be read or normalized, or the format cannot hold the result.
    """
    tally, buffer = _Tally(), OutputBuffer()
    schema, batches = _read_and_map(output, operation, options, workers, tally)
    if schema is None:
        yield tally.chunk(b"")
        raise NothingLeftError(f"{output.target}: nothing is left to write, all was skipped")
    for _ in _encode(buffer, schema, batches, output, encoding):
        yield tally.chunk(buffer.take())


def write_stdout(
    operation: Operation, output: Output, options: ReadOptions, progress: Progress
) -> list[Skipped]:
    """Write an Arrow IPC stream to standard output, each batch as soon as it is ready."""
    tally = _Tally()
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
    writer = pa.ipc.new_stream(out, schema)
    out.flush()
    for batch in batches:
        writer.write_batch(batch)
        out.flush()
        count()
    # Not in a `finally`: after a failure, the stream must not end as if it were complete.
    writer.close()
    out.flush()
    count()
    progress.end_file()
    return skipped


def concat(readers: Iterable[tuple[str, Any]]) -> Any:
    """Join streams into one that has the schema of the first.

    Parameters
    ----------
    readers : iterable of (str, pyarrow.RecordBatchReader)
        Each reader with its name in messages. A reader is asked for only when the one before
        it has ended.

    Raises
    ------
    SchemaError
        A later stream lacks a column, has another one, or its values do not fit the type of the
        first stream. Raised when the reader arrives there.
    """
    pending = iter(readers)
    first_name, first = next(pending)
    schema = first.schema

    def batches() -> Iterator[Any]:
        yield from first
        for name, reader in pending:
            _check_names(reader.schema.names, schema.names, name, first_name)
            for batch in reader:
                yield _conform(batch, schema, name, first_name)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _check_names(names: Sequence[str], expected: Sequence[str], name: str, first: str) -> None:
    with located(name):
        for column in expected:
            if column not in names:
                raise SchemaError.missing(column, names)
        for column in names:
            if column not in expected:
                raise SchemaError(
                    f"column {column!r} is not in {first}, which goes into the same output. Write "
                    "to a folder instead, where each file keeps its own columns.",
                    column=column,
                )


def _conform(batch: Any, schema: Any, name: str, first: str) -> Any:
    """Bring the columns of a batch into the order and the types of a schema."""
    if batch.schema.names != schema.names:
        batch = batch.select(schema.names)
    columns = []
    for column, target in zip(batch.columns, schema, strict=True):
        try:
            columns.append(column if column.type == target.type else column.cast(target.type))
        except pa.ArrowException as error:
            raise SchemaError(
                f"column {target.name!r} is {column.type}, and its values do not all fit "
                f"{target.type}, its type in {first}, which goes into the same output.",
                column=target.name,
                source=name,
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


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
        self._file = file

    def write(self, data: Any) -> int:
        """Write all of the data."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        return len(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def _encode(
    buffer: OutputBuffer, schema: Any, batches: Iterator[Any], output: Output, encoding: Encoding
) -> Iterator[None]:
    if encoding.compression is None and output.from_parquet_to_parquet:
        source = output.sources[0]
        codecs = ParquetSource(source.open, source.name, remote=source.remote).codecs
        encoding = encoding._replace(compression=next(iter(codecs), None))
    file: Any = buffer
    if output.codec is not None:
        file = pa.CompressedOutputStream(pa.PythonFile(buffer, "w"), output.codec)
    try:
        yield from write_batches(file, schema, batches, output.format, encoding)
    except pa.ArrowException as error:
        reason = str(error).strip().partition("\n")[0]
        # Such as of dictionaries that differ between batches, which an IPC file cannot hold.
        remedy = " Write .arrows or .parquet instead." if output.format is Format.IPC_FILE else ""
        raise StreamBNError(
            f"cannot be written as {output.format.value}: {reason}{remedy}", source=output.target
        ) from error
    if file is not buffer:
        file.close()
        yield


def _read_and_map(
    output: Output, operation: Operation, options: ReadOptions, workers: int, tally: _Tally
) -> tuple[Any, Iterator[Any]]:
    """Return the schema and the batches of an output; None if no source can be read."""

    def streams() -> Iterator[tuple[str, Any]]:
        for source in output.sources:
            try:
                yield source.name, _map_source(output, source, operation, options, workers, tally)
            except (StreamBNError, OSError) as error:
                if not options.skip_damaged:
                    raise
                tally.skipped.append(Skipped.of(source.name, "", error))

    readers = streams()
    first = next(readers, None)
    if first is None:
        return None, iter(())
    joined = concat(itertools.chain([first], readers))
    return joined.schema, joined


class _Mapped(NamedTuple):
    """An output batch, and the input that was read for it."""

    batch: Any
    rows: int
    bytes: int


def _map_source(
    output: Output,
    source: Source,
    operation: Operation,
    options: ReadOptions,
    workers: int,
    tally: _Tally,
) -> Any:
    """Open a source as a stream of output batches."""
    keys = keys_of(output, source, operation)
    opened = open_source(source, keys=keys, csv_types=options.csv_types)
    size = source.stamp().size if source.rereadable else 0
    with located(source.name):
        schema = operation.schema(opened.schema)
        function = operation.function(opened.schema.names)

    def map_batches(batches: Iterator[Any], before: int) -> Iterator[_Mapped]:
        for batch in batches:
            for start in range(0, max(batch.num_rows, 1), _ROWS):
                part = batch.slice(start, _ROWS)
                with located(source.name, after_row(before)):
                    out = function(part, schema)
                before += part.num_rows
                # Without the input batch, which would stay in memory as well.
                yield _Mapped(out, part.num_rows, int(part.nbytes))

    def batches() -> Iterator[Any]:
        rows = 0
        pieces = prefetch(
            opened.pieces,
            lambda piece: piece.read(),
            workers=workers,
            capacity=_BUFFER_BYTES,
            size=lambda batch: int(batch.nbytes),
        )
        with contextlib.closing(pieces):
            for piece, raw in pieces:
                parts = map_batches(raw, rows)
                try:
                    if options.skip_damaged and piece.independent:
                        parts = _all_or_none(parts)
                    for part in parts:
                        rows += part.rows
                        tally.rows += part.rows
                        tally.bytes += 0 if piece.independent else part.bytes
                        yield part.batch
                except (StreamBNError, OSError) as error:
                    if not options.skip_damaged:
                        raise
                    where = piece.where or after_row(rows)
                    tally.skipped.append(Skipped.of(source.name, where, error))
                if piece.independent:
                    tally.bytes += round(piece.fraction * size)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _all_or_none(parts: Iterator[_Mapped]) -> Iterator[_Mapped]:
    """Yield the parts of a piece once all of them are ready, and hold none that was yielded."""
    ready = deque(parts)
    while ready:
        yield ready.popleft()
