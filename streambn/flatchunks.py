"""Flat columns of numbers of a Parquet file, decoded by the compiled reader.

Most of what is normalized is stored in the simplest way that Parquet has: numbers at the
top level, plain or in a dictionary, as they are or compressed by Snappy. For these
`streambn.kernels` has a reader that needs about half of the time that Arrow's takes. What
it declines is for Arrow to read: other types and codecs, files that are not on this
machine, and all that seems damaged, so that it is Arrow that tells what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from streambn import kernels

__all__ = ["FlatChunks", "FlatGroup"]

# How the format [1]_ numbers the types in which Arrow's are stored bit by bit.
# .. [1] https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
_STORED = {
    pa.int32(): 1,
    pa.uint32(): 1,
    pa.int64(): 2,
    pa.uint64(): 2,
    pa.float32(): 4,
    pa.float64(): 5,
}


class FlatChunks:
    """The columns of a Parquet file that can be decoded without Arrow.

    Parameters
    ----------
    opener : callable or None
        Opens the file; None: it is not on this machine.
    schema : pyarrow.Schema
        Arrow's of the file.
    metadata : pyarrow.parquet.FileMetaData
    """

    def __init__(self, opener: Callable[[], Any] | None, schema: Any, metadata: Any) -> None:
        self._file: Any = None
        self._chunks: Any = None
        self._fields = _flat(schema, metadata.schema)
        if kernels.FlatFile is None or opener is None or not self._fields:
            return
        self._file = opener()
        if isinstance(self._file, pa.OSFile):
            self._chunks = kernels.FlatFile(self._file.fileno())

    def opened(self, group: int, rows: int, names: Sequence[str]) -> FlatGroup | None:
        """Open columns of a row group.

        Parameters
        ----------
        group : int
        rows : int
            All that it has.
        names : sequence of str
            The columns, in the order of the schema.

        Returns
        -------
        FlatGroup or None
            None: Arrow has to read them.
        """
        if self._chunks is None or not names or not all(name in self._fields for name in names):
            return None
        found = [self._fields[name] for name in names]
        reader = self._chunks.reader(group, rows, [stored for _, stored in found])
        if reader is None:
            return None
        return FlatGroup(self._file, reader, pa.schema([field for field, _ in found]), rows)


def _flat(schema: Any, leaves: Any) -> dict[str, tuple[Any, tuple[int, int, bool]]]:
    """Find the fields that may be flat: of each its place, its type, and may there be nulls."""
    places: dict[str, list[int]] = {}
    for index in range(len(leaves)):
        places.setdefault(leaves.column(index).path, []).append(index)
    flat = {}
    for field in schema:
        # A name with a dot in it may be that of a column in a struct too.
        if field.type in _STORED and len(places.get(field.name, ())) == 1:
            (place,) = places[field.name]
            leaf = leaves.column(place)
            if leaf.max_repetition_level == 0 and leaf.max_definition_level <= 1:
                stored = (place, _STORED[field.type], leaf.max_definition_level == 1)
                flat[field.name] = field, stored
    return flat


class FlatGroup:
    """Columns of a row group, to be decoded once, from the first row on."""

    def __init__(self, file: Any, reader: Any, schema: Any, rows: int) -> None:
        self._file, self._reader, self._schema, self._rows = file, reader, schema, rows

    def batches(self, batch_rows: int, threads: int) -> Iterator[Any]:
        """Decode them.

        Parameters
        ----------
        batch_rows : int
            Rows of a batch; the last one has what is left.
        threads : int
            At most so many decode, a column each.

        Yields
        ------
        pyarrow.RecordBatch
            From the first on; there are fewer than all where Arrow has to go on.
        """
        for start in range(0, self._rows, batch_rows):
            count = min(batch_rows, self._rows - start)
            decoded = self._reader.read(count, threads)
            if decoded is None:
                return
            yield _batch(self._schema, count, *decoded)
            del decoded  # or it would be held while the next is made


def _batch(schema: Any, rows: int, memory: Any, places: Sequence[tuple[int, int, int]]) -> Any:
    arrays = []
    for field, (values, bits, nulls) in zip(schema, places, strict=True):
        size = rows * field.type.byte_width
        valid = pa.foreign_buffer(bits, (rows + 7) // 8, memory) if nulls else None
        buffers = [valid, pa.foreign_buffer(values, size, memory)]
        arrays.append(pa.Array.from_buffers(field.type, rows, buffers, nulls))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
