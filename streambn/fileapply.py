"""Applying statistics to files: read, normalized and encoded on threads, written in order.

A Parquet file that becomes one goes block by block (`streambn.rewriting`); all else is one
stream for each output, and several outputs are made at once. The bytes come to the one
who writes in a fixed order, so outputs are written one after the other, and a file is the
same whatever the number of threads.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from streambn import files, outputs
from streambn.ahead import ahead
from streambn.errors import StreamBNError
from streambn.filefit import Reading, check_unchanged, located
from streambn.files import Source
from streambn.footers import Chunks
from streambn.formats import Format
from streambn.normalizer import FrozenNormalizer, Normalizer, Using
from streambn.outputs import Output
from streambn.progress import Progress, Skipped
from streambn.reading import format_of
from streambn.rewriting import Assembly, Block, ParquetSource, codecs_of, encoded
from streambn.writing import Encoding, written

__all__ = ["Learning", "Turning", "apply_files", "write_stdout"]

# A longer batch is normalized in slices: its results would otherwise need as much
# memory again as the batch itself.
_ROWS = 1 << 17
# Bytes that wait: decoded ones to be turned, encoded ones to be written.
_ROOM = 32 << 20

# Makes of a batch the batch of the given schema that goes out.
Turn = Callable[[Any, Any], Any]


class _Turns(Protocol):
    """What is done to the inputs."""

    @property
    def lanes(self) -> Collection[str]:
        """Names of what is normalized."""

    def schema(self, schema: Any) -> Any:
        """Give the schema that comes out."""

    def turn(self, names: Sequence[str]) -> Turn:
        """Give the function that turns batches of these columns."""


@dataclass(frozen=True)
class Turning:
    """Statistics that are applied, or undone; nothing is learned.

    Attributes
    ----------
    frozen : FrozenNormalizer
    dtype : pyarrow.DataType or None
        Of the results; None: floats keep theirs.
    inverse : bool
        Whether normalized values are to become the original ones.
    """

    frozen: FrozenNormalizer
    dtype: Any = None
    inverse: bool = False

    @property
    def lanes(self) -> Collection[str]:
        """Names of what is normalized."""
        return self.frozen.lanes

    def schema(self, schema: Any) -> Any:
        """Give the schema that comes out."""
        turn = self.frozen.inverse_transform if self.inverse else self.frozen.transform
        return turn(_nothing(schema), dtype=self.dtype).schema

    def turn(self, names: Sequence[str]) -> Turn:
        """Give the function that turns batches of these columns."""
        part = self.frozen._current.part(names)
        if part is None:
            return _retyped
        return part.denormalized if self.inverse else part.normalized


@dataclass(frozen=True)
class Learning:
    """Statistics that learn each batch and are applied to it, in one pass.

    Attributes
    ----------
    normalizer : Normalizer
    using : {"running", "before", "batch"}
        As for `Normalizer.update_transform`.
    dtype : pyarrow.DataType or None
    """

    normalizer: Normalizer
    using: Using = "running"
    dtype: Any = None

    @property
    def lanes(self) -> Collection[str]:
        """Names of what is normalized."""
        return self.normalizer.lanes

    def schema(self, schema: Any) -> Any:
        """Give the schema that comes out."""
        return self._turned(_nothing(schema)).schema

    def turn(self, names: Sequence[str]) -> Turn:
        """Give the function that turns batches, which must have all columns."""
        del names
        return lambda batch, schema: _retyped(self._turned(batch), schema)

    def _turned(self, data: Any) -> Any:
        return self.normalizer.update_transform(data, using=self.using, dtype=self.dtype)


def _nothing(schema: Any) -> Any:
    return pa.RecordBatchReader.from_batches(schema, [])


def _retyped(batch: Any, schema: Any) -> Any:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def apply_files(
    turns: _Turns,
    plan: Sequence[Output],
    how: Reading,
    encoding: Encoding,
    progress: Progress,
    write: Callable[[Output], contextlib.AbstractContextManager[Any]],
    done: Callable[[Output, int], None] = lambda *_: None,
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
        Is told of each output that has got its name, and of its size in bytes.

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
    alone = not isinstance(turns, Turning) or not _rereadable(plan)
    under_way = ahead(
        _tasks(plan, turns, how, encoding),
        lambda task: task.made(),
        workers=1 if alone else how.threads,
        room=_ROOM,
        size=lambda made: made.size,
    )
    with contextlib.closing(under_way):
        for output, group in itertools.groupby(under_way, lambda pair: pair[0].output):
            stamps = {s.path: (s, s.stamp()) for s in output.sources if s.rereadable}
            sizes = [stamp.size for _, stamp in stamps.values()]
            progress.start_file(output.sources[0].name, sum(sizes) if sizes else None)
            with contextlib.suppress(_NothingLeft):
                with write(output) as file:
                    sink = _Sink(file.write)
                    _append(group, sink, how, progress, skipped)
                    for source, stamp in stamps.values():
                        check_unchanged(source, stamp)
                done(output, sink.size)
            progress.end_file()
    return skipped


def _rereadable(plan: Sequence[Output]) -> bool:
    return all(source.rereadable for output in plan for source in output.sources)


class _NothingLeft(Exception):  # noqa: N818  (nothing went wrong that is not told)
    """Takes an output back, as all that should have gone into it was damaged."""


class _Sink:
    """Where an output's bytes go, counted."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self._write = write
        self.size = 0

    def write(self, data: Any) -> None:
        """Append."""
        self._write(data)
        self.size += len(data)


class _Made(NamedTuple):
    """What a task made: bytes or chunks to append, and what they are made of.

    Attributes
    ----------
    data : bytes or Chunks
    rows, bytes : int
        That were read for it.
    skipped : sequence of Skipped
    """

    data: Any
    rows: int = 0
    bytes: int = 0
    skipped: Sequence[Skipped] = ()

    @property
    def size(self) -> int:
        """What it takes of the room of those that wait."""
        return len(self.data.data if isinstance(self.data, Chunks) else self.data) + 1


def _append(
    group: Iterator[tuple[Any, Iterator[_Made]]],
    sink: _Sink,
    how: Reading,
    progress: Progress,
    skipped: list[Skipped],
) -> None:
    """Append all that is made for one output, and take note of what was left out."""
    assembly: Assembly | None = None
    damaged = -1
    for task, made in group:
        if isinstance(task, _StreamTask):
            for item in made:
                sink.write(item.data)
                progress.add(item.rows, item.bytes)
                skipped += item.skipped
            continue
        block = task.block
        assembly = assembly or task.rewrite.assembly(sink.write)
        if block.group == damaged:
            continue
        try:
            (item,) = made
        except (StreamBNError, OSError) as error:
            if not how.skipping:
                raise
            damaged = block.group
            assembly.drop_group()
            skipped.append(_left_out(task.rewrite.name, block.where, error))
            continue
        assembly.add(item.data)
        progress.add(item.rows, item.bytes)
        if block.last:
            assembly.end_group(item.rows)
    if assembly is not None:
        assembly.close()


def _left_out(name: str, where: str, error: Exception) -> Skipped:
    return Skipped(name, where, str(error).removeprefix(f"{name}: "))


def _tasks(
    plan: Sequence[Output], turns: _Turns, how: Reading, encoding: Encoding
) -> Iterator[_BlockTask | _StreamTask]:
    for output in plan:
        rewrite, blocks = None, None
        if isinstance(turns, Turning) and encoding.group_rows is None:
            # What is wrong with it is told when it is read as a stream.
            with contextlib.suppress(StreamBNError, OSError):
                rewrite = _rewrite(output, turns, encoding)
                blocks = rewrite and rewrite.source.blocks()
        if rewrite is not None and blocks:
            yield from (_BlockTask(output, rewrite, block) for block in blocks)
        else:
            ahead_of = how.threads if len(plan) == 1 else 1
            yield _StreamTask(output, turns, how, encoding, ahead_of)


# --- Parquet to Parquet ---------------------------------------------------------------


class _Rewrite:
    """A Parquet file that becomes another: what its blocks have in common."""

    def __init__(self, source: ParquetSource, turning: Turning, compression: str | None) -> None:
        self.source, self.name = source, source.name
        self._schema = turning.schema(source.schema)
        self._codecs = compression or codecs_of(source.metadata)
        self._turning = turning
        self._turns: dict[range, tuple[Turn, Any]] = {}

    def made(self, block: Block) -> Chunks:
        """Read a block, turn it and encode it."""
        if block.columns not in self._turns:
            fields = [self._schema.field(i) for i in block.columns]
            turn = self._turning.turn([field.name for field in fields])
            self._turns[block.columns] = turn, pa.schema(fields)
        turn, schema = self._turns[block.columns]
        read = self.source.read(block)
        with located(self.name, block.where):
            batches = [turn(batch, schema) for batch in read]
        return encoded(batches, schema, self._codecs)

    def assembly(self, write: Callable[[Any], Any]) -> Assembly:
        """Begin the file."""
        return Assembly(write, self._schema, self._codecs)


def _rewrite(output: Output, turning: Turning, encoding: Encoding) -> _Rewrite | None:
    """Say how a Parquet file becomes another; None: it is not one that does."""
    source = output.sources[0]
    if output.format is not Format.PARQUET or len(output.sources) > 1 or not source.rereadable:
        return None
    if format_of(source.open, source.name) != (Format.PARQUET, None):
        return None
    opened = ParquetSource(source.open, source.name, source.distant)
    if set(_keys(output, source, turning)) - set(opened.schema.names):
        return None
    return _Rewrite(opened, turning, encoding.compression)


def _keys(output: Output, source: Source, turns: _Turns) -> list[str]:
    """Name the partition keys that become columns of the output."""
    # In a folder's copy they stay where they are, in its path.
    return [key for key in source.keys if not output.mirrored or key in turns.lanes]


class _BlockTask:
    """A block of an output."""

    def __init__(self, output: Output, rewrite: _Rewrite, block: Block) -> None:
        self.output, self.rewrite, self.block = output, rewrite, block

    def made(self) -> Iterator[_Made]:
        """Make its chunks, at once."""
        block = self.block
        rows = block.rows if block.last else 0
        yield _Made(self.rewrite.made(block), rows, block.bytes)


# --- all else: one stream -------------------------------------------------------------


class _Tally:
    """What was read since it was taken note of."""

    def __init__(self) -> None:
        self._rows = self._bytes = self.opened = 0
        self._skipped: list[Skipped] = []

    def count(self, rows: int, bytes: int) -> None:  # noqa: A002
        """Count what was read."""
        self._rows += rows
        self._bytes += bytes

    def skip(self, skipped: Skipped) -> None:
        """Take note of what was left out."""
        self._skipped.append(skipped)

    def made(self, data: Any) -> _Made:
        """Say what some data is made of, and begin to count anew."""
        made = _Made(data, self._rows, self._bytes, self._skipped)
        self._rows, self._bytes, self._skipped = 0, 0, []
        return made


class _Spool:
    """A file object of which the bytes are taken out as they come."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[Any] = []

    def write(self, data: Any) -> int:
        """Keep some bytes."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is nothing behind it."""

    def close(self) -> None:
        """Do nothing: what was written may still be taken."""

    def taken(self) -> bytes:
        """Take out what was written."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


class _StreamTask:
    """An output that is made as one stream, of one source or several."""

    def __init__(
        self, output: Output, turns: _Turns, how: Reading, encoding: Encoding, workers: int
    ) -> None:
        self.output = output
        self._turns, self._how, self._encoding, self._workers = turns, how, encoding, workers

    def made(self) -> Iterator[_Made]:
        """Make its bytes, step by step."""
        tally, spool = _Tally(), _Spool()
        schema, batches = _joined(self.output, self._turns, self._how, self._workers, tally)
        if schema is None:
            yield tally.made(b"")
            raise _NothingLeft
        for _ in _written(spool, schema, batches, self.output, self._encoding):
            yield tally.made(spool.taken())


def _written(
    spool: _Spool, schema: Any, batches: Iterator[Any], output: Output, encoding: Encoding
) -> Iterator[None]:
    source = output.sources[0]
    codec = None
    if source.rereadable:
        kind, codec = format_of(source.open, source.name)
        if kind is output.format is Format.PARQUET and encoding.compression is None:
            codecs = codecs_of(ParquetSource(source.open, source.name, source.distant).metadata)
            encoding = replace(encoding, compression=next(iter(codecs.values()), None))
    file: Any = spool
    if codec is not None and output.mirrored:  # under a name that says so
        file = pa.CompressedOutputStream(pa.PythonFile(spool, "w"), codec)
    try:
        yield from written(file, schema, batches, output.format, encoding)
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


def write_stdout(turns: _Turns, output: Output, how: Reading, progress: Progress) -> list[Skipped]:
    """Write an Arrow IPC stream to standard output, each batch as soon as it is there."""
    tally = _Tally()
    skipped: list[Skipped] = []
    out: Any = sys.stdout.buffer
    progress.start_file(output.sources[0].name)
    workers = how.threads if _rereadable([output]) else 1
    schema, batches = _joined(output, turns, how, workers, tally)

    def counted() -> None:
        made = tally.made(b"")
        progress.add(made.rows, made.bytes)
        skipped.extend(made.skipped)

    if schema is None:
        counted()
        raise StreamBNError("nothing is left to write: all inputs were skipped")
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
    output: Output, turns: _Turns, how: Reading, workers: int, tally: _Tally
) -> tuple[Any, Iterator[Any]]:
    """Read and turn the sources of an output, one after the other; None: none can be read."""

    def streams() -> Iterator[tuple[str, Any]]:
        for source in output.sources:
            try:
                yield source.name, _turned(output, source, turns, how, workers, tally)
            except (StreamBNError, OSError) as error:
                if not how.skipping:
                    raise
                tally.skip(_left_out(source.name, "", error))

    readers = streams()
    first = next(readers, None)
    if first is None:
        return None, iter(())
    joined = outputs.concat(itertools.chain([first], readers))
    return joined.schema, joined


def _turned(
    output: Output, source: Source, turns: _Turns, how: Reading, workers: int, tally: _Tally
) -> Any:
    """Open a source as a stream of batches as they are to go out."""
    keys = _keys(output, source, turns)
    opened = files.open_source(source, keys=keys, csv_types=how.csv_types)
    size = source.stamp().size if source.rereadable else 0
    with located(source.name):
        schema = turns.schema(opened.schema)
        turn = turns.turn(opened.schema.names)

    def turned(batches: Iterator[Any], before: int) -> Iterator[tuple[int, Any]]:
        for batch in batches:
            for start in range(0, max(batch.num_rows, 1), _ROWS):
                part = batch.slice(start, _ROWS)
                with located(source.name, f"after row {before:,}" if before else ""):
                    out = turn(part, schema)
                before += part.num_rows
                yield part, out

    def batches() -> Iterator[Any]:
        rows = 0
        pieces = ahead(
            opened.pieces,
            lambda piece: piece.read(),
            workers=workers,
            room=_ROOM,
            size=lambda batch: int(batch.nbytes),
        )
        with contextlib.closing(pieces):
            for piece, raw in pieces:
                pairs = turned(raw, rows)
                try:
                    if how.skipping and piece.apart:  # nothing of a piece that is damaged
                        pairs = iter(list(pairs))
                    for part, out in pairs:
                        rows += part.num_rows
                        tally.count(part.num_rows, 0 if piece.apart else int(part.nbytes))
                        yield out
                except (StreamBNError, OSError) as error:
                    if not how.skipping:
                        raise
                    after = f"after row {rows:,}" if rows else ""
                    tally.skip(_left_out(source.name, piece.where or after, error))
                if piece.apart:
                    tally.count(0, round(piece.share * size))

    return pa.RecordBatchReader.from_batches(schema, batches())
