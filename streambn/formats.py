"""The file formats: told by content, read batch by batch, written by one writer each.

Parquet, Arrow IPC files, Arrow IPC streams and CSV. A reader here is a pair of a schema
and an iterator of record batches; it never holds more than the batch under way. Every
complaint of Arrow's readers becomes one line that names the file and the place in it.
"""

from __future__ import annotations

import codecs
import contextlib
import enum
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from streambn.errors import StreamBNError

__all__ = [
    "SUFFIXES",
    "Choose",
    "Format",
    "codec_of",
    "explained",
    "read_file",
    "read_pipe",
    "sniff",
    "write_batches",
]

# A CSV column's type is inferred from the first block, so the block is larger than
# Arrow's megabyte: it then sees more of the file before it decides.
_CSV_BLOCK = 2 << 20
# Arrow's own, less those that spell NaN, which is a number that is none, and not a null.
_CSV_NULLS = ["", "#N/A", "#N/A N/A", "#NA", "N/A", "NA", "NULL", "n/a", "null"]
_PARQUET_ROWS = 65_536
# Without a buffer, Parquet column chunks are read whole: a file of one row group
# would then be held in memory whole.
_PARQUET_BUFFER = 1 << 20
# A Parquet row group is closed at whichever of the two comes first.
_GROUP_ROWS = 1 << 20
_GROUP_BYTES = 32 << 20
# What Arrow writes Parquet with unless told otherwise.
CODEC = "snappy"
# Enough to tell a format, and to see that a text is one.
HEAD = 8192


class Format(enum.Enum):
    """A file format, by the name that messages give it."""

    PARQUET = "Parquet"
    IPC_FILE = "an Arrow IPC file"
    IPC_STREAM = "an Arrow IPC stream"
    CSV = "CSV"


SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.IPC_FILE,
    ".feather": Format.IPC_FILE,
    ".ipc": Format.IPC_FILE,
    ".arrows": Format.IPC_STREAM,
    ".csv": Format.CSV,
}

# Given a schema, the top-level columns that are needed, or None for all of them.
Choose = Callable[[Any], list[str] | None]
_Opened = tuple[Any, Iterable[Any]]


def sniff(head: bytes, name: str) -> Format:
    """Tell the format by a file's first bytes.

    Raises
    ------
    StreamBNError
        There are none, or they are of no format that can be read.
    """
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    if head.startswith(b"ARROW1"):
        return Format.IPC_FILE
    if head.startswith(b"\xff\xff\xff\xff"):
        return Format.IPC_STREAM
    if _is_csv(head):
        return Format.CSV
    what = "is in a format unknown here" if head else "is empty"
    raise StreamBNError(
        f"{name} {what}; what can be read is Parquet, an Arrow IPC file, an Arrow IPC stream, "
        "and CSV in UTF-8"
    )


def _is_csv(head: bytes) -> bool:
    """Whether this may be CSV: UTF-8 without control characters, and not JSON."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    control = re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)
    return control is None and re.match(r"\s*[^\s{\[]", text) is not None


def read_file(
    path: str, choose: Choose | None = None, csv_types: Mapping[str, Any] | None = None
) -> _Opened:
    """Open a file by its content.

    Parameters
    ----------
    path : str
        A regular file.
    choose : callable, optional
        Names the needed columns, given the schema; a Parquet file then reads no others.
    csv_types : mapping of str to pyarrow.DataType, optional
        Types of CSV columns that are not to be inferred.

    Returns
    -------
    (pyarrow.Schema, iterator of pyarrow.RecordBatch)

    Raises
    ------
    StreamBNError
        The file is empty, of an unknown format, damaged or truncated; damage further
        on is raised when the iterator arrives there.
    """
    with open(path, "rb") as file:
        kind = sniff(file.read(HEAD), path)
    with explained(path, kind):
        if kind is Format.PARQUET:
            schema, batches = _open_parquet(path, choose)
        elif kind is Format.IPC_FILE:
            schema, batches = _open_ipc_file(path)
        elif kind is Format.IPC_STREAM:
            schema, batches = _open_ipc_stream(pa.OSFile(path, "r"))
        else:
            schema, batches = _open_csv(path, csv_types or {})
    return schema, _told(batches, path, kind, schema.names)


def read_pipe(pipe: Any, name: str) -> _Opened:
    """Open what cannot be rewound, which must carry an Arrow IPC stream.

    Parameters
    ----------
    pipe : io.BufferedReader
        Standard input or a named pipe; closing it is for the caller.
    name : str
        What messages call it.
    """
    kind = sniff(pipe.peek(8), name)
    if kind is not Format.IPC_STREAM:
        raise StreamBNError(
            f"{name} holds {kind.value}, but through a pipe only an Arrow IPC stream can be read: "
            "save it to a file and give the file's name"
        )
    with explained(name, kind):
        schema, batches = _open_ipc_stream(pipe)
    return schema, _told(batches, name, kind, schema.names)


def _open_parquet(path: str, choose: Choose | None) -> _Opened:
    import pyarrow.parquet as pq  # noqa: PLC0415  (only if a Parquet file is met)

    file = pq.ParquetFile(
        pa.OSFile(path, "r"),
        buffer_size=_PARQUET_BUFFER,
        pre_buffer=False,
        page_checksum_verification=True,
    )
    schema: Any = file.schema_arrow
    columns = choose(schema) if choose else None
    if columns is not None:
        schema = pa.schema([f for f in schema if f.name in columns], schema.metadata)
    if file.num_row_groups == 0:  # of which older Arrow cannot make no batches
        return schema, ()
    return schema, file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns)


def _open_ipc_file(path: str) -> _Opened:
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = pa.ipc.open_file(pa.py_buffer(mapped))

    def batches() -> Iterator[Any]:
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
            # Pages once read would count as this process's memory until the file's
            # end; dropped here, they stay in the system's cache.
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    return reader.schema, batches()


def _open_ipc_stream(file: Any) -> _Opened:
    reader = pa.ipc.open_stream(file)
    return reader.schema, reader


def _open_csv(path: str, types: Mapping[str, Any]) -> _Opened:
    from pyarrow import csv  # noqa: PLC0415  (only if a CSV file is met)

    file: Any = pa.OSFile(path, "r")  # given the path, Arrow would go by its extension
    reader = csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=_CSV_BLOCK),
        # Line breaks in quotes are data; in a table of one column, so is an empty line.
        parse_options=csv.ParseOptions(
            newlines_in_values=True, ignore_empty_lines=_has_several_columns(path)
        ),
        convert_options=csv.ConvertOptions(column_types=dict(types), null_values=_CSV_NULLS),
    )
    return reader.schema, reader


def _has_several_columns(path: str) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return "," in file.readline()


def _told(batches: Iterable[Any], name: str, kind: Format, columns: list[str]) -> Iterator[Any]:
    """Pass sound batches on; tell an error with the file and the place in it."""
    iterator = iter(batches)
    rows = 0
    while True:
        with explained(name, kind, rows, columns):
            batch = next(iterator, None)
            if batch is None:
                return
            batch.validate()
        yield batch
        rows += batch.num_rows


@contextlib.contextmanager
def explained(
    name: str, kind: Format, rows: int = 0, columns: list[str] | None = None
) -> Iterator[None]:
    """Turn what Arrow says of a file into one line that names it and what helps."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        said = str(error).strip().partition("\n")[0]
        where = f" after row {rows:,}" if rows else ""
        misfit = re.match(r"In CSV column #(\d+): (.*conversion error.*)", said)
        if misfit is None:
            raise StreamBNError(
                f"{name}: damaged or truncated, not readable as {kind.value}{where}: {said}"
            ) from error
        number = int(misfit[1])
        column = columns[number] if columns else f"#{number}"
        likely = "timestamp[us]" if re.search(r"to (date|timestamp)", misfit[2]) else "double"
        raise StreamBNError(
            f"{name}: column {column!r}: a value{where} does not fit the type that the first rows "
            f"suggest ({misfit[2]}); name the type: --csv-type {column}={likely}, or string"
        ) from error


# --- writing --------------------------------------------------------------------------


def write_batches(file: Any, reader: Any, kind: Format, codec: str) -> None:
    """Write a whole stream into an open file.

    Parameters
    ----------
    file : binary file object
        Where to.
    reader : pyarrow.RecordBatchReader
        What; its schema's metadata is kept where the format can hold it.
    kind : Format
        In which format.
    codec : str
        Compression of Parquet pages.
    """
    with _writer(file, reader.schema, kind, codec) as writer:
        if kind is Format.PARQUET:
            for group in _row_groups(reader):
                writer.write_table(group, row_group_size=_GROUP_ROWS)
        else:
            for batch in reader:
                writer.write_batch(batch)


def _writer(file: Any, schema: Any, kind: Format, codec: str) -> Any:
    if kind is Format.IPC_FILE:
        return pa.ipc.new_file(file, schema)
    if kind is Format.IPC_STREAM:
        return pa.ipc.new_stream(file, schema)
    if kind is Format.CSV:
        from pyarrow import csv  # noqa: PLC0415

        return csv.CSVWriter(file, schema)
    import pyarrow.parquet as pq  # noqa: PLC0415

    # Normalized values hardly ever repeat: a dictionary of them costs time and space.
    repeating: Any = [path for f in schema for path in _repeating(f, f.name)]
    options: dict[str, Any] = {"compression": codec, "use_dictionary": repeating}
    return pq.ParquetWriter(file, schema, write_page_checksum=True, **options)


def _repeating(column: Any, path: str) -> Iterator[str]:
    """Yield the paths of the leaves that are not floating point."""
    type_ = column.type
    if pa.types.is_struct(type_):
        for child in type_:
            yield from _repeating(child, f"{path}.{child.name}")
    elif not pa.types.is_nested(type_) and not pa.types.is_floating(type_):
        yield path


def _row_groups(reader: Any) -> Iterator[Any]:
    """Gather batches into tables that are worth a row group each."""
    batches: list[Any] = []
    rows = size = 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.Table.from_batches(batches, reader.schema)
            batches, rows, size = [], 0, 0
    if batches:
        yield pa.Table.from_batches(batches, reader.schema)


def codec_of(path: str) -> str:
    """Name the compression of a Parquet file; for any other, Arrow's default."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    with contextlib.suppress(pa.ArrowException, OSError, IndexError):
        metadata = pq.read_metadata(path)
        codec = str(metadata.row_group(0).column(0).compression).lower()
        return {"uncompressed": "none", "lz4_raw": "lz4"}.get(codec, codec)
    return CODEC
