"""Arrow data of every layout, and the same data with damaged offsets, indices, views and lengths.

A batch is written as an Arrow IPC stream. Its buffers are parts of those bytes, so damage to the
bytes is damage to one buffer of one array: `damaged_streams` aims at it. Lengths and null counts
are in the metadata before the buffers.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

ROWS = 12
_TEXTS = ["", "a", "bb", "a text of more than twelve bytes", None, "ä", "zz", None, *"kyzw"]
_NUMBERS = [1.5, None, -2.0, 4.0, 8.0, 0.5, None, 3.0, 2.0, 1.0, 7.0, -1.0]
_INTS = [1, 2, None, 4, 5, 6, 7, 8, 9, 10, 11, 12]
_LISTS = [[1.0, 2.0], [3.0, 4.0], None, [5.0, None], *[[6.0, 7.0]] * 8]
_PAIRS = [[("a", 1)], [], None, [("b", 2), ("c", None)], *[[("d", 4)]] * 8]


def _dictionary(values: pa.Array, index: pa.DataType) -> pa.Array:
    encoded = values.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(index), encoded.dictionary)


def _runs(values: pa.Array, ends: pa.DataType) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([3, 4, 7, ROWS], ends), values)


def _union(kind: Callable[..., pa.Array]) -> pa.Array:
    ids = pa.array([0, 1] * 6, pa.int8())
    children = [pa.array(_INTS), pa.array(_TEXTS)]
    if kind is pa.UnionArray.from_sparse:
        return kind(ids, children)
    return kind(ids, pa.array(np.repeat(np.arange(6, dtype=np.int32), 2)), children)


# Columns of numbers, which may have statistics, by their layout.
NUMBERS: dict[str, Callable[[], pa.Array]] = {
    "float64": lambda: pa.array(_NUMBERS),
    "float32": lambda: pa.array(_NUMBERS, pa.float32()),
    "int64": lambda: pa.array(_INTS),
    "uint8": lambda: pa.array(_INTS, pa.uint8()),
    "decimal128": lambda: pa.array(_INTS).cast(pa.decimal128(25, 2)),
    "decimal256": lambda: pa.array(_INTS).cast(pa.decimal256(60, 2)),
    "decimal32": lambda: pa.array(_INTS).cast(pa.decimal128(25, 2)).cast(pa.decimal32(9, 2)),
    "null": lambda: pa.nulls(ROWS),
    "dictionary of int8": lambda: _dictionary(pa.array(_NUMBERS), pa.int8()),
    "dictionary of int64": lambda: _dictionary(pa.array(_INTS), pa.int64()),
    "dictionary of uint16": lambda: _dictionary(pa.array(_NUMBERS), pa.uint16()),
    "run ends of int16": lambda: _runs(pa.array([1.0, None, 3.0, 4.0]), pa.int16()),
    "run ends of int32": lambda: _runs(pa.array([1.0, 2.0, 3.0, 4.0]), pa.int32()),
    "run ends of int64": lambda: _runs(pa.array([1, 2, 3, 4]), pa.int64()),
    "list": lambda: pa.array(_LISTS),
    "large list": lambda: pa.array(_LISTS, pa.large_list(pa.float64())),
    "list view": lambda: pa.array(_LISTS, pa.list_view(pa.float64())),
    "large list view": lambda: pa.array(_LISTS, pa.large_list_view(pa.float64())),
    "fixed-size list": lambda: pa.array(_LISTS, pa.list_(pa.float64(), 2)),
    "struct": lambda: pa.StructArray.from_arrays(
        [pa.array(_NUMBERS), _dictionary(pa.array(_INTS), pa.int32())],
        ["a", "b"],
        mask=pa.array([False, True] * 6),
    ),
}
# Columns that can only pass through.
OTHERS: dict[str, Callable[[], pa.Array]] = {
    "string": lambda: pa.array(_TEXTS),
    "large string": lambda: pa.array(_TEXTS, pa.large_string()),
    "string view": lambda: pa.array(_TEXTS, pa.string_view()),
    "binary": lambda: pa.array(_TEXTS, pa.binary()),
    "binary view": lambda: pa.array(_TEXTS, pa.binary_view()),
    "fixed-size binary": lambda: pa.array([b"1234", None] * 6, pa.binary(4)),
    "boolean": lambda: pa.array([True, None, False] * 4),
    "timestamp": lambda: pa.array(_INTS, pa.timestamp("us", "UTC")),
    "time32": lambda: pa.array(_INTS, pa.int32()).cast(pa.time32("s")),
    "date64": lambda: pa.array(_INTS, pa.int32()).cast(pa.date32()).cast(pa.date64()),
    "dictionary of strings": lambda: _dictionary(pa.array(_TEXTS), pa.int32()),
    "run ends of strings": lambda: _runs(pa.array(["a", None, "c", "d"]), pa.int32()),
    "list of strings": lambda: pa.array([[t] for t in _TEXTS]),
    "list of dictionaries": lambda: pa.ListArray.from_arrays(
        pa.array(np.arange(ROWS + 1, dtype=np.int32)), _dictionary(pa.array(_TEXTS), pa.int8())
    ),
    "list view of strings": lambda: pa.array([[t] for t in _TEXTS], pa.list_view(pa.string())),
    "map": lambda: pa.array(_PAIRS, pa.map_(pa.string(), pa.int64())),
    "sparse union": lambda: _union(pa.UnionArray.from_sparse),
    "dense union": lambda: _union(pa.UnionArray.from_dense),
    "struct of strings": lambda: pa.StructArray.from_arrays(
        [pa.array(_TEXTS), pa.array(_TEXTS, pa.string_view())], ["a", "b"]
    ),
    "JSON": lambda: pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"] * ROWS)),
}
LAYOUTS = {**NUMBERS, **OTHERS}


class DamagedStream(NamedTuple):
    """An Arrow IPC stream of one batch, perhaps damaged: columns "x" (plain numbers) and "y".

    Attributes
    ----------
    layout : str
        The key of the layout of "y" in `LAYOUTS`.
    data : bytes
    """

    layout: str
    data: bytes


@functools.cache
def stream_of(layout: str, codec: str | None = None) -> bytes:
    """Return a valid stream with a column of a layout."""
    batch = pa.record_batch({"x": pa.array(_NUMBERS), "y": LAYOUTS[layout]()})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


@functools.cache
def _targets(layout: str) -> list[tuple[int, int]]:
    """Return where the buffers of column "y" are in its stream, as ranges of bytes."""
    data = stream_of(layout)
    memory = pa.py_buffer(data)
    with pa.ipc.open_stream(memory) as reader:
        batch = reader.read_next_batch()
    ranges = [
        (buffer.address - memory.address, buffer.address - memory.address + buffer.size)
        for buffer in _buffers(batch.column("y"))
        if buffer is not None and buffer.size
    ]
    assert all(0 <= start < stop <= len(data) for start, stop in ranges)
    return ranges


def _buffers(array: pa.Array) -> Iterator[Any]:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    yield from array.buffers()
    if isinstance(array, pa.DictionaryArray):
        yield from _buffers(array.dictionary)
    for child in _children(array):
        yield from (buffer for buffer in _buffers(child) if isinstance(child, pa.DictionaryArray))


def _children(array: pa.Array) -> list[pa.Array]:
    if pa.types.is_struct(array.type):
        return [array.field(i) for i in range(array.type.num_fields)]
    if pa.types.is_list(array.type):
        return [array.values]
    return []


@functools.cache
def _counts(layout: str) -> list[int]:
    """Return where lengths and null counts are in the metadata of a stream."""
    data = stream_of(layout)
    pairs = {struct.pack("<qq", ROWS, nulls) for nulls in range(ROWS + 1)}
    starts = [i for i in range(0, len(data) - 16, 4) if data[i : i + 16] in pairs]
    return [at for start in starts for at in (start, start + 8)]


_EDGES = [-1, 0, 1, 2, 9, ROWS - 1, ROWS, ROWS + 1, 100, 2**15, 2**31 - 1, -(2**31), 2**40, 2**62]
_EDGES += [2**63 - 1, -(2**63)]


@st.composite
def damaged_streams(draw: st.DrawFn, layouts: tuple[str, ...] = tuple(LAYOUTS)) -> DamagedStream:
    """Return a stream that is damaged in up to three buffers, lengths or null counts."""
    layout = draw(st.sampled_from(layouts))
    data, ranges, counts = bytearray(stream_of(layout)), _targets(layout), _counts(layout)
    for _ in range(draw(st.integers(0, 3))):
        if counts and (not ranges or draw(st.integers(0, 9)) == 0):
            at, width = draw(st.sampled_from(counts)), 8
        else:
            start, stop = draw(st.sampled_from(ranges))
            width = draw(st.sampled_from([w for w in (1, 2, 4, 8) if w <= stop - start]))
            at = start + width * draw(st.integers(0, (stop - start) // width - 1))
        value = draw(st.sampled_from(_EDGES) | st.integers(-(2**63), 2**63 - 1))
        data[at : at + width] = (value % 2**64).to_bytes(8, "little")[:width]
    return DamagedStream(layout, bytes(data))
