"""Producers of the Arrow C data interface whose structs contradict themselves or the format.

The interface does not tell the length of a buffer, so a lie about that cannot be found. A format
that is a null pointer ends the process within Arrow's import, before streambn sees it.
"""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from producers import (
    CArray,
    CSchema,
    Node,
    Producer,
    assert_all_released,
    capsule,
    number_node,
)

import streambn as sbn
from streambn.errors import InvalidValueError, StreamBNError

Make = Callable[[], Node]


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    assert_all_released()


def changed(node: Node, **fields: Any) -> Node:
    vars(node).update(fields)
    return node


def without_buffer(node: Node, index: int) -> Node:
    node.buffers[index] = None
    return node


def ints(values: Any, kind: Any = np.int32) -> np.ndarray:
    return np.array(values, kind)


def text(
    offsets: Any = (0, 1, 2, 3),
    data: bytes = b"abc",
    fmt: bytes = b"u",
    kind: Any = np.int32,
    **rest: Any,
) -> Node:
    buffers = [None, ints(offsets, kind), np.frombuffer(data, np.uint8)]
    return Node(fmt, rest.pop("length", 3), buffers, **rest)


def lists(offsets: Any = (0, 1, 2, 3), items: Node | None = None) -> Node:
    return Node(b"+l", 3, [None, ints(offsets)], [items or number_node()])


def list_views(offsets: Any = (0, 1, 2), sizes: Any = (1, 1, 1)) -> Node:
    return Node(b"+vl", 3, [None, ints(offsets), ints(sizes)], [number_node()])


def dictionary(
    indices: Any = (0, 1, 2), values: Node | None = None, fmt: bytes = b"i", kind: Any = np.int32
) -> Node:
    values = values or number_node()
    node = Node(fmt, 3, [None, ints(indices, kind)])
    return changed(node, schema_dictionary=values, array_dictionary=values)


def runs(
    ends: Any = (1, 2, 3),
    values: Node | None = None,
    fmt: bytes = b"i",
    kind: Any = np.int32,
    **rest: Any,
) -> Node:
    length = rest.pop("length", 3)
    return Node(
        b"+r", length, [], [number_node(fmt, ends, kind=kind, **rest), values or number_node()]
    )


def views(size: int = 20, prefix: bytes = b"xxxx", buffer: int = 0, offset: int = 0) -> Node:
    view = np.int32(size).tobytes() + prefix + ints([buffer, offset]).tobytes()
    data = np.frombuffer(b"x" * 40, np.uint8)
    return Node(b"vu", 3, [None, np.frombuffer(view * 3, np.uint8), data, ints([40], np.int64)])


def union(ids: Any = (0, 1, 0), offsets: Any = (0, 0, 1), fmt: bytes = b"+ud:0,1") -> Node:
    children = [number_node(), number_node(b"l", [1, 2, 3], kind=np.int64)]
    return Node(fmt, 3, [ints(ids, np.int8), ints(offsets)], children)


HONEST: dict[str, Make] = {
    "numbers": number_node,
    "text": text,
    "lists": lists,
    "list views": list_views,
    "dictionary": dictionary,
    "runs": runs,
    "views": views,
    "union": union,
}
LIES: dict[str, Make] = {
    # lengths and null counts
    "a negative length": lambda: number_node(length=-1),
    "a negative offset": lambda: number_node(offset=-1),
    "a negative offset of items": lambda: lists(items=number_node(offset=-1)),
    "a negative offset of a dictionary": lambda: dictionary(values=number_node(offset=-1)),
    "a negative offset of run ends": lambda: runs(offset=-1),
    "an offset that overflows": lambda: number_node(offset=2**62),
    "a length of text beyond memory": lambda: text(length=2**62),
    "a negative null count": lambda: number_node(null_count=-7),
    "more nulls than elements": lambda: number_node(null_count=2**62),
    "nulls without a bitmap": lambda: text(null_count=2),
    "another null count than the bitmap's": lambda: number_node(valid=[1, 1, 1], null_count=2),
    # buffers and children
    "no values": lambda: without_buffer(number_node(), 1),
    "no offsets": lambda: without_buffer(text(), 1),
    "no text": lambda: without_buffer(text(), 2),
    "two buffers of text": lambda: changed(text(), n_buffers=2),
    "views without the sizes of buffers": lambda: changed(views(), n_buffers=2),
    "a list without items": lambda: changed(lists(), schema_children=0, array_children=0),
    "a list of too few items": lambda: lists(items=number_node(length=1)),
    "runs without values": lambda: changed(runs(), schema_children=1, array_children=1),
    "a map of numbers": lambda: Node(b"+m", 3, [None, ints([0, 1, 2, 3])], [number_node()]),
    # formats
    "an empty format": lambda: changed(number_node(), format=b""),
    "an unknown time unit": lambda: changed(number_node(), format=b"tsx:"),
    "a negative width": lambda: changed(number_node(), format=b"w:-4"),
    "a width beyond int32": lambda: changed(number_node(), format=b"w:99999999999"),
    "99 digits": lambda: changed(number_node(), format=b"d:99,2"),
    "a dictionary in the schema alone": lambda: changed(dictionary(), array_dictionary=None),
    "float indices": lambda: dictionary(fmt=b"g", kind=np.float64),
    "float run ends": lambda: runs(fmt=b"g", kind=np.float64),
    "a union of one type": lambda: union(fmt=b"+ud:0"),
    "a type id of 300": lambda: union(fmt=b"+ud:0,300"),
    # offsets
    "offsets that descend": lambda: text((0, 3, 1, 3)),
    "a negative offset of text": lambda: text((0, -5, 2, 3)),
    "a negative first offset": lambda: text((-(2**31), 1, 2, 3)),
    "large offsets beyond the text": lambda: text((0, 2**40, 2**41, 3), fmt=b"U", kind=np.int64),
    "text that is not UTF-8": lambda: text(data=b"a\xffc"),
    "list offsets that descend": lambda: lists((0, 3, 1, 3)),
    "a list beyond its items": lambda: lists((0, 1, 2, 2**30)),
    "a negative list offset": lambda: lists((0, -1, 2, 3)),
    "a view of a list beyond its items": lambda: list_views((0, 1, 99)),
    "an overlong view of a list": lambda: list_views(sizes=(1, 1, 2**30)),
    "a negative size of a list": lambda: list_views(sizes=(1, -1, 1)),
    # indices
    "an index beyond the dictionary": lambda: dictionary((0, 1, 9)),
    "a negative index": lambda: dictionary((0, -1, 1)),
    "an index of 2**63": lambda: dictionary((0, 1, 2**63), fmt=b"L", kind=np.uint64),
    "a short dictionary": lambda: dictionary(values=number_node(length=1)),
    "a dictionary of negative length": lambda: dictionary(values=number_node(length=-1)),
    "a dictionary of damaged text": lambda: dictionary(values=text((0, 2**30, 2, 3))),
    # run ends
    "run ends that descend": lambda: runs((3, 2, 3)),
    "a run end of zero": lambda: runs((0, 2, 3)),
    "a negative run end": lambda: runs((-1, 2, 3)),
    "runs that end twice": lambda: runs((1, 2, 2)),
    "too few runs": lambda: runs((1, 2)),
    "too few values of runs": lambda: runs(values=number_node(length=1)),
    "run ends that are null": lambda: runs(valid=[1, 0, 1]),
    "runs shorter than the column": lambda: runs(length=2**40),
    # views and type ids
    "a view beyond its buffer": lambda: views(2**30),
    "a view of no buffer": lambda: views(buffer=7),
    "a view at an offset beyond its buffer": lambda: views(offset=1000),
    "a view of negative size": lambda: views(-20),
    "a view with another prefix": lambda: views(prefix=b"yyyy"),
    "an unknown type id": lambda: union((0, 5, 0)),
    "a negative type id": lambda: union((0, -1, 0)),
    "a union beyond its values": lambda: union(offsets=(0, 0, 2**30)),
    "a negative offset of a union": lambda: union(offsets=(0, -4, 1)),
}


def batch_of(node: Node) -> Node:
    return Node(b"+s", 3, [None], [number_node(), changed(node, name=b"y")])


def normalizer() -> tuple[sbn.Normalizer, bytes]:
    norm = sbn.Normalizer().update(pa.table({"x": [1.0, 2.0]}))
    return norm, pickle.dumps(norm.statistics)


@pytest.mark.parametrize("make", HONEST.values(), ids=HONEST)
def test_honest_producer_is_accepted(make: Make) -> None:
    norm, _ = normalizer()
    norm.update(Producer(batch_of(make())), validate="full")
    assert norm.stats()["count"].to_pylist()[0] == 5


@pytest.mark.parametrize("make", LIES.values(), ids=LIES)
def test_lie_is_found_and_nothing_learned(make: Make) -> None:
    norm, before = normalizer()
    for use in (norm.update, norm.transform, norm.update_transform, norm.freeze().transform):
        with pytest.raises(InvalidValueError):
            use(Producer(batch_of(make())), validate="full")
        assert pickle.dumps(norm.statistics) == before


@pytest.mark.parametrize(
    "make",
    [dictionary, runs, lists, list_views],
)
def test_column_with_statistics_is_validated_by_default(make: Make) -> None:
    def batch(node: Node) -> Producer:
        return Producer(Node(b"+s", 3, [None], [node]))

    for name, lie in LIES.items():
        if lie().format != make().format:
            continue
        norm = sbn.Normalizer(columns=["x"]).update(batch(make()))
        before = pickle.dumps(norm.statistics)
        for use in (norm.transform, norm.update):
            try:
                use(batch(lie()))
            except StreamBNError:
                assert pickle.dumps(norm.statistics) == before, name
            else:
                assert "null count" in name, name


class CStream(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("get_schema", "get_next", "get_last_error", "release", "private_data")
    )


GetStruct = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
GetError = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)
Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class StreamProducer:
    """A producer of a stream of some nodes with the schema of another one."""

    def __init__(self, schema: Node, nodes: list[Node], code: int = 0) -> None:
        self._schema, self._nodes, self._code = schema, nodes, code
        self.released = 0

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        del requested_schema
        nodes = iter(self._nodes)

        def export(struct: Any, kind: Any, address: int) -> None:
            capsule(struct)  # keeps the struct alive until the end of the test
            ctypes.memmove(address, ctypes.addressof(struct), ctypes.sizeof(kind))
            struct.release = None

        def get_schema(_: int, address: int) -> int:
            export(self._schema.schema(), CSchema, address)
            return 0

        def get_next(_: int, address: int) -> int:
            node = next(nodes, None)
            if node is None:
                ctypes.memset(address, 0, ctypes.sizeof(CArray))
                return self._code
            export(node.array(), CArray, address)
            return 0

        def release(address: int) -> None:
            self.released += 1
            CStream.from_address(address).release = None

        self._callbacks = (
            GetStruct(get_schema),
            GetStruct(get_next),
            GetError(lambda _: None),
            Release(release),
        )
        pointers = [ctypes.cast(each, ctypes.c_void_p).value for each in self._callbacks]
        self._stream = CStream()
        made = capsule(self._stream, b"arrow_array_stream")
        ctypes.memmove(ctypes.byref(self._stream), (ctypes.c_void_p * 4)(*pointers), 32)
        return made


def numbers(values: Any, **rest: Any) -> Node:
    return Node(b"+s", len(values), [None], [number_node(values=values, **rest)])


STREAMS: dict[str, Callable[[], StreamProducer]] = {
    "a batch without columns": lambda: StreamProducer(numbers([1.0]), [Node(b"+s", 1, [None])]),
    "a batch of two columns": lambda: StreamProducer(numbers([1.0]), [batch_of(number_node())]),
    "a batch of another length": lambda: StreamProducer(
        numbers([1.0]), [Node(b"+s", 7, [None], [number_node()])]
    ),
    "a batch with nulls of its own": lambda: StreamProducer(
        numbers([1.0]), [changed(numbers([1.0]), null_count=1)]
    ),
    "a schema that is no struct": lambda: StreamProducer(number_node(), [number_node()]),
    "text in place of numbers": lambda: StreamProducer(
        numbers([1.0]), [Node(b"+s", 3, [None], [text()])]
    ),
    "an error at the end": lambda: StreamProducer(numbers([1.0]), [], 22),
}


def test_honest_stream_is_accepted_and_released_once() -> None:
    stream = StreamProducer(numbers([1.0]), [numbers([1.0, 2.0]), numbers([3.0])])
    assert sbn.Normalizer().update(stream, validate="full").stats()["count"].to_pylist() == [3]
    assert stream.released == 1


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_lie_of_a_stream_is_found(make: Callable[[], StreamProducer]) -> None:
    norm, before = normalizer()
    stream = make()
    with pytest.raises(InvalidValueError):
        norm.update(stream, validate="full")
    assert pickle.dumps(norm.statistics) == before
    assert stream.released == 1
