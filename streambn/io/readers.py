"""Readers of file formats: each opens a file as pieces, and each piece as record batches.

A piece of a Parquet file is a row group, or several small ones; a piece of an Arrow IPC file
is a record batch. Pieces are independent, so several threads can read them at the same time.
A CSV file or an Arrow IPC stream is a single piece. A reader holds one batch at a time. The
division into pieces and batches depends on the file alone.

Arrow decodes Parquet, CSV and JSON itself, so their offsets and indices are its own.
"""

from __future__ import annotations

import functools
import io
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import pyarrow as pa

from streambn.errors import StreamBNError
from streambn.io.csv_dialect import CsvOptions
from streambn.io.csv_passthrough import Passthrough, PassthroughOf
from streambn.io.csv_reader import CsvReader, open_csv, open_csv_pipe, settle_types
from streambn.io.formats import (
    HEADER_SIZE,
    Format,
    after_row,
    describe_read_errors,
    detect_compression,
    sniff,
)
from streambn.io.ipc_reader import open_ipc_file, open_ipc_stream
from streambn.io.json_reader import open_json
from streambn.io.pieces import ColumnSelector, DataFile, Opener, Piece
from streambn.io.pipes import Pipe
from streambn.io.row_groups import open_parquet, read_row_groups
from streambn.io.value_sizes import has_fixed_size, row_size

__all__ = [
    "PARQUET_ROWS",
    "detect_format",
    "open_file",
    "open_pipe",
    "settle_file",
    "validated",
]

# Rows of a Parquet batch at most. A row group of common size is one batch; row groups with
# less than a quarter of these rows are read together.
PARQUET_ROWS = 1 << 18
# Bytes of a Parquet batch: encoded with all columns counted, and in memory.
_PARQUET_BATCH, _PARQUET_MEMORY = 48 << 20, 32 << 20
_IPC_BUFFER = 1 << 18
# A block of text from a pipe ends so long after its first bytes, even if it is not full. The
# first block, which shows the types, has more time.
_FIRST_BLOCK_SECONDS, _BLOCK_SECONDS = 5.0, 0.05


def detect_format(opener: Opener, name: str) -> tuple[Format, str | None]:
    """Return the format of a file, and the codec that compresses it as a whole, if any."""
    header = _read_header(opener())
    codec = detect_compression(header)
    if codec is not None:
        try:
            header = _read_header(pa.CompressedInputStream(opener(), codec))
        except (pa.ArrowException, OSError) as error:
            raise StreamBNError(f"{name}: damaged, not readable as {codec}: {error}") from error
    kind = sniff(header, name)
    if codec is not None and kind is Format.PARQUET:
        raise StreamBNError(
            f"{name} is a Parquet file compressed by {codec} as a whole, which has no random "
            "access: decompress it first"
        )
    return kind, codec


def _read_header(file: Any) -> bytes:
    with file:
        header: bytes = file.read(HEADER_SIZE)
        return header


def open_file(
    opener: Opener,
    name: str,
    select_columns: ColumnSelector | None = None,
    csv: CsvOptions | None = None,
    settled: Mapping[str, Any] | None = None,
    passthrough: PassthroughOf | None = None,
    *,
    remote: bool = False,
    keep_damaged: bool = False,
) -> DataFile:
    """Open a file of any format.

    Parameters
    ----------
    opener : callable
        Opens the file for random access. Each thread that reads calls it once.
    name : str
        Name of the file in messages.
    select_columns : callable, optional
        Returns the columns to read of a Parquet or Arrow IPC file, given the schema. Other
        formats are read whole.
    csv : CsvOptions, optional
        How to read CSV.
    settled : mapping of str to pyarrow.DataType, optional
        Types of CSV columns that `settle_types` found.
    passthrough : Passthrough or callable, optional
        The CSV columns that keep their text. Default: none.
    remote : bool
        Whether a read has a high latency, as over a network. Then reads are few and large.
    keep_damaged : bool
        Whether a `Damaged` stands for each damaged batch of an Arrow IPC stream. By default it
        raises its error.

    Raises
    ------
    StreamBNError
        The file is empty, of an unknown format, damaged or truncated. Damage to a piece is
        raised when the piece is read.
    """
    kind, codec = detect_format(opener, name)
    with describe_read_errors(name, kind):
        if kind is Format.PARQUET:
            return _open_parquet(opener, name, select_columns, remote)
        if kind is Format.IPC_FILE and codec is None:
            return open_ipc_file(opener, name, select_columns)
        stream = functools.partial(_open_stream, opener, codec)
        if kind is Format.JSON:
            types = (csv or CsvOptions()).types
            reader = open_json(stream().read, name, types, lambda: stream().read, passthrough)
        elif kind is Format.CSV:
            reader = open_csv(stream, name, csv or CsvOptions(), settled, passthrough)
        else:
            file = stream()
            if kind is Format.IPC_FILE:
                file.read(8)  # after the magic bytes, an IPC file is an IPC stream
            # An unbuffered file is read several times for each batch. Arrow's own buffer would
            # fill as much memory as a damaged message declares.
            buffered = io.BufferedReader(file, _IPC_BUFFER)
            reader = pa.ipc.open_stream(pa.PythonFile(buffered, "r"))
            return open_ipc_stream(reader, name, kind, keep_damaged)
        return _single_piece(reader, name, kind)


def settle_file(
    opener: Opener, name: str, csv: CsvOptions, passthrough: Passthrough | None = None
) -> Mapping[str, Any]:
    """Read a file, and return a type for each CSV column that all its values fit."""
    kind, codec = detect_format(opener, name)
    if kind is not Format.CSV:
        return {}
    with describe_read_errors(name, kind):
        stream = functools.partial(_open_stream, opener, codec)
        return settle_types(stream, name, csv, passthrough)


def _open_stream(opener: Opener, codec: str | None) -> Any:
    """Open the decompressed bytes of a file."""
    return opener() if codec is None else pa.CompressedInputStream(opener(), codec)


def open_pipe(
    pipe: Any,
    name: str,
    csv: CsvOptions | None = None,
    passthrough: PassthroughOf | None = None,
    *,
    keep_damaged: bool = False,
) -> DataFile:
    """Open a stream of Arrow IPC, CSV or newline-delimited JSON that cannot be rewound.

    Parameters
    ----------
    pipe : binary file object
        Standard input or a named pipe, unbuffered. The caller closes it.
    name : str
        Name of the pipe in messages.
    csv : CsvOptions, optional
        How to read CSV.
    passthrough : Passthrough or callable, optional
        The CSV columns that keep their text. Default: none.
    keep_damaged : bool
        See `open_file`.
    """
    options = csv or CsvOptions()
    source = Pipe(pipe)
    if (codec := detect_compression(source.head(8))) is not None:
        source = Pipe(pa.CompressedInputStream(pa.PythonFile(source, "r"), codec))
    kind = sniff(source.head(8), name)
    if kind is Format.JSON:
        waits = itertools.chain([_FIRST_BLOCK_SECONDS], itertools.repeat(_BLOCK_SECONDS))
        json = open_json(
            lambda count: source.gather(count, next(waits)),
            name,
            options.types,
            passthrough=passthrough,
        )
        return _single_piece(json, name, kind, lambda: False)
    with describe_read_errors(name, kind):
        if kind is Format.CSV:
            text = _interruptible(lambda: open_csv_pipe(source, name, options, passthrough))
            return _single_piece(_InterruptibleReader(text), name, kind, lambda: False)
        if kind is Format.IPC_STREAM:
            ready = source.has_message if codec is None else None
            reader = pa.ipc.open_stream(source)
            return open_ipc_stream(reader, name, kind, keep_damaged, ready or (lambda: False))
    raise StreamBNError(
        f"{kind.value}, but through a pipe only an Arrow IPC stream, CSV and newline-delimited "
        "JSON can be read: save the data to a file and name the file",
        source=name,
    )


T = TypeVar("T")


def _interruptible(call: Callable[[], T]) -> T:
    """Return the result of a call that waits in Arrow for a pipe.

    Arrow reads CSV on a thread of its own. Python handles no signal in a thread that waits for
    it, so the wait for the result is one of Python's.
    """
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    result, error = results.get()
    if error is not None:
        raise error
    return cast("T", result)


class _InterruptibleReader:
    """The batches of a reader, in waits that a signal ends."""

    def __init__(self, reader: CsvReader) -> None:
        self.schema, self._batches = reader.schema, iter(reader)
        self.kept_text, self.passthrough = reader.kept_text, reader.passthrough

    def __iter__(self) -> Iterator[Any]:
        while (batch := _interruptible(lambda: next(self._batches, None))) is not None:
            yield batch
            del batch


# --- Parquet --------------------------------------------------------------------------


def _open_parquet(
    opener: Opener, name: str, select_columns: ColumnSelector | None, remote: bool
) -> DataFile:
    file = open_parquet(opener, remote=remote)
    unused = [file]  # one thread at a time reads a file: the first piece takes this one
    schema: Any = file.schema_arrow
    metadata = file.metadata
    columns = select_columns(schema) if select_columns else None
    if columns is not None:
        columns = sorted(columns, key=schema.names.index)  # a batch keeps the order asked for
        schema = pa.schema([f for f in schema if f.name in columns], schema.metadata)
    row_groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in row_groups)
    encoded = _PARQUET_BATCH * metadata.num_rows // max(size, 1)
    batch_rows = max(min(PARQUET_ROWS, encoded, _PARQUET_MEMORY // max(row_size(schema), 1)), 1)
    reopen = None
    if not all(map(has_fixed_size, schema.types)):
        reopen = functools.partial(open_parquet, opener, metadata, remote=remote)
    ranges = _join_small([group.num_rows for group in row_groups], batch_rows // 4)

    def piece(groups: range, rows: int) -> Piece:
        where = f"in row group {groups[0]}"
        if len(groups) > 1:
            where = f"in row groups {groups[0]} to {groups[-1]}"
        # Threads read the row groups of a file side by side. The columns of a single large
        # one are decoded side by side instead.
        parallel = len(ranges) == 1 and rows > batch_rows

        def read() -> Iterator[Any]:
            with describe_read_errors(name, Format.PARQUET, where):
                try:
                    part = unused.pop()
                except IndexError:
                    part = open_parquet(opener, metadata, remote=remote)
                batches = read_row_groups(
                    part, groups, columns, rows, batch_rows, reopen=reopen, use_threads=parallel
                )
            return validated(batches, name, Format.PARQUET, lambda _: where)

        return Piece(where, read, rows / max(metadata.num_rows, 1), True)

    return DataFile(Format.PARQUET, schema, [piece(groups, rows) for groups, rows in ranges])


def _join_small(rows: list[int], enough: int) -> list[tuple[range, int]]:
    """Divide row groups into ranges of at least `enough` rows, each with its number of rows."""
    ranges, start, total = [], 0, 0
    for index, count in enumerate(rows):
        total += count
        if total >= enough or index == len(rows) - 1:
            ranges.append((range(start, index + 1), total))
            start, total = index + 1, 0
    return ranges


# --- all formats ----------------------------------------------------------------------


def _single_piece(
    reader: Any, name: str, kind: Format, ready: Callable[[], bool] | None = None
) -> DataFile:
    def read() -> Iterator[Any]:
        return validated(reader, name, kind, after_row)

    piece = Piece("", read, 1.0, independent=False, ready=ready)
    if isinstance(reader, CsvReader | _InterruptibleReader):
        return DataFile(kind, reader.schema, [piece], reader.kept_text, reader.passthrough)
    return DataFile(kind, reader.schema, [piece])


def validated(
    batches: Iterable[Any],
    name: str,
    kind: Format,
    where: Callable[[int], str],
) -> Iterator[Any]:
    """Yield batches after Arrow has validated them.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
    name : str
        Name of the file in messages.
    kind : Format
    where : callable
        Returns the place in the file for messages, given the number of rows before it.
    """
    rows = 0
    # One context for all batches: one for each would take as long as a small batch. No error of
    # the consumer enters a generator.
    with describe_read_errors(name, kind, lambda: where(rows)):
        for batch in batches:
            batch.validate()
            rows += batch.num_rows
            yield batch
            del batch  # releases it before the next one is read
