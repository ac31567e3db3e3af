"""The footers of Parquet files, taken apart and put together.

A Parquet file is column chunks one after the other, and a footer that says where they
are. So columns can be encoded on several threads, each into a small file in memory, by
Arrow's own writer; here the chunks of these find their places in one file. A footer is a
structure in Thrift's compact protocol [1]_, whose numbers of fields are those of the
Parquet format [2]_. What is not looked at is passed on as it is.

References
----------
.. [1] https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
.. [2] https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from streambn.errors import StreamBNError

__all__ = [
    "MAGIC",
    "Chunks",
    "Stored",
    "chunks_of",
    "joined",
    "moved",
    "stored_chunks",
    "thrift",
    "varint",
    "with_row_groups",
]

# How a Parquet file begins and ends.
MAGIC = b"PAR1"
# Behind the footer: its length, and the mark.
_TAIL = 8
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

# FileMetaData
_NUM_ROWS, _ROW_GROUPS = 3, 4
# RowGroup
_COLUMNS, _TOTAL_BYTES, _ROWS, _FILE_OFFSET, _COMPRESSED_BYTES = 1, 2, 3, 5, 6
# ColumnChunk
_CHUNK_OFFSET, _META = 2, 3
# ColumnMetaData; the offsets are those of data, index and dictionary pages
_CODEC, _UNCOMPRESSED, _COMPRESSED, _OFFSETS = 4, 6, 7, (9, 10, 11)
_CODECS = ("none", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4")


@dataclass(frozen=True, slots=True)
class Chunks:
    """Column chunks of one row group, encoded.

    Attributes
    ----------
    data : list of buffer
        Their bytes, in parts.
    columns : list
        What the footer says of each, with the offsets that they would have in a file of
        their own.
    """

    data: list[Any]
    columns: list[Any]

    def __len__(self) -> int:
        return sum(map(len, self.data))


# A structure is {number of field: (type, value)}; a list, (type, values).
_Fields = dict[int, tuple[int, Any]]


def chunks_of(file: Any) -> Chunks:
    """Take the column chunks out of a whole Parquet file of one row group.

    Parameters
    ----------
    file : pyarrow.Buffer
        The file's bytes, as Arrow's writer made them.
    """
    view = memoryview(file)
    start, footer = _footer(view)
    _, (group,) = footer[_ROW_GROUPS][1]
    return Chunks([view[len(MAGIC) : start]], group[_COLUMNS][1][1])


def joined(pieces: Sequence[Chunks]) -> Chunks:
    """Put chunks of the same rows behind one another."""
    parts: list[Any] = []
    columns: list[_Fields] = []
    size = 0
    for piece in pieces:
        parts += piece.data
        columns += [moved(column, size) for column in piece.columns]
        size += len(piece)
    return Chunks(parts, columns)


class Stored(NamedTuple):
    """How a column chunk is stored: by which codec, and its bytes before and after it."""

    codec: str
    uncompressed: int
    compressed: int


def stored_chunks(file: Any, name: str) -> list[list[Stored]]:
    """Say how the columns of each row group of a file are stored.

    Arrow would say it too, but where what it knows of a chunk is damaged, such as a histogram of
    the wrong length, it ends the process.

    Parameters
    ----------
    file : binary file object
        Somebody's, so the footer may be damaged.
    name : str
        What messages call it.

    Raises
    ------
    StreamBNError
        The footer makes no sense.
    """
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - _TAIL)
        length = _footer_length(file.read(_TAIL))
        file.seek(size - _TAIL - length)
        footer = _Reader(file.read(length)).struct()
        groups = [group[_COLUMNS][1][1] for group in footer[_ROW_GROUPS][1][1]]
        return [[_stored(column[_META][1]) for column in columns] for columns in groups]
    except (LookupError, TypeError, ValueError, RecursionError, struct.error) as error:
        raise StreamBNError(
            f"{name}: damaged or truncated, not readable as Parquet: its footer makes no sense"
        ) from error


def _stored(meta: _Fields) -> Stored:
    codec, *sizes = (meta[field][1] for field in (_CODEC, _UNCOMPRESSED, _COMPRESSED))
    if min(codec, *sizes) < 0:
        raise ValueError("there is nothing less than nothing")
    return Stored(_CODECS[codec], *sizes)


def moved(column: _Fields, by: int) -> _Fields:
    """Say of a column chunk that it lies `by` bytes further on."""
    meta = dict(column[_META][1])
    out = {**column, _META: (_STRUCT, meta)}
    for fields, names in ((meta, _OFFSETS), (out, (_CHUNK_OFFSET,))):
        for field in names:
            # 0 is where nothing is: the pages of no rows, or what is deprecated.
            if field in fields and fields[field][1]:
                fields[field] = (_I64, fields[field][1] + by)
    return out


def with_row_groups(empty: Any, groups: Iterable[tuple[int, list[_Fields]]]) -> bytes:
    """Make the end of a file: footer, its length, the mark.

    Parameters
    ----------
    empty : pyarrow.Buffer
        A Parquet file without rows, of the schema and the metadata that are wanted.
    groups : iterable of (int, list)
        Rows, and the columns of a row group, moved to where they are in the file.
    """
    _, footer = _footer(memoryview(empty))
    made, total = [], 0
    for rows, columns in groups:
        metas = [column[_META][1] for column in columns]
        offsets = [metas[0][field][1] for field in _OFFSETS if field in metas[0]]
        group = {
            _COLUMNS: (_LIST, (_STRUCT, columns)),
            _TOTAL_BYTES: (_I64, sum(meta[_UNCOMPRESSED][1] for meta in metas)),
            _ROWS: (_I64, rows),
            _FILE_OFFSET: (_I64, min((offset for offset in offsets if offset), default=0)),
            _COMPRESSED_BYTES: (_I64, sum(meta[_COMPRESSED][1] for meta in metas)),
        }
        made.append(group)
        total += rows
    footer[_NUM_ROWS] = (_I64, total)
    footer[_ROW_GROUPS] = (_LIST, (_STRUCT, made))
    out = thrift(footer)
    return out + struct.pack("<i", len(out)) + MAGIC


def _footer(file: memoryview) -> tuple[int, _Fields]:
    """Return where the footer of a file begins, and what it says."""
    start = len(file) - _TAIL - _footer_length(file[-_TAIL:])
    reader = _Reader(file[start : len(file) - _TAIL].tobytes())
    return start, reader.struct()


def _footer_length(tail: Any) -> int:
    length: int = struct.unpack_from("<i", tail)[0]
    return length


# --- Thrift's compact protocol --------------------------------------------------------


class _Reader:
    """Reads a structure; of one that is damaged it raises some error or makes no sense."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self) -> _Fields:
        fields: _Fields = {}
        number = 0
        while byte := self._byte():
            delta, type_ = byte >> 4, byte & 15
            number = number + delta if delta else self._zigzag()
            fields[number] = (type_, self._value(type_))
        return fields

    def _value(self, type_: int) -> Any:
        if type_ in (_I64, _I32, _I16):
            return self._zigzag()
        if type_ == _BINARY:
            return self._take(self._varint())
        if type_ == _STRUCT:
            return self.struct()
        if type_ in (_LIST, _SET):
            header = self._byte()
            count = header >> 4
            count = self._varint() if count == 15 else count
            kind = header & 15
            if count > len(self._data):
                raise ValueError("more than there can be")
            if kind in (_TRUE, _FALSE):  # in a list a truth takes a byte
                return kind, [self._byte() for _ in range(count)]
            return kind, [self._value(kind) for _ in range(count)]
        if type_ == _DOUBLE:
            return self._take(8)
        # A truth that is a field is its type alone. There are no maps in a footer.
        return self._byte() if type_ == _BYTE else type_ == _TRUE

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def thrift(fields: _Fields) -> bytes:
    """Write a structure: {number of field: (type, value)}."""
    out = bytearray()
    _write_struct(out, fields)
    return bytes(out)


def varint(value: int) -> bytes:
    """Write a number that is not negative in as many times seven bits as it has."""
    out = bytearray()
    _write_varint(out, value)
    return bytes(out)


def _write_struct(out: bytearray, fields: _Fields) -> None:
    last = 0
    for number in sorted(fields):
        type_, value = fields[number]
        delta = number - last
        if 0 < delta <= 15:
            out.append(delta << 4 | type_)
        else:
            out.append(type_)
            _write_varint(out, _zigzagged(number))
        last = number
        _write_value(out, type_, value)
    out.append(0)


def _write_value(out: bytearray, type_: int, value: Any) -> None:
    if type_ in (_I64, _I32, _I16):
        _write_varint(out, _zigzagged(value))
    elif type_ == _BINARY:
        _write_varint(out, len(value))
        out += value
    elif type_ == _STRUCT:
        _write_struct(out, value)
    elif type_ in (_LIST, _SET):
        kind, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | kind)
        else:
            out.append(0xF0 | kind)
            _write_varint(out, len(values))
        for item in values:
            if kind in (_TRUE, _FALSE):
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


def _zigzagged(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1
