"""Writers of file formats, and the encoding of Parquet."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.io.csv_writer import CsvWriter
from streambn.io.formats import Format
from streambn.io.joins import Joined
from streambn.io.json_writer import JsonWriter

pq = lazy_module("pyarrow.parquet")

__all__ = ["Encoding", "OutputBuffer", "parquet_writer", "write_batches"]

# A row group ends at the first of these two limits, unless its number of rows is set.
_GROUP_ROWS = 1 << 20
_GROUP_BYTES = 32 << 20


class Encoding(NamedTuple):
    """The encoding of Parquet files.

    Attributes
    ----------
    compression : str or None
        Codec of the pages; None for that of the input, or else Arrow's default, snappy.
    group_rows : int or None
        Rows of a row group; None for those of the input, or else as many as make 32 MB.
    """

    compression: str | None = None
    group_rows: int | None = None


class OutputBuffer:
    """A file object that keeps what is written until it is taken out."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        """Append a copy of `data`."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: the bytes can still be taken out."""

    def take(self) -> bytes:
        """Return the bytes written since the last call, and forget them."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def write_batches(
    file: Any, schema: Any, batches: Iterable[Joined], kind: Format, encoding: Encoding
) -> Generator[None, None, None]:
    """Write a stream into an open file, step by step.

    Parameters
    ----------
    file : binary file object
    schema : pyarrow.Schema
        Its metadata is kept if the format can hold it.
    batches : iterable of Joined
        Arrow IPC keeps the batches that were joined.
    kind : Format
    encoding : Encoding
        Used for Parquet.

    Yields
    ------
    None
        After the header, after every write, and after the end of the file.
    """
    if kind is Format.PARQUET:
        with parquet_writer(file, schema, encoding.compression) as writer:
            whole = (joined.batch for joined in batches)
            for group in _row_groups(schema, whole, encoding.group_rows):
                writer.write_table(group, row_group_size=max(group.num_rows, 1))
                yield
    else:
        writer = _writer(file, schema, kind)
        yield
        for joined in batches:
            if kind in (Format.IPC_FILE, Format.IPC_STREAM):
                _write_parts(writer, joined)
            else:
                writer.write_batch(joined.batch)
            yield
        # Not in a `finally`: after a failure, a stream must not end as if it were complete.
        writer.close()
    yield


def _write_parts(writer: Any, joined: Joined) -> None:
    """Write the batches that were joined; `writer` is one of Arrow IPC."""
    if len(joined.cuts) == 1:
        writer.write_batch(joined.batch)
        return
    start = 0
    for rows, equal in itertools.groupby(joined.cuts):
        count = len(list(equal))
        part = joined.batch.slice(start, rows * count)
        start += rows * count
        if rows:  # Arrow divides the part, which takes a fraction of the time
            writer.write_table(pa.Table.from_batches([part]), max_chunksize=rows)
        else:
            for _ in range(count):
                writer.write_batch(part)


def _writer(file: Any, schema: Any, kind: Format) -> Any:
    if kind is Format.IPC_FILE:
        return pa.ipc.new_file(file, schema)
    if kind is Format.IPC_STREAM:
        return pa.ipc.new_stream(file, schema)
    if kind is Format.JSON:
        return JsonWriter(file, schema)
    return CsvWriter(file, schema)


def parquet_writer(file: Any, schema: Any, compression: str | dict[str, str] | None) -> Any:
    """Open a Parquet writer with encodings that suit normalized values."""
    # Normalized values rarely repeat, so a dictionary of them costs time and space.
    repeating: Any = [path for f in schema for path in _repeating(f, f.name)]
    options: dict[str, Any] = {"compression": compression or "snappy", "use_dictionary": repeating}
    return pq.ParquetWriter(file, schema, **options)


def _repeating(column: Any, path: str) -> Iterator[str]:
    """Yield the paths of the leaf columns that are not floating point."""
    type_ = column.type
    if pa.types.is_struct(type_):
        for child in type_:
            yield from _repeating(child, f"{path}.{child.name}")
    elif pa.types.is_list(type_) or pa.types.is_large_list(type_):
        yield from _repeating(type_.value_field, f"{path}.list.element")
    elif not pa.types.is_nested(type_) and not pa.types.is_floating(type_):
        yield path


def _row_groups(schema: Any, batches: Iterable[Any], group_rows: int | None) -> Iterator[Any]:
    """Join batches into tables of one row group each."""
    waiting: list[Any] = []
    rows = size = 0
    for batch in batches:
        rest = batch
        while group_rows is not None and rows + rest.num_rows > group_rows:
            waiting.append(rest.slice(0, group_rows - rows))
            rest = rest.slice(group_rows - rows)
            yield pa.Table.from_batches(waiting, schema)
            waiting, rows, size = [], 0, 0
        waiting.append(rest)
        rows += rest.num_rows
        size += rest.nbytes
        full = rows >= _GROUP_ROWS or size >= _GROUP_BYTES
        if rows == group_rows or (group_rows is None and full):
            yield pa.Table.from_batches(waiting, schema)
            waiting, rows, size = [], 0, 0
    if rows:
        yield pa.Table.from_batches(waiting, schema)
