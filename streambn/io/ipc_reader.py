"""Readers of Arrow IPC files and streams.

The offsets, indices and run ends of Arrow IPC come from the file as they are. The readers validate
each batch in full before anything else reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from streambn.arrow import Validator, has_run_ends
from streambn.errors import StreamBNError
from streambn.io.formats import Format, after_row, describe_read_errors
from streambn.io.pieces import ColumnSelector, Damaged, DataFile, Opener, Piece

__all__ = ["open_ipc_file", "open_ipc_stream"]

# Rows of a batch with run-end-encoded columns at most, because a run of any length takes no more
# memory than a short one until it is decoded.
_RUN_ROWS = 1 << 20


def open_ipc_file(opener: Opener, name: str, select_columns: ColumnSelector | None) -> DataFile:
    """Open an Arrow IPC file: each record batch is a piece."""
    with pa.ipc.open_file(opener()) as first:
        schema, count = first.schema, first.num_record_batches
    options = None
    selected = select_columns(schema) if select_columns else None
    if selected is not None and len(set(schema.names)) == len(schema):
        options = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(c) for c in selected])
        schema = pa.schema([f for f in schema if f.name in selected], schema.metadata)
    thread = threading.local()

    def piece(index: int) -> Piece:
        where = _batch_place(index)

        def read() -> Iterator[Any]:
            with describe_read_errors(name, Format.IPC_FILE, where):
                if not hasattr(thread, "reader"):
                    thread.reader = pa.ipc.open_file(opener(), options=options)
                    thread.validator = Validator()  # a reader has dictionaries of its own
                batch = thread.reader.get_batch(index)
                thread.validator.check(batch)
            return _parts(batch)

        return Piece(where, read, 1 / count, independent=True)

    return DataFile(Format.IPC_FILE, schema, [piece(index) for index in range(count)])


def _batch_place(index: int) -> str:
    return f"in record batch {index}"


def open_ipc_stream(
    reader: Any,
    name: str,
    kind: Format,
    keep_damaged: bool,
    ready: Callable[[], bool] | None = None,
) -> DataFile:
    """Return an open stream as a single piece.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
    name : str
        Name of the file in messages.
    kind : Format
        Its format. An IPC file that is compressed as a whole is read as a stream too.
    keep_damaged : bool
        Whether to yield a `Damaged` for a damaged batch instead of raising its error.
    ready : callable, optional
        See `Piece`.
    """
    validator = Validator()

    def damaged(error: Exception, number: int) -> Damaged:
        where = _batch_place(number)
        try:
            with describe_read_errors(name, kind, where):
                raise error
        except StreamBNError as described:
            if not keep_damaged:
                raise
            return Damaged(where, described)

    def read() -> Iterator[Any]:
        rows = 0
        with describe_read_errors(name, kind, lambda: after_row(rows)):
            for number, batch in enumerate(reader):
                try:
                    validator.check(batch)
                except (pa.ArrowException, UnicodeDecodeError) as error:
                    yield damaged(error, number)
                else:
                    rows += batch.num_rows
                    yield from _parts(batch)
                del batch  # releases it before the next one is read

    piece = Piece("", read, 1.0, independent=False, ready=ready)
    return DataFile(kind, reader.schema, [piece])


def _parts(batch: Any) -> Iterator[Any]:
    """Yield a batch, in parts if it may be much larger when it is decoded."""
    if batch.num_rows <= _RUN_ROWS or not has_run_ends(batch.schema):
        yield batch
        return
    for start in range(0, batch.num_rows, _RUN_ROWS):
        yield batch.slice(start, _RUN_ROWS)
