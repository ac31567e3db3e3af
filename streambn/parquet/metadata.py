"""Read and write the footers of Parquet files.

A Parquet file is a sequence of column chunks and a footer with their offsets. Arrow's writer
encodes columns on several threads, each into a small file in memory. The functions here move
the chunks of these files into one file and write its footer. A footer is a structure in
Thrift's compact protocol [1]_ with the field numbers of the Parquet format [2]_. Fields that
are not listed below are copied.

References
----------
.. [1] https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
.. [2] https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from streambn.errors import StreamBNError

__all__ = [
    "MAGIC",
    "EncodedChunks",
    "Fields",
    "StoredChunk",
    "read_footer",
    "read_stored_chunks",
    "read_struct",
    "shift_offsets",
    "split_file",
    "write_footer",
    "write_struct",
]

# The first and the last bytes of a Parquet file.
MAGIC = b"PAR1"
# Bytes after the footer: its length, and the magic bytes.
_TAIL = 8
# Most footers are read with the end of the file.
_FOOTER = 1 << 16
# The types of the compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _, _STRUCT = range(1, 13)
_INTEGERS = frozenset((_I16, _I32, _I64))
_BOOLEANS = frozenset((_TRUE, _FALSE))

# FileMetaData
_NUM_ROWS, _ROW_GROUPS = 3, 4
# RowGroup
_COLUMNS, _TOTAL_BYTES, _ROWS, _FILE_OFFSET, _COMPRESSED_BYTES = 1, 2, 3, 5, 6
# ColumnChunk
_CHUNK_OFFSET, _META = 2, 3
# ColumnMetaData; the offsets are those of the data, index and dictionary pages
_CODEC, _VALUES, _UNCOMPRESSED, _COMPRESSED, _OFFSETS = 4, 5, 6, 7, (9, 10, 11)
# The fields of a row group that a StoredChunk needs
_STORED = {_COLUMNS: {_META: dict.fromkeys((_CODEC, _VALUES, _UNCOMPRESSED, _COMPRESSED))}}
_CODECS = ("none", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4")

# A structure: {field number: (type, value)}. The value of a list is (type, values).
Fields = dict[int, tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class EncodedChunks:
    """Encoded column chunks of one row group.

    Attributes
    ----------
    data : memoryview
        The bytes of all chunks.
    columns : list
        Their entries in the footer of a file that begins with them.
    """

    data: memoryview
    columns: list[Fields]

    def __len__(self) -> int:
        return len(self.data)


class StoredChunk(NamedTuple):
    """A column chunk in a file: its codec, its number of values, and its sizes in bytes."""

    codec: str
    values: int
    uncompressed: int
    compressed: int


def split_file(file: Any) -> EncodedChunks:
    """Return the column chunks of a Parquet file in memory that has one row group."""
    view = memoryview(file)
    start, footer = read_footer(view)
    _, (group,) = footer[_ROW_GROUPS][1]
    return EncodedChunks(view[len(MAGIC) : start], group[_COLUMNS][1][1])


def read_stored_chunks(file: Any, name: str) -> Iterator[list[StoredChunk]]:
    """Yield the column chunks of each row group of a file, as they are asked for.

    Arrow's own metadata ends the process if certain fields of a chunk are damaged, such as a
    histogram of the wrong length.

    Parameters
    ----------
    file : binary file object
        It is read before the first row group is returned, and not after it.
    name : str
        Name of the file in messages.

    Raises
    ------
    StreamBNError
        The footer is damaged.
    """
    try:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(size - _FOOTER, 0))
        end = file.read(size - start)
        length = _footer_length(end[-_TAIL:])
        if length + _TAIL > len(end):
            file.seek(size - _TAIL - length)
            end = file.read(length + _TAIL)
        reader = _Reader(end[len(end) - _TAIL - length : -_TAIL])
        for group in reader.picked_structs(_ROW_GROUPS, _STORED):
            yield [_stored_chunk(column[_META]) for column in group[_COLUMNS]]
    except (LookupError, TypeError, ValueError, RecursionError, struct.error) as error:
        raise StreamBNError(
            "damaged or truncated, not readable as Parquet: the footer is invalid", source=name
        ) from error


def _stored_chunk(meta: dict[int, Any]) -> StoredChunk:
    codec, *numbers = (meta[field] for field in (_CODEC, _VALUES, _UNCOMPRESSED, _COMPRESSED))
    if codec < 0 or min(numbers) < 0:
        raise ValueError("negative codec, number or size")
    return StoredChunk(_CODECS[codec], *numbers)


def shift_offsets(column: Fields, by: int) -> Fields:
    """Return the footer entry of a column chunk that is moved by so many bytes."""
    meta = dict(column[_META][1])
    out = {**column, _META: (_STRUCT, meta)}
    for fields, numbers in ((meta, _OFFSETS), (out, (_CHUNK_OFFSET,))):
        for number in numbers:
            # An offset of 0 means that there are no such pages.
            if number in fields and fields[number][1]:
                fields[number] = (_I64, fields[number][1] + by)
    return out


def write_footer(template: Any, groups: Iterable[tuple[int, list[Fields]]]) -> bytes:
    """Return the footer of a file, its length, and the magic bytes.

    Parameters
    ----------
    template : pyarrow.Buffer
        A Parquet file without rows that has the schema and the metadata of the new file.
    groups : iterable of (int, list)
        The number of rows of each row group, and the footer entries of its column chunks.
    """
    _, footer = read_footer(memoryview(template))
    row_groups: list[Fields] = []
    total = 0
    for rows, columns in groups:
        metas = [column[_META][1] for column in columns]
        offsets = [metas[0][field][1] for field in _OFFSETS if field in metas[0]]
        row_groups.append(
            {
                _COLUMNS: (_LIST, (_STRUCT, columns)),
                _TOTAL_BYTES: (_I64, sum(meta[_UNCOMPRESSED][1] for meta in metas)),
                _ROWS: (_I64, rows),
                _FILE_OFFSET: (_I64, min((offset for offset in offsets if offset), default=0)),
                _COMPRESSED_BYTES: (_I64, sum(meta[_COMPRESSED][1] for meta in metas)),
            }
        )
        total += rows
    footer[_NUM_ROWS] = (_I64, total)
    footer[_ROW_GROUPS] = (_LIST, (_STRUCT, row_groups))
    out = write_struct(footer)
    return out + struct.pack("<i", len(out)) + MAGIC


def read_footer(file: memoryview) -> tuple[int, Fields]:
    """Return the offset of the footer of a file in memory, and its fields."""
    start = len(file) - _TAIL - _footer_length(file[-_TAIL:])
    return start, read_struct(file[start : len(file) - _TAIL].tobytes())[0]


def _footer_length(tail: Any) -> int:
    length: int = struct.unpack_from("<i", tail)[0]
    return length


# --- Thrift's compact protocol --------------------------------------------------------


def read_struct(data: bytes) -> tuple[Fields, int]:
    """Return the structure at the start of `data`, and its size in bytes.

    Damaged data raises an error of any kind, or gives fields that make no sense.
    """
    reader = _Reader(data)
    return reader.struct(), reader.position


# The fields to read of a structure, by number: those below a structure or a list of structures, and
# None for any other value.
Wanted = dict[int, Any]


def _skip(data: bytes, position: int, type_: int) -> int:
    """Return the position after a value; in a fraction of the time of reading it."""
    if type_ in _INTEGERS:
        while data[position] > 0x7F:
            position += 1
        return position + 1
    if type_ == _BINARY:
        length = data[position]
        if length <= 0x7F:
            return position + 1 + length
        reader = _Reader(data, position)
        reader.value(_BINARY)
        return reader.position
    if type_ == _STRUCT:
        while byte := data[position]:
            position += 1
            type_ = byte & 15
            if byte <= 15:  # the number of the field follows
                position = _skip(data, position, _I64)
            if type_ in _INTEGERS:  # as above: a call takes longer than the loop
                while data[position] > 0x7F:
                    position += 1
                position += 1
            elif type_ == _BINARY and data[position] <= 0x7F:
                position += 1 + data[position]
            elif type_ not in _BOOLEANS:
                position = _skip(data, position, type_)
        return position + 1
    if type_ in (_LIST, _SET):
        kind, count = data[position] & 15, data[position] >> 4
        position += 1
        if count == 15:  # the number of the values follows
            reader = _Reader(data, position - 1)
            _, count = reader.list_header()
            position = reader.position
        if kind in _INTEGERS:  # as above
            for _ in range(count):
                while data[position] > 0x7F:
                    position += 1
                position += 1
            return position
        for _ in range(count):
            position = _skip(data, position, _BYTE if kind in _BOOLEANS else kind)
        return position
    # A boolean field is its type.
    return position + {_DOUBLE: 8, _BYTE: 1}.get(type_, 0)


class _Reader:
    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data, self.position = data, position

    def struct(self) -> Fields:
        fields: Fields = {}
        data, number = self._data, 0
        while byte := data[self.position]:
            self.position += 1
            type_ = byte & 15
            number = number + (byte >> 4) if byte > 15 else self._zigzag()
            if type_ in _INTEGERS:  # most fields
                fields[number] = type_, self._zigzag()
            else:
                fields[number] = type_, self.value(type_)
        self.position += 1
        return fields

    def picked_structs(self, number: int, wanted: Wanted) -> Iterator[dict[int, Any]]:
        """Yield the fields that are wanted of each structure in a list.

        The list is a field of the structure that starts. What follows the list is not read.
        """
        data, here = self._data, 0
        while byte := data[self.position]:
            self.position += 1
            here = here + (byte >> 4) if byte > 15 else self._zigzag()
            if here == number:
                yield from self._picked_list(wanted)
                return
            self.position = _skip(data, self.position, byte & 15)

    def _picked_list(self, wanted: Wanted) -> Iterator[dict[int, Any]]:
        kind, count = self.list_header()
        if kind != _STRUCT:
            raise ValueError("not a list of structures")
        return (self._picked(wanted) for _ in range(count))

    def _picked(self, wanted: Wanted) -> dict[int, Any]:
        """Read a structure, and return the values of the fields that are wanted."""
        fields: dict[int, Any] = {}
        data, number = self._data, 0
        while byte := data[self.position]:
            self.position += 1
            type_ = byte & 15
            number = number + (byte >> 4) if byte > 15 else self._zigzag()
            if number not in wanted:
                self.position = _skip(data, self.position, type_)
                continue
            below = wanted[number]
            if below is None and type_ in _INTEGERS:
                fields[number] = self._zigzag()
            elif below is None:
                fields[number] = self.value(type_)
            elif type_ == _STRUCT:
                fields[number] = self._picked(below)
            else:
                fields[number] = [*self._picked_list(below)]
        self.position += 1
        return fields

    def list_header(self) -> tuple[int, int]:
        """Read the type and the number of the values of a list."""
        header = self._byte()
        count = header >> 4
        count = self._varint() if count == 15 else count
        if count > len(self._data):
            raise ValueError("a list is longer than the data")
        return header & 15, count

    def value(self, type_: int) -> Any:
        if type_ in _INTEGERS:
            return self._zigzag()
        if type_ == _BINARY:
            return self._take(self._varint())
        if type_ == _STRUCT:
            return self.struct()
        if type_ in (_LIST, _SET):
            kind, count = self.list_header()
            if kind in _BOOLEANS:  # a boolean in a list is a byte
                return kind, [self._byte() for _ in range(count)]
            return kind, [self.value(kind) for _ in range(count)]
        if type_ == _DOUBLE:
            return self._take(8)
        # A boolean field is its type. Footers have no maps.
        return self._byte() if type_ == _BYTE else type_ == _TRUE

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _take(self, count: int) -> bytes:
        self.position += count
        return self._data[self.position - count : self.position]

    # The two below take most of the time, so they call nothing.

    def _varint(self) -> int:
        data, position = self._data, self.position
        value = shift = 0
        while (byte := data[position]) > 0x7F:
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
        self.position = position + 1
        return value | byte << shift

    def _zigzag(self) -> int:
        data, position = self._data, self.position
        value = shift = 0
        while (byte := data[position]) > 0x7F:
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
        self.position = position + 1
        value |= byte << shift
        return (value >> 1) ^ -(value & 1)


def write_struct(fields: Fields) -> bytes:
    """Return the bytes of a structure."""
    out = bytearray()
    _write_fields(out, fields)
    return bytes(out)


def _write_fields(out: bytearray, fields: Fields) -> None:
    last = 0
    for number in sorted(fields):
        type_, value = fields[number]
        delta = number - last
        if 0 < delta <= 15:
            out.append(delta << 4 | type_)
        else:
            out.append(type_)
            _write_zigzag(out, number)
        last = number
        _write_value(out, type_, value)
    out.append(0)


def _write_value(out: bytearray, type_: int, value: Any) -> None:
    if type_ in (_I64, _I32, _I16):
        _write_zigzag(out, value)
    elif type_ == _BINARY:
        _write_varint(out, len(value))
        out += value
    elif type_ == _STRUCT:
        _write_fields(out, value)
    elif type_ in (_LIST, _SET):
        kind, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | kind)
        else:
            out.append(0xF0 | kind)
            _write_varint(out, len(values))
        for item in values:
            if kind in _BOOLEANS:
                out.append(item)
            else:
                _write_value(out, kind, item)
    elif type_ == _DOUBLE:
        out += value
    elif type_ == _BYTE:
        out.append(value)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_zigzag(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
