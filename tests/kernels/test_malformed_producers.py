"""Malformed producers, layouts and arrays raise errors and change nothing."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pyarrow as pa
import pytest
from native_kernels import FIELDS, core, core_moments, core_transform, open_batch
from producers import LAYOUT, Node, Producer, batch_node, number_node

import streambn as sbn
from streambn.errors import InvalidValueError
from streambn.kernels.recursion import gap_powers

pytestmark = pytest.mark.usefixtures("check_released")


def transform_arguments(counts, formats="ggg"):
    """Return the arguments of a transform that follow the layout."""
    numbers, flags = np.ones((3, 4)), np.ones((2, 4), bool)
    return [numbers, flags, None, None, np.inf, False, formats, counts, 1]


def collect_errors(producer, layout=LAYOUT.packed):
    """Call both functions on a batch that they refuse, and return the exceptions."""
    memory, counts = np.full((FIELDS, 4), 77), np.full((2, 4), 77)
    calls = (
        lambda: core_moments(producer, layout, 1.0, False, 1, memory),
        lambda: core_moments(producer, layout, 0.5, False, 1, memory),
        lambda: core_transform(producer, layout, *transform_arguments(counts)),
    )
    raised = []
    for call in calls:
        with pytest.raises(Exception) as error:  # noqa: PT011 - the caller checks it
            call()
        raised.append(error.value)
    assert (memory == 77).all()
    assert (counts == 77).all()
    return raised


def below(node, path):
    """Return the node at a path of children."""
    return functools.reduce(lambda node, index: node.children[index], path, node)


def set_fields(path, **fields):
    """Return a function that sets attributes of the node at a path of children."""
    return lambda node: vars(below(node, path)).update(fields)


def remove_child(*path):
    """Return a function that replaces the child at a path by a null pointer."""
    return lambda node: below(node, path[:-1]).children.__setitem__(path[-1], None)


def remove_buffer(*path):
    """Return a function that replaces the buffer at a path by a null pointer."""
    return lambda node: below(node, path[:-1]).buffers.__setitem__(path[-1], None)


DICTIONARY = number_node(b"i", [0], kind=np.int32)
MALFORMED = {
    "no format": set_fields([0], format=None),
    "no format of the batch": set_fields([], format=None),
    "no format in a struct": set_fields([1, 0], format=None),
    "no format in a list": set_fields([2, 0], format=None),
    "an empty format": set_fields([0], format=b""),
    "the batch is not a struct": set_fields([], format=b"g"),
    "the batch has an empty format": set_fields([], format=b""),
    "an unknown format": set_fields([0], format=b"?"),
    "text": set_fields([0], format=b"u"),
    "a format with a surplus letter": set_fields([0], format=b"gg"),
    "an overlong format": set_fields([0], format=b"g" * 100_000),
    "an overlong decimal": set_fields([0], format=b"d:" + b"9" * 100_000 + b",1"),
    "a nested format without its letter": set_fields([0], format=b"+"),
    "repeated null formats": set_fields([0], format=b"n" * 9),
    "a timestamp": set_fields([0], format=b"tsn:UTC"),
    "a struct where a number was bound": set_fields([0], format=b"+s"),
    "a number where a struct was bound": set_fields([1], format=b"g"),
    "a list where a struct was bound": set_fields([1], format=b"+w:1"),
    "a struct where a list was bound": set_fields([2], format=b"+s"),
    "a list of another size": set_fields([2], format=b"+w:3"),
    "a list without a size": set_fields([2], format=b"+w:"),
    "a list of size -2": set_fields([2], format=b"+w:-2"),
    "a list of size 2 and text": set_fields([2], format=b"+w:2x"),
    "a list of variable size": set_fields([2], format=b"+l"),
    "a list of text": set_fields([2, 0], format=b"u"),
    "no buffers": set_fields([0], n_buffers=0),
    "one buffer": set_fields([0], n_buffers=1),
    "three buffers": set_fields([0], n_buffers=3),
    "a negative number of buffers": set_fields([0], n_buffers=-1),
    "a struct without its buffer": set_fields([1], n_buffers=0),
    "a list of two buffers": set_fields([2], n_buffers=2),
    "a batch of two buffers": set_fields([], n_buffers=2),
    "the buffers are missing": set_fields([0], buffers_missing=True),
    "the buffers of a list are missing": set_fields([2], buffers_missing=True),
    "no values": remove_buffer(0, 1),
    "no values in a list": remove_buffer(2, 0, 1),
    "a schema missing a child": set_fields([], schema_children=2),
    "an array missing a child": set_fields([], array_children=2),
    "no children": set_fields([], schema_children=0, array_children=0),
    "negative children": set_fields([], schema_children=-1, array_children=-1),
    "the children are missing": set_fields([], children_missing=True),
    "a struct without children": set_fields([1], schema_children=0, array_children=0),
    "a list without children": set_fields([2], schema_children=0, array_children=0),
    "a list whose children are missing": set_fields([2], children_missing=True),
    "a child is null": remove_child(0),
    "a child of a struct is null": remove_child(1, 0),
    "a child of a list is null": remove_child(2, 0),
    "a child was released": set_fields([0], schema_released=True, array_released=True),
    "a child of a struct was released": set_fields([1, 0], array_released=True),
    "a child's schema was released": set_fields([2, 0], schema_released=True),
    "the batch was released": set_fields([], schema_released=True, array_released=True),
    "the batch's array was released": set_fields([], array_released=True),
    "a negative length": set_fields([0], length=-1),
    "a negative length of the batch": set_fields([], length=-3),
    "the smallest length": set_fields([], length=-(2**63)),
    "a length beyond memory": set_fields([], length=2**63 - 1),
    "a negative offset": set_fields([0], offset=-1),
    "a negative offset of the batch": set_fields([], offset=-1),
    "a negative offset in a list": set_fields([2, 0], offset=-2),
    "an offset at the end of the range": set_fields([0], offset=2**63 - 1),
    "an offset that overflows in bytes": set_fields([0], offset=2**60),
    "an offset that overflows in bits": set_fields([1, 0], offset=2**63 - 4),
    "an offset of a list that overflows its items": set_fields([2], offset=2**57),
    "an offset of the batch that overflows": set_fields([], offset=2**62),
    "a child shorter than its parent": set_fields([0], length=2),
    "a batch longer than its children": set_fields([], length=4),
    "an offset of the batch past its children": set_fields([], offset=1),
    "an offset of a struct past its child": set_fields([1], offset=1),
    "an offset of a list past its items": set_fields([2], offset=1),
    "fewer items than the lists need": set_fields([2, 0], length=5),
    "nulls without a bitmap": set_fields([0], null_count=1),
    "nulls of a struct without a bitmap": set_fields([1], null_count=2),
    "nulls of a list without a bitmap": set_fields([2], null_count=3),
    "nulls of items without a bitmap": set_fields([2, 0], null_count=1),
    "a dictionary": set_fields([0], schema_dictionary=DICTIONARY, array_dictionary=DICTIONARY),
    "a dictionary in the schema alone": set_fields([0], schema_dictionary=DICTIONARY),
    "a dictionary in the array alone": set_fields([2, 0], array_dictionary=DICTIONARY),
}
DECIMALS = [
    "d:", "d:,", "d:38", "d:38,", "d:,2", "d:38;2", "d:x,2", "d:38,x", "d:38,2x", "d:38,2,",
    "d:38,2,77", "d:38,2,128,1", "d:38,2,-128", "d: 38,2", "d:38, 2", "d:38,2.0",
    "d:38,99999999999", "d:99999999999999999999,2", "d:38,1000", "d:38,-1000", "d:0,0",
    "d:-5,2", "d:39,2", "d:10,2,32", "d:19,2,64", "d:77,2,256", "d", "d:38,2,0", "d:+38,2",
]  # fmt: skip


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_batch_raises_and_writes_nothing(change):
    node = batch_node()
    change(node)
    for error in collect_errors(Producer(node)):
        assert isinstance(error, InvalidValueError)
        assert "Arrow C data interface" in str(error) or "released" in str(error)


@pytest.mark.parametrize("fmt", DECIMALS)
def test_invalid_decimal_format_raises(fmt):
    node = batch_node()
    node.children[0] = number_node(fmt.encode(), np.zeros((3, 4)))
    node.children[0].length = 3
    for error in collect_errors(Producer(node)):
        assert isinstance(error, InvalidValueError)
        assert "decimal" in str(error) or "numeric" in str(error)


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"swap": swap}
            for swap in (
                lambda pair: None,
                list,
                lambda pair: pair[:1],
                lambda pair: (*pair, None),
                lambda pair: (None, None),
                lambda pair: pair[::-1],
                lambda pair: (pair[0], pair[0]),
                lambda pair: (1, 2),
            )
        ),
        {"names": (b"schema", None)},
        {"names": (None, b"used_arrow_array")},
    ],
)
def test_producer_must_return_two_capsules(options):
    for error in collect_errors(Producer(batch_node(), **options)):
        assert isinstance(error, ValueError)


def test_errors_of_the_protocol_propagate():
    class Broken:
        def __arrow_c_array__(self, requested_schema=None):
            raise ZeroDivisionError("from within")

    assert {type(error) for error in collect_errors(Broken())} == {ZeroDivisionError}
    assert {type(error) for error in collect_errors(object())} == {AttributeError}


def packed(*numbers):
    return np.array(numbers, np.int32).tobytes()


LAYOUTS = {
    "bytes that are not whole integers": LAYOUT.packed[:-1],
    "a missing integer": LAYOUT.packed[:-4],
    "a surplus integer": LAYOUT.packed + bytes(4),
    "a negative size": packed(-1, 1, 0),
    "a path of length zero": packed(0, 0),
    "a path of negative length": packed(0, -1, 0),
    "a path beyond the end": packed(0, 9, 0),
    "a path far beyond the end": packed(0, 2**31 - 1, 0),
    "a negative child": packed(0, 1, -1),
    "a child past the last": packed(0, 1, 3),
    "the largest child": packed(0, 1, 2**31 - 1),
    "a step below a number": packed(0, 2, 0, 0),
    "a step below a list": packed(0, 2, 2, 0),
    "a path that ends at a struct": packed(0, 1, 1),
    "a list where the batch has a number": packed(3, 1, 0),
    "the largest list size": packed(2**31 - 1, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_invalid_layout_raises(layout):
    for error in collect_errors(Producer(batch_node()), layout):
        assert isinstance(error, ValueError)


def unfit_arrays(shape, kind):
    """Yield the names and values of arguments unfit for an array of this shape and type."""
    good = np.zeros(shape, kind)
    frozen = good.copy()
    frozen.flags.writeable = False
    shorter = np.zeros((shape[0] - 1, *shape[1:]), kind)
    wider = np.zeros((*shape[:-1], shape[-1] + 1), kind)
    yield "too small", shorter
    yield "too large", wider
    yield "empty", np.zeros(0, kind)
    yield "of small items", np.zeros(shape, np.int16)
    yield "of large items", np.zeros(shape, np.complex128)
    yield "of another kind", np.zeros(shape, np.float64 if kind == np.int64 else np.int64)
    yield "with a gap", np.zeros((*shape[:-1], 2 * shape[-1]), kind)[..., ::2]
    yield "backwards", good[..., ::-1]
    yield "of objects", np.full(shape, None)
    yield "of another byte order", good.astype(good.dtype.newbyteorder())
    yield "given as text", "text"
    yield "given as None", None
    yield "read-only", frozen


@contextlib.contextmanager
def refused(name):
    """Check that a call refuses an array."""
    with contextlib.suppress(ValueError, BufferError, TypeError):
        yield
        pytest.fail(f"an array {name} was taken")


def test_unfit_moments_array_raises():
    for name, out in unfit_arrays((FIELDS, 4), np.int64):
        with refused(name):
            core_moments(Producer(batch_node()), LAYOUT.packed, 1.0, False, 1, out)
        if isinstance(out, np.ndarray) and out.dtype.kind != "O":
            assert not out.any()


def test_unfit_weights_array_raises():
    for name, weights in unfit_arrays((3,), np.float64):
        if name == "read-only" or weights is None:
            continue
        out = np.zeros((FIELDS, 4), np.int64)
        with refused(name):
            core_moments(Producer(batch_node()), LAYOUT.packed, 1.0, False, 1, out, weights)
        assert not out.any()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_merge_of_unfit_arrays_raises(at):
    for name, array in unfit_arrays((FIELDS, 4), np.int64):
        if name == "read-only" and at < 2:
            continue
        arguments = [np.zeros((FIELDS, 4), np.int64) for _ in range(3)]
        arguments[at] = array
        with refused(name):
            core.merge_moments(*arguments)
        assert not arguments[2 if at < 2 else 0].any()


@pytest.mark.parametrize(
    ("at", "kind", "shape"),
    [
        (5, float, gap_powers(0.5, 3).shape),
        (6, int, (FIELDS, 4)),
        (7, int, (2, 4)),
        (8, int, (FIELDS, 4)),
        (9, int, (2, 4)),
    ],
)
def test_extension_over_gaps_of_unfit_arrays_raises(at, kind, shape):
    for name, array in unfit_arrays(shape, np.dtype(kind).type):
        if name == "read-only" and at < 8:
            continue
        sizes = (FIELDS, 4), (2, 4), (FIELDS, 4), (2, 4)
        arrays = [gap_powers(0.5, 3), *(np.zeros(size, np.int64) for size in sizes)]
        arrays[at - 5] = array
        opened = open_batch(Producer(batch_node()), LAYOUT.packed)
        with refused(name):
            core.extend_over_gaps(opened, 0.5, None, 1, *arrays)
        assert not arrays[3 if at != 8 else 4].any()


@pytest.mark.parametrize(
    ("at", "kind", "shape"),
    [(0, float, (3, 4)), (1, bool, (2, 4)), (2, float, (4,)), (3, float, (4,)), (7, int, (2, 4))],
)
def test_unfit_feature_array_raises(at, kind, shape):
    for name, array in unfit_arrays(shape, np.dtype(kind).type):
        counts = np.zeros((2, 4), np.int64)
        arguments = transform_arguments(counts)
        arguments[2] = arguments[3] = np.ones(4)
        if (name == "read-only" and at < 7) or (array is None and at in (2, 3)):
            continue
        if kind is bool and name == "of another byte order":
            continue
        arguments[at] = array
        with refused(name):
            core_transform(Producer(batch_node()), LAYOUT.packed, *arguments)
        assert not counts.any()


@pytest.mark.parametrize("formats", ["", "gg", "gggg", "ggx", "gg0"])
def test_output_needs_one_float_type_per_column(formats):
    arguments = transform_arguments(np.zeros((2, 4), np.int64), formats)
    with pytest.raises(ValueError, match=r"schema|list|float16, float32 or float64"):
        core_transform(Producer(batch_node()), LAYOUT.packed, *arguments)


@pytest.mark.parametrize("decay", [-0.1, 1.1, np.nan, np.inf])
def test_invalid_decay_raises(decay):
    memory = np.zeros((FIELDS, 4), np.int64)
    with pytest.raises(ValueError, match="decay"):
        core_moments(Producer(batch_node()), LAYOUT.packed, decay, False, 1, memory)
    assert not memory.any()


# The defects that Arrow itself survives when it imports a batch. Others, such as a null child
# or schema, crash the process inside Arrow.
IMPORTED = [
    "an unknown format", "no buffers", "one buffer", "three buffers", "a struct without its buffer",
    "a schema missing a child", "an array missing a child", "the batch is not a struct",
    "a list without a size", "the batch was released", "a child was released",
    "a list without children",
]  # fmt: skip


@pytest.mark.parametrize("name", IMPORTED)
def test_normalizer_keeps_its_statistics_after_a_malformed_batch(name):
    norm = sbn.Normalizer().update(pa.table({"x": [1.0, 3.0]}))
    before = norm.stats()
    node = batch_node()
    MALFORMED[name](node)
    with pytest.raises(InvalidValueError, match="does not convert to record batches"):
        norm.update(Producer(node))
    assert norm.stats().equals(before)


def test_normalizer_accepts_a_hand_made_producer():
    norm = sbn.Normalizer().update(Producer(Node(b"+s", 3, [None], [number_node()])))
    assert norm.stats()["mean"].to_pylist() == [7 / 3]
