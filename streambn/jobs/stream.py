"""Outputs that are made as one stream: of one source or several, of any format into any."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.errors import StreamBNError
from streambn.io import sources as files
from streambn.io.formats import after_row
from streambn.io.prefetch import prefetch
from streambn.io.sources import Source
from streambn.io.writers import Encoding, OutputBuffer, write_batches
from streambn.jobs import plan as outputs
from streambn.jobs.inputs import ReadOptions, left_out, located
from streambn.jobs.operations import Operation
from streambn.jobs.plan import Output
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.parquet.rewrite import ParquetSource

__all__ = ["Made", "NothingLeftError", "keys_of", "made_as_stream", "rereadable", "write_stdout"]

# A longer batch is normalized in slices: its results would otherwise need as much
# memory again as the batch itself.
_ROWS = 1 << 17
# Decoded bytes that wait to be turned.
_ROOM = 32 << 20


class NothingLeftError(StreamBNError):
    """All that should have gone into an output was damaged, and skipped."""


class Made(NamedTuple):
    """Something to append to an output, and what it is made of.

    Attributes
    ----------
    data : object
        With a length, in bytes.
    rows, bytes : int
        That were read for it.
    skipped : sequence of Skipped
        What was left out since the last.
    """

    data: Any
    rows: int = 0
    bytes: int = 0
    skipped: Sequence[Skipped] = ()


def made_as_stream(
    output: Output, turns: Operation, how: ReadOptions, encoding: Encoding, workers: int
) -> Iterator[Made]:
    """Make the bytes of an output, step by step.

    Parameters
    ----------
    output : Output
    turns : ApplyStatistics or LearnAndApply
        What is done to its sources.
    how : ReadOptions
    encoding : Encoding
        Of Parquet.
    workers : int
        Threads that read ahead.

    Raises
    ------
    NothingLeftError
        Everything had to be skipped.
    StreamBNError, OSError
        Something cannot be read, turned or written.
    """
    tally, spool = _Tally(), OutputBuffer()
    schema, batches = _joined(output, turns, how, workers, tally)
    if schema is None:
        yield tally.made(b"")
        raise NothingLeftError(f"{output.target}: nothing is left to write, all was skipped")
    for _ in _written(spool, schema, batches, output, encoding):
        yield tally.made(spool.take())


def rereadable(plan: Sequence[Output]) -> bool:
    """Say whether all sources can be read a second time."""
    return all(source.rereadable for output in plan for source in output.sources)


def keys_of(output: Output, source: Source, turns: Operation) -> list[str]:
    """Name the partition keys that become columns of the output."""
    # In a folder's copy they stay where they are, in its path.
    return [key for key in source.keys if not output.mirrored or key in turns.lanes]


class _Tally:
    """What was read since it was taken note of."""

    def __init__(self) -> None:
        self._rows = self._bytes = 0
        self._skipped: list[Skipped] = []

    def count(self, rows: int, bytes: int) -> None:  # noqa: A002
        """Count what was read."""
        self._rows += rows
        self._bytes += bytes

    def skip(self, skipped: Skipped) -> None:
        """Take note of what was left out."""
        self._skipped.append(skipped)

    def made(self, data: Any) -> Made:
        """Say what some data is made of, and begin to count anew."""
        made = Made(data, self._rows, self._bytes, self._skipped)
        self._rows, self._bytes, self._skipped = 0, 0, []
        return made


def _written(
    spool: OutputBuffer, schema: Any, batches: Iterator[Any], output: Output, encoding: Encoding
) -> Iterator[None]:
    if encoding.compression is None and output.of_parquet:
        source = output.sources[0]
        codecs = ParquetSource(source.open, source.name, source.remote).codecs
        encoding = replace(encoding, compression=next(iter(codecs), None))
    file: Any = spool
    if output.codec is not None:  # under a name that says so
        file = pa.CompressedOutputStream(pa.PythonFile(spool, "w"), output.codec)
    try:
        yield from write_batches(file, schema, batches, output.format, encoding)
    except pa.ArrowException as error:
        said = str(error).strip().partition("\n")[0]
        # Inputs that encode a column by unlike dictionaries meet here.
        remedy = " Write .arrows or .parquet instead." if "Dictionary repl" in said else ""
        raise StreamBNError(
            f"{output.target}: cannot be written as {output.format.value}: {said}{remedy}"
        ) from error
    if file is not spool:
        file.close()
        yield


class _Whole:
    """A file of which each write is done whole.

    With PYTHONUNBUFFERED, as in many containers, what is written to stdout goes to the system
    at once, which may take only a part of it if the process is stopped and continued, or
    frozen, while it waits for whoever reads. Arrow would not write the rest.
    """

    closed = False

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Write all of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        return len(data)

    def flush(self) -> None:
        """Have the system take what was gathered."""
        self._file.flush()


def write_stdout(
    turns: Operation, output: Output, how: ReadOptions, progress: Progress
) -> list[Skipped]:
    """Write an Arrow IPC stream to standard output, each batch as soon as it is there."""
    tally = _Tally()
    skipped: list[Skipped] = []
    out = _Whole(sys.stdout.buffer)
    progress.start_file(output.sources[0].name)
    workers = how.threads if rereadable([output]) else 1
    schema, batches = _joined(output, turns, how, workers, tally)

    def counted() -> None:
        made = tally.made(b"")
        progress.add(made.rows, made.bytes)
        skipped.extend(made.skipped)

    if schema is None:
        counted()
        raise NothingLeftError("nothing is left to write: all was skipped")
    writer = pa.ipc.new_stream(out, schema)
    out.flush()
    for batch in batches:
        writer.write_batch(batch)
        out.flush()
        counted()
    # Closed only here: the mark of the stream's end must not follow a failure.
    writer.close()
    out.flush()
    counted()
    progress.end_file()
    return skipped


def _joined(
    output: Output, turns: Operation, how: ReadOptions, workers: int, tally: _Tally
) -> tuple[Any, Iterator[Any]]:
    """Read and turn the sources of an output, one after the other; None: none can be read."""

    def streams() -> Iterator[tuple[str, Any]]:
        for source in output.sources:
            try:
                yield source.name, _turned(output, source, turns, how, workers, tally)
            except (StreamBNError, OSError) as error:
                if not how.skipping:
                    raise
                tally.skip(left_out(source.name, "", error))

    readers = streams()
    first = next(readers, None)
    if first is None:
        return None, iter(())
    joined = outputs.concat(itertools.chain([first], readers))
    return joined.schema, joined


class _Turned(NamedTuple):
    """A batch as it is to go out, and what was read for it."""

    batch: Any
    rows: int
    bytes: int


def _whole(parts: Iterator[_Turned]) -> Iterator[_Turned]:
    """Give the parts of a piece when all of them are there, and hold none that was given."""
    held = deque(parts)
    while held:
        yield held.popleft()


def _turned(
    output: Output, source: Source, turns: Operation, how: ReadOptions, workers: int, tally: _Tally
) -> Any:
    """Open a source as a stream of batches as they are to go out."""
    keys = keys_of(output, source, turns)
    opened = files.open_source(source, keys=keys, csv_types=how.csv_types)
    size = source.stamp().size if source.rereadable else 0
    with located(source.name):
        schema = turns.schema(opened.schema)
        turn = turns.turn(opened.schema.names)

    def turned(batches: Iterator[Any], before: int) -> Iterator[_Turned]:
        for batch in batches:
            for start in range(0, max(batch.num_rows, 1), _ROWS):
                part = batch.slice(start, _ROWS)
                with located(source.name, after_row(before)):
                    out = turn(part, schema)
                before += part.num_rows
                # Without what it was made of: that of a whole piece would be held as well.
                yield _Turned(out, part.num_rows, int(part.nbytes))

    def batches() -> Iterator[Any]:
        rows = 0
        pieces = prefetch(
            opened.pieces,
            lambda piece: piece.read(),
            workers=workers,
            capacity=_ROOM,
            size=lambda batch: int(batch.nbytes),
        )
        with contextlib.closing(pieces):
            for piece, raw in pieces:
                parts = turned(raw, rows)
                try:
                    if how.skipping and piece.independent:  # nothing of a piece that is damaged
                        parts = _whole(parts)
                    for part in parts:
                        rows += part.rows
                        tally.count(part.rows, 0 if piece.independent else part.bytes)
                        yield part.batch
                except (StreamBNError, OSError) as error:
                    if not how.skipping:
                        raise
                    tally.skip(left_out(source.name, piece.where or after_row(rows), error))
                if piece.independent:
                    tally.count(0, round(piece.fraction * size))

    return pa.RecordBatchReader.from_batches(schema, batches())
