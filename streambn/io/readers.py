"""Files read in pieces: each on its own where the format allows it, batch by batch.

A Parquet file is read by row groups, an Arrow IPC file by record batches, and several of
these pieces can be read at once; a CSV file or an Arrow IPC stream is one piece. No more
is in memory than the batch under way. How a file is cut into pieces, and these into
batches, follows from the file alone.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.errors import StreamBNError
from streambn.io.formats import HEAD, Format, after, compression_of, explained, sniff

__all__ = [
    "PARQUET_ROWS",
    "Choose",
    "Opened",
    "Opener",
    "Piece",
    "format_of",
    "open_file",
    "open_pipe",
    "parquet_file",
    "sound",
]

# A CSV column's type is inferred from the first block, so the block is larger than
# Arrow's megabyte: it then sees more of the file before it decides.
_CSV_BLOCK = 2 << 20
# Arrow's own, less those that spell NaN, which is a number that is none, and not a null.
_CSV_NULLS = ["", "#N/A", "#N/A N/A", "#NA", "N/A", "NA", "NULL", "n/a", "null"]
# Rows of a batch of Parquet; row groups that have fewer are read several at a time.
PARQUET_ROWS = 65_536
# Without a buffer, Parquet column chunks are read whole: a file of one row group would
# then be held in memory whole. This one stays in the cache: 16 columns of 3M rows are
# decoded in 0.18 s, with a buffer of a megabyte in 0.21 s.
_PARQUET_BUFFER = 1 << 16

# Milliseconds after which a signal is heard at the latest while nothing comes.
_LISTENS = 500

# Given a schema, the top-level columns that are needed, or None for all of them.
Choose = Callable[[Any], list[str] | None]
# Opens the file once more, for random access.
Opener = Callable[[], Any]


class Piece(NamedTuple):
    """A part of a file.

    Attributes
    ----------
    where : str
        What messages call it, such as "row group 3"; "" if it is the whole file.
    read : callable
        Reads it: gives its batches. Of the only piece of a file, once.
    share : float
        Which part of the file it is, from 0 to 1.
    apart : bool
        Whether the rest of the file can be read although this piece is damaged.
    """

    where: str
    read: Callable[[], Iterator[Any]]
    share: float
    apart: bool


class Opened(NamedTuple):
    """A file that is open: its format, its schema, its pieces in order."""

    kind: Format
    schema: Any
    pieces: list[Piece]


def format_of(opener: Opener, name: str) -> tuple[Format, str | None]:
    """Tell the format of a file, and how it is compressed as a whole, by its content."""
    head = _head(opener())
    codec = compression_of(head)
    if codec is not None:
        try:
            head = _head(pa.CompressedInputStream(opener(), codec))
        except (pa.ArrowException, OSError) as error:
            raise StreamBNError(f"{name}: damaged, not readable as {codec}: {error}") from error
    kind = sniff(head, name)
    if codec is not None and kind is Format.PARQUET:
        raise StreamBNError(
            f"{name} is Parquet compressed by {codec} as a whole, so that nothing in it can be "
            "found without reading all: decompress it first"
        )
    return kind, codec


def _head(file: Any) -> bytes:
    with file:
        head: bytes = file.read(HEAD)
        return head


def open_file(
    opener: Opener,
    name: str,
    choose: Choose | None = None,
    csv_types: Mapping[str, Any] | None = None,
    *,
    distant: bool = False,
) -> Opened:
    """Open a file by its content.

    Parameters
    ----------
    opener : callable
        Opens the file for random access; called once for each thread that reads.
    name : str
        What messages call it.
    choose : callable, optional
        Names the needed columns, given the schema; of Parquet and Arrow IPC files, no
        others are read then.
    csv_types : mapping of str to pyarrow.DataType, optional
        Types of CSV columns that are not to be inferred.
    distant : bool
        Whether each read takes long, as over a network: then few large ones are made.

    Raises
    ------
    StreamBNError
        The file is empty, of an unknown format, damaged or truncated; damage further
        on is raised when its piece is read.
    """
    kind, codec = format_of(opener, name)
    with explained(name, kind):
        if kind is Format.PARQUET:
            return _open_parquet(opener, name, choose, distant)
        if kind is Format.IPC_FILE and codec is None:
            return _open_ipc_file(opener, name, choose)
        file = opener() if codec is None else pa.CompressedInputStream(opener(), codec)
        if kind is Format.CSV:
            schema, batches = _open_csv(file, opener, codec, csv_types or {})
        else:
            if kind is Format.IPC_FILE:
                file.read(8)  # behind its mark, an IPC file is an IPC stream
            schema, batches = _open_ipc_stream(file)
    return Opened(kind, schema, [_only_piece(batches, name, kind, schema.names)])


def open_pipe(pipe: Any, name: str) -> Opened:
    """Open what cannot be rewound, which must carry an Arrow IPC stream.

    Parameters
    ----------
    pipe : binary file object
        Standard input or a named pipe, unbuffered; closing it is for the caller.
    name : str
        What messages call it.
    """
    source = _Pipe(pipe)
    kind = sniff(source.peek(8), name)
    if kind is not Format.IPC_STREAM:
        raise StreamBNError(
            f"{name} holds {kind.value}, but through a pipe only an Arrow IPC stream can be read: "
            "save it to a file and give the file's name"
        )
    with explained(name, kind):
        schema, batches = _open_ipc_stream(source)
    return Opened(kind, schema, [_only_piece(batches, name, kind, schema.names)])


class _Pipe:
    """A pipe as Arrow wants it: as many bytes as were asked for, unless it ends."""

    closed = False

    def __init__(self, raw: Any) -> None:
        self._raw, self._ahead = raw, b""
        self._ready: Callable[[int], Any] | None = None
        with contextlib.suppress(AttributeError, OSError):  # no poll here, or no descriptor
            poll = select.poll()
            poll.register(raw, select.POLLIN)
            self._ready = poll.poll

    def peek(self, count: int) -> bytes:
        """Read, and read the same again."""
        self._ahead = self.read(count)
        return self._ahead

    def read(self, count: int) -> bytes:
        """Read, waiting for all of it."""
        taken, self._ahead = self._ahead[:count], self._ahead[count:]
        parts = [taken]
        missing = count - len(taken)
        while missing and (part := self._some(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts) if len(parts) > 1 else taken

    def _some(self, count: int) -> Any:
        # A signal that strikes just before a read begins is heard when the read ends, which may
        # be never. So nothing is read before there is something, and signals are looked for.
        while self._ready is not None and not self._ready(_LISTENS):
            pass
        return self._raw.read(count)

    def close(self) -> None:
        """Do nothing: it is not ours."""


# --- Parquet --------------------------------------------------------------------------


def parquet_file(opener: Opener, metadata: Any = None, *, distant: bool = False) -> Any:
    """Open a Parquet file so that little of it is in memory at a time."""
    import pyarrow.parquet as pq  # noqa: PLC0415  (only if a Parquet file is met)

    return pq.ParquetFile(
        opener(),
        metadata=metadata,
        buffer_size=0 if distant else _PARQUET_BUFFER,
        pre_buffer=distant,
        page_checksum_verification=True,
    )


def _open_parquet(opener: Opener, name: str, choose: Choose | None, distant: bool) -> Opened:
    file = parquet_file(opener, distant=distant)
    schema: Any = file.schema_arrow
    metadata = file.metadata
    columns = choose(schema) if choose else None
    if columns is not None:
        columns = sorted(columns, key=schema.names.index)  # batches come in the order asked for
        schema = pa.schema([f for f in schema if f.name in columns], schema.metadata)

    def piece(groups: list[int], rows: int) -> Piece:
        where = f"in row group {groups[0]}"
        if len(groups) > 1:
            where = f"in row groups {groups[0]} to {groups[-1]}"

        def read() -> Iterator[Any]:
            with explained(name, Format.PARQUET, where):
                part = parquet_file(opener, metadata, distant=distant)
                batches = part.iter_batches(PARQUET_ROWS, row_groups=groups, columns=columns)
            return sound(batches, name, Format.PARQUET, lambda _: where)

        return Piece(where, read, rows / max(metadata.num_rows, 1), True)

    pieces, groups, rows = [], [], 0
    for index in range(metadata.num_row_groups):
        groups.append(index)
        rows += metadata.row_group(index).num_rows
        if rows >= PARQUET_ROWS or index == metadata.num_row_groups - 1:
            pieces.append(piece(groups, rows))
            groups, rows = [], 0
    return Opened(Format.PARQUET, schema, pieces)


# --- Arrow IPC ------------------------------------------------------------------------


def _open_ipc_file(opener: Opener, name: str, choose: Choose | None) -> Opened:
    # Not mapped into memory: a file that shrinks while it is read would kill the process.
    with pa.ipc.open_file(opener()) as first:
        schema, count = first.schema, first.num_record_batches
    options = None
    chosen = choose(schema) if choose else None
    if chosen is not None and len(set(schema.names)) == len(schema):
        options = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(c) for c in chosen])
        schema = pa.schema([f for f in schema if f.name in chosen], schema.metadata)
    mine = threading.local()

    def piece(index: int) -> Piece:
        where = f"in record batch {index}"

        def read() -> Iterator[Any]:
            with explained(name, Format.IPC_FILE, where):
                if not hasattr(mine, "reader"):
                    mine.reader = pa.ipc.open_file(opener(), options=options)
                batch = mine.reader.get_batch(index)
            return sound((batch,), name, Format.IPC_FILE, lambda _: where)

        return Piece(where, read, 1 / count, apart=True)

    return Opened(Format.IPC_FILE, schema, [piece(index) for index in range(count)])


def _open_ipc_stream(file: Any) -> tuple[Any, Iterable[Any]]:
    reader = pa.ipc.open_stream(file)
    return reader.schema, reader


# --- CSV ------------------------------------------------------------------------------


def _open_csv(
    file: Any, opener: Opener, codec: str | None, types: Mapping[str, Any]
) -> tuple[Any, Iterable[Any]]:
    from pyarrow import csv  # noqa: PLC0415  (only if a CSV file is met)

    start = _head(opener() if codec is None else pa.CompressedInputStream(opener(), codec))
    several = b"," in start.partition(b"\n")[0]
    reader = csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=_CSV_BLOCK),
        # Line breaks in quotes are data; in a table of one column, so is an empty line.
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=several),
        convert_options=csv.ConvertOptions(column_types=dict(types), null_values=_CSV_NULLS),
    )
    return reader.schema, reader


# --- what all have in common ----------------------------------------------------------


def _only_piece(batches: Iterable[Any], name: str, kind: Format, columns: list[str]) -> Piece:
    return Piece("", lambda: sound(batches, name, kind, after, columns), 1.0, apart=False)


def sound(
    batches: Iterable[Any],
    name: str,
    kind: Format,
    where: Callable[[int], str],
    columns: list[str] | None = None,
) -> Iterator[Any]:
    """Pass sound batches on; tell an error with the file and the place in it."""
    iterator = iter(batches)
    rows = 0
    while True:
        with explained(name, kind, where(rows), columns):
            batch = next(iterator, None)
            if batch is None:
                return
            batch.validate()
        rows += batch.num_rows
        yield batch
        del batch  # or it would be held while the next is made
