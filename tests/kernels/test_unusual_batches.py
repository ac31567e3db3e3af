"""Valid but unusual batches: offsets, bitmaps, empty and nested columns, encodings."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from moment_checks import assert_moments_agree
from native_kernels import (
    F4,
    F8,
    FIELDS,
    PLAIN,
    assert_outputs_equal,
    feature_transform,
    masked_array,
    native,
    run_transform,
)
from producers import Node, Producer, number_node, single_column_node

from streambn.kernels import BoundColumn, Columns, Layout, reference

pytestmark = pytest.mark.usefixtures("check_released")

VALUES = np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
VALID = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1], bool)


def assert_producer_agrees(producer, batch, layout, decay=1.0):
    """Compare the native kernels on a producer with the reference on an equal batch.

    Return the native moments.
    """
    got = native.block_moments(Columns(producer, layout), decay)
    assert_moments_agree(got, reference.block_moments(Columns(batch, layout), decay))
    transform = feature_transform(layout.features, 2.5, 3.0)
    dtypes = [F8] * len(layout.places)
    ours = run_transform(native.normalize, Columns(producer, layout), transform, dtypes)
    theirs = run_transform(reference.normalize, Columns(batch, layout), transform, dtypes)
    for a, b in zip(ours.arrays, theirs.arrays, strict=True):
        a.validate(full=True)
        assert_outputs_equal(a, b)
    np.testing.assert_array_equal(ours.nans, theirs.nans)
    np.testing.assert_array_equal(ours.infs, theirs.infs)
    return got


def list_layout(size):
    return Layout([BoundColumn((0,), size)])


def batch_of(**columns):
    """Return a batch in which NaN stays NaN."""
    return pa.record_batch({name: pa.array(v, from_pandas=False) for name, v in columns.items()})


@pytest.mark.parametrize("own", [0, 1, 3])
@pytest.mark.parametrize("above", [0, 1, 5])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_batch_and_column_offsets_add_up(own, above, decay):
    rows = len(VALUES) - own - above
    node = number_node(values=VALUES, valid=VALID, offset=own, length=len(VALUES) - own)
    batch = batch_of(x=masked_array(VALUES, VALID).slice(own + above))
    assert_producer_agrees(Producer(single_column_node(node, above, rows)), batch, PLAIN, decay)


@pytest.mark.parametrize("offset", [0, 1, 2])
@pytest.mark.parametrize("below", [0, 1, 3])
def test_struct_offset_applies_to_bitmap_and_fields(offset, below):
    rows = len(VALUES) - offset - below
    field = number_node(values=VALUES, valid=VALID, offset=below, length=len(VALUES) - below)
    above = np.arange(rows + offset) % 3 > 0
    bitmap = np.packbits(above, bitorder="little")
    struct = Node(b"+s", rows, [bitmap], [field], offset=offset, null_count=-1)
    values, mask = masked_array(VALUES, VALID).slice(below + offset), pa.array(~above[offset:])
    batch = batch_of(x=pa.StructArray.from_arrays([values], ["y"], mask=mask))
    producer = Producer(single_column_node(struct))
    assert_producer_agrees(producer, batch, Layout([BoundColumn((0, 0), None)]))


@pytest.mark.parametrize("offset", [0, 1, 2])
@pytest.mark.parametrize("below", [0, 1, 2])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_list_offset_applies_to_bitmap_and_items(offset, below, decay):
    size, rows = 3, 3 - offset
    items = number_node(values=VALUES, valid=VALID, offset=below, length=len(VALUES) - below)
    above = np.array([1, 0, 1], bool)
    bitmap = np.packbits(above, bitorder="little")
    lists = Node(b"+w:3", rows, [bitmap], [items], offset=offset, null_count=1)
    flat = masked_array(VALUES, VALID).slice(below, 9)
    shown = pa.FixedSizeListArray.from_arrays(flat, size, mask=pa.array(~above)).slice(offset)
    producer = Producer(single_column_node(lists))
    assert_producer_agrees(producer, batch_of(x=shown), list_layout(size), decay)


def test_slices_of_nested_structs_and_lists():
    rng = np.random.default_rng(0)
    rows, size = 700, 3

    def mask():
        return pa.array(rng.random(rows) < 0.2)

    flat = masked_array(rng.normal(size=rows * size), rng.random(rows * size) < 0.8)
    lists = pa.FixedSizeListArray.from_arrays(flat, size, mask=mask())
    inner = pa.StructArray.from_arrays(
        [lists, masked_array(rng.normal(size=rows), rng.random(rows) < 0.8)], ["v", "w"]
    )
    inner = pa.StructArray.from_arrays(inner.flatten(), ["v", "w"], mask=mask())
    outer = pa.StructArray.from_arrays([inner], ["i"], mask=mask())
    layout = Layout([BoundColumn((0, 0, 0), size), BoundColumn((0, 0, 1), None)])
    for start, length in [(0, 700), (1, 699), (7, 8), (13, 512), (64, 64), (690, 1), (5, 0)]:
        for array in (outer.slice(start, length), outer.slice(1).slice(start - 1 + (start == 0))):
            batch = pa.record_batch({"s": array})
            assert_producer_agrees(batch, batch, layout)
            assert_producer_agrees(batch, batch, layout, 0.75)
        batch = pa.record_batch({"s": outer}).slice(start, length)
        assert_producer_agrees(batch, batch, layout)


@pytest.mark.parametrize("null_count", [-1, 0])
def test_absent_bitmap_means_no_nulls(null_count):
    producer = Producer(single_column_node(number_node(values=VALUES, null_count=null_count)))
    got = assert_producer_agrees(producer, batch_of(x=VALUES), PLAIN)
    assert got.nulls[0] == 0


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize(
    "valid", [np.ones(11, bool), VALID, np.zeros(11, bool)], ids=["all", "some", "none"]
)
def test_unknown_null_count_is_computed(valid, decay):
    node = number_node(values=VALUES, valid=valid, null_count=-1)
    batch = batch_of(x=masked_array(VALUES, valid))
    got = assert_producer_agrees(Producer(single_column_node(node)), batch, PLAIN, decay)
    assert got.nulls[0] == 11 - valid.sum()


def test_null_count_of_zero_overrides_the_bitmap():
    node = number_node(values=VALUES, valid=VALID, null_count=0)
    assert_producer_agrees(Producer(single_column_node(node)), batch_of(x=VALUES), PLAIN)


def test_batch_may_have_a_bitmap_without_nulls():
    node = single_column_node(number_node(values=VALUES))
    node.buffers = [np.full(2, 0xFF, np.uint8)]
    assert_producer_agrees(Producer(node), batch_of(x=VALUES), PLAIN)


@pytest.mark.parametrize("fmt", [b"g", b"f", b"e", b"c", b"S", b"l", b"L", b"d:9,2", b"d:70,2,256"])
def test_empty_column_needs_no_buffers(fmt):
    columns = Columns(Producer(single_column_node(Node(fmt, 0, [None, None]))), PLAIN)
    for decay in (1.0, 0.5):
        got = native.block_moments(columns, decay)
        for a, b in zip(got, native.empty_moments(1), strict=True):
            np.testing.assert_array_equal(a, b)
    out = run_transform(native.normalize, columns, feature_transform(1), [F4])
    assert out.arrays[0].equals(pa.array([], pa.float32()))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_batch_without_columns_has_no_features(rows):
    node = Node(b"+s", rows, [None])
    for layout in (Layout([]), Layout([], encoded=True)):
        batch = Producer(node) if not layout.encoded else pa.record_batch({})
        columns = Columns(batch, layout)
        assert native.block_moments(columns).memory.shape == (FIELDS, 0)
        out = run_transform(native.normalize, columns, feature_transform(0), [])
        assert out.arrays == []


def test_unbound_columns_are_not_read():
    node = single_column_node(Node(b"nonsense", -3, [None]), length=3)
    assert native.block_moments(Columns(Producer(node), Layout([]))).memory.shape == (FIELDS, 0)


def test_null_type_columns_are_nulls():
    nulls, rows = pa.nulls(5), 5
    struct = pa.StructArray.from_arrays([nulls, pa.array(range(rows))], ["a", "b"])
    batch = pa.record_batch([nulls, struct, nulls, nulls], names=list("abcd"))
    # The last two were bound to a struct and to a list.
    places = ((0,), None), ((1, 0), None), ((1, 1), None), ((2, 1, 3), None), ((3,), 3)
    layout = Layout([BoundColumn(*place) for place in places])
    for decay in (1.0, 0.5):
        for some in (batch, batch.slice(2), batch.slice(5)):
            got = assert_producer_agrees(some, some, layout, decay)
            assert (np.delete(got.nulls, 2) == some.num_rows).all()


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("shift", [1, 2, 3, 5, 7])
@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.float32(), pa.float16(), pa.int16(), pa.int64(), pa.uint64(),
             pa.decimal64(9, 2), pa.decimal128(20, 2), pa.decimal256(40, 2)], ids=str
)  # fmt: skip
def test_values_need_no_alignment(kind, shift, decay):
    for rows in (11, 700, 1500):
        plain = pa.array([Decimal(i % 97) for i in range(rows)], pa.decimal128(20, 2))
        plain = plain.cast(kind) if pa.types.is_decimal(kind) else plain.cast(pa.int16()).cast(kind)
        size = plain.type.byte_width
        room = np.zeros(rows * size + 16, np.uint8)
        room[shift:][: rows * size] = np.frombuffer(plain.buffers()[1], np.uint8)[: rows * size]
        moved = pa.py_buffer(room)[shift:]
        array = pa.Array.from_buffers(kind, rows, [None, moved])
        assert array.buffers()[1].address % size or shift % size == 0
        assert_producer_agrees(batch_of(x=array), batch_of(x=plain), PLAIN, decay)
        if rows % 2 == 0:
            wide = [pa.FixedSizeListArray.from_arrays(a, 2) for a in (array, plain)]
            assert_producer_agrees(*(batch_of(x=a) for a in wide), list_layout(2), decay)


def test_sliced_dictionaries_and_runs_with_nulls():
    indices = pa.array([0, 1, None, 2, 1, 0, 2, None, 1], pa.int8())
    numbers = pa.array([1.5, None, np.nan], from_pandas=False)
    words = pa.DictionaryArray.from_arrays(indices, numbers)
    runs = pa.RunEndEncodedArray.from_arrays([2, 3, 7, 9], [1.0, None, 5.0, 7.0])
    indices = pa.array([0, 1, None, 1] * 4 + [0, 1])
    items = pa.DictionaryArray.from_arrays(indices, pa.array([3, None]))
    lists = pa.FixedSizeListArray.from_arrays(items, 2)
    places = [BoundColumn((0,), None), BoundColumn((1,), None), BoundColumn((2,), 2)]
    layout = Layout(places, encoded=True)
    batch = pa.record_batch({"w": words, "r": runs, "l": lists})
    for start in range(9):
        for length in (1, 2, 5, 9):
            some = batch.slice(start, length)
            for decay in (1.0, 0.5):
                assert_producer_agrees(some, some, layout, decay)


def test_extension_type_is_read_as_its_storage():
    tensor = pa.fixed_shape_tensor(pa.float32(), [2, 2])
    storage = pa.array([[1, 2, 3, 4], None, [5, 6, 7, 9]], pa.list_(pa.float32(), 4))
    batch = pa.record_batch({"t": pa.ExtensionArray.from_storage(tensor, storage)})
    for some in (batch, batch.slice(1), batch.slice(2)):
        assert_producer_agrees(some, some, list_layout(4))
