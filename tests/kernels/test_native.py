"""Compiled kernels: malformed and unusual producers, agreement with the reference, memory."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import streambn as sbn
from streambn.errors import InvalidValueError
from streambn.kernels import BoundColumn, Columns, FeatureTransform, Layout, MomentArrays, reference
from streambn.kernels.bitmaps import unpack_validity
from streambn.testing import exact_moments

native = pytest.importorskip(
    "streambn.kernels.native",
    reason="the compiled kernels are missing: install streambn where there is a C++ compiler",
    exc_type=ImportError,
)
_core = native._core

F8, F4, F2 = (np.dtype(kind) for kind in ("f8", "f4", "f2"))


class Output(NamedTuple):
    """The output of a transform, with lists flattened."""

    arrays: list[pa.Array]
    nans: np.ndarray
    infs: np.ndarray


def output_schema(layout, kinds):
    """Return an output schema whose columns have these value types and the layout's list sizes."""
    sizes = [place.size for place in layout.places] + [None] * len(kinds)
    fields = (
        (str(i), kind if size is None else pa.list_(kind, size))
        for i, (kind, size) in enumerate(zip(kinds, sizes, strict=False))
    )
    return pa.schema(fields)


def run_transform(function, columns, transform, dtypes):
    """Call a transform with the given output types, and validate its batch."""
    schema = output_schema(columns.layout, [pa.from_numpy_dtype(dtype) for dtype in dtypes])
    batch, nans, infs = function(columns, transform, schema)
    batch.validate(full=True)
    return Output([getattr(array, "values", array) for array in batch.columns], nans, infs)


FIELDS = len(MomentArrays.FIELDS)


def core_moments(producer, layout, decay, ignore_missing, threads, out, weights=None):
    """Call the compiled function directly; `layout` may be the packed bytes alone."""
    if isinstance(layout, bytes):
        layout = types.SimpleNamespace(packed=layout, schema=None)
    _core.block_moments(producer, layout, decay, ignore_missing, weights, threads, None, out)


FORMATS = {
    "g": pa.float64(),
    "f": pa.float32(),
    "e": pa.float16(),
    "x": pa.string(),
    "0": pa.null(),
}


def core_transform(producer, layout, *arguments):
    """Call the compiled function directly; letters of `FORMATS` name the output types."""
    *before, formats, nans, infs, threads = arguments
    schema = output_schema(LAYOUT, [FORMATS[letter] for letter in formats])
    if isinstance(layout, bytes):
        layout = types.SimpleNamespace(packed=layout, schema=None)
    return _core.transform(
        producer, layout, *before, schema.__arrow_c_schema__(), nans, infs, threads,
        pa.allocate_buffer, lambda address: pa.RecordBatch._import_from_c(address, schema),
    )  # fmt: skip


# ----------------------------------------------------------------- hand-made producers


class CSchema(ctypes.Structure):
    _fields_ = (
        ("format", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("metadata", ctypes.c_char_p),
        ("flags", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


class CArray(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", ctypes.c_void_p),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


# private_data of the structs that are not released yet.
_unreleased: set[int] = set()
_serial = itertools.count(1)


def _releaser(struct):
    def release(address):
        exported = struct.from_address(address)
        _unreleased.discard(exported.private_data)
        exported.release = None

    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(release)


_RELEASE = {struct: _releaser(struct) for struct in (CSchema, CArray)}

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_NAMES = {CSchema: b"arrow_schema", CArray: b"arrow_array"}
# Exported capsules. They have no destructor: it would run Python code, possibly while an
# exception is set. `check_released` releases their structs instead.
_capsules: list[tuple[object, ctypes.Structure]] = []


class Node:
    """A schema and an array of the C data interface, exported exactly as its attributes say."""

    def __init__(self, fmt, length, buffers=(), children=(), offset=0, null_count=0):
        self.format, self.length, self.offset, self.null_count = fmt, length, offset, null_count
        self.buffers, self.children = list(buffers), list(children)
        self.n_buffers = self.schema_children = self.array_children = None
        self.schema_dictionary = self.array_dictionary = None
        self.schema_released = self.array_released = False
        self.buffers_missing = self.children_missing = False

    def schema(self):
        children = [c and c.schema() for c in self.children]
        count = len(children) if self.schema_children is None else self.schema_children
        return self._filled(
            CSchema(format=self.format, name=b"x", flags=2, n_children=count),
            children,
            self.schema_dictionary and self.schema_dictionary.schema(),
            self.schema_released,
        )

    def array(self):
        children = [c and c.array() for c in self.children]
        count = len(children) if self.array_children is None else self.array_children
        arrays = [None if b is None else np.ascontiguousarray(b) for b in self.buffers]
        pointers = (ctypes.c_void_p * max(len(arrays), 1))(
            *(None if a is None else a.ctypes.data for a in arrays)
        )
        struct = CArray(
            length=self.length,
            null_count=self.null_count,
            offset=self.offset,
            n_buffers=len(arrays) if self.n_buffers is None else self.n_buffers,
            n_children=count,
            buffers=None if self.buffers_missing else ctypes.addressof(pointers),
        )
        dictionary = self.array_dictionary and self.array_dictionary.array()
        struct.data = arrays, pointers
        return self._filled(struct, children, dictionary, self.array_released)

    def _filled(self, struct, children, dictionary, released):
        pointers = (ctypes.c_void_p * max(len(children), 1))(
            *(c and ctypes.addressof(c) for c in children)
        )
        struct.children = None if self.children_missing else ctypes.addressof(pointers)
        struct.dictionary = dictionary and ctypes.addressof(dictionary)
        # The struct keeps alive what it points to, and lives until the end of the test.
        struct.below = pointers, children, dictionary
        if not released:
            struct.release = ctypes.cast(_RELEASE[type(struct)], ctypes.c_void_p).value
        return struct


def capsule(struct, name=None):
    if struct.release:
        struct.private_data = next(_serial)
        _unreleased.add(struct.private_data)
    made = _new_capsule(ctypes.addressof(struct), name or _NAMES[type(struct)], None)
    _capsules.append((made, struct))
    return made


class Producer:
    """An object with Arrow's protocol that exports a node."""

    def __init__(self, node, swap=lambda pair: pair, names=(None, None)):
        self.node, self.swap, self.names = node, swap, names
        self.num_rows = node.length

    def __arrow_c_array__(self, requested_schema=None):
        structs = self.node.schema(), self.node.array()
        return self.swap(tuple(map(capsule, structs, self.names)))


def number_node(fmt=b"g", values=(1.0, 2.0, 4.0), valid=None, kind=np.float64, **rest):
    bitmap = None if valid is None else np.packbits(valid, bitorder="little")
    nulls = 0 if valid is None else len(valid) - sum(valid)
    rest = {"null_count": nulls, **rest}
    values = np.array(values, kind)
    return Node(fmt, rest.pop("length", len(values)), [bitmap, values], **rest)


def batch_node():
    """Return a batch of x (double), s (struct of y: int64) and v (lists of two int32)."""
    x = number_node()
    y = number_node(b"l", [5, 6, 7], kind=np.int64)
    items = number_node(b"i", [1, 2, 3, 4, 5, 6], kind=np.int32)
    s, v = Node(b"+s", 3, [None], [y]), Node(b"+w:2", 3, [None], [items])
    return Node(b"+s", 3, [None], [x, s, v])


PLACES = [BoundColumn((0,), None), BoundColumn((1, 0), None), BoundColumn((2,), 2)]
LAYOUT = Layout(PLACES)


@pytest.fixture(autouse=True)
def check_released():
    """Check that consumers keep no capsule and release every struct they took over."""
    yield
    given = _capsules[:]
    _capsules.clear()
    for made, struct in given:
        kept = sys.getrefcount(made) > 3
        if struct.release and not kept:
            _RELEASE[type(struct)](ctypes.addressof(struct))
    if _unreleased:
        gc.collect()
    left = len(_unreleased)
    _unreleased.clear()
    assert left == 0


def feature_transform(width, location=0.0, spread=1.0, low=0.0, affine=None, clip=None, known=None):
    gamma, beta = (None, None) if affine is None else affine
    return FeatureTransform(
        np.broadcast_to(np.float64(location), (width,)).copy(),
        np.broadcast_to(np.float64(low), (width,)).copy(),
        np.broadcast_to(np.float64(spread), (width,)).copy(),
        None if gamma is None else np.broadcast_to(np.float64(gamma), (width,)).copy(),
        None if beta is None else np.broadcast_to(np.float64(beta), (width,)).copy(),
        clip,
        np.ones(width, bool) if known is None else known,
    )


def collect_errors(producer, layout=LAYOUT.packed, features=4, columns=3):
    """Call both functions on a batch that they refuse, and return the exceptions."""
    raised = []
    memory = np.full((FIELDS, features), 77)
    for decay in (1.0, 0.5):
        with pytest.raises(Exception) as error:  # noqa: PT011 - the caller checks it
            core_moments(producer, layout, decay, False, 1, memory)
        raised.append(error.value)
    nans, infs = np.full((2, features), 77)
    one, known = np.ones(features), np.ones(features, bool)
    arguments = (one, one, one, None, None, np.inf, known, False, "g" * columns, nans, infs, 1)
    with pytest.raises(Exception) as error:  # noqa: PT011
        core_transform(producer, layout, *arguments)
    raised.append(error.value)
    assert (memory == 77).all()
    assert (nans == 77).all()
    assert (infs == 77).all()
    return raised


def set_fields(path, **fields):
    """Return a function that sets attributes of the node at a path of children."""

    def change(node):
        for index in path:
            node = node.children[index]
        for name, value in fields.items():
            setattr(node, name, value)

    return change


def remove_child(*path):
    """Return a function that replaces the child at a path by a null pointer."""

    def change(node):
        for index in path[:-1]:
            node = node.children[index]
        node.children[path[-1]] = None

    return change


def remove_buffer(*path):
    """Return a function that replaces the buffer at a path by a null pointer."""

    def change(node):
        for index in path[:-1]:
            node = node.children[index]
        node.buffers[path[-1]] = None

    return change


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
    "swap",
    [
        lambda pair: None,
        list,
        lambda pair: pair[:1],
        lambda pair: (*pair, None),
        lambda pair: (None, None),
        lambda pair: pair[::-1],
        lambda pair: (pair[0], pair[0]),
        lambda pair: (1, 2),
    ],
    ids=["None", "list", "one", "three", "no capsules", "swapped", "two schemas", "numbers"],
)
def test_producer_must_return_two_capsules(swap):
    for error in collect_errors(Producer(batch_node(), swap)):
        assert isinstance(error, ValueError)


@pytest.mark.parametrize("names", [(b"schema", None), (None, b"used_arrow_array")])
def test_capsules_with_other_names_raise(names):
    for error in collect_errors(Producer(batch_node(), names=names)):
        assert isinstance(error, ValueError)


def test_errors_of_the_protocol_propagate():
    class Broken:
        def __arrow_c_array__(self, requested_schema=None):
            raise ZeroDivisionError("from within")

    assert {type(error) for error in collect_errors(Broken())} == {ZeroDivisionError}
    assert {type(error) for error in collect_errors(object())} == {AttributeError}


LAYOUTS = {
    "bytes that are not whole integers": LAYOUT.packed[:-1],
    "a missing integer": LAYOUT.packed[:-4],
    "a surplus integer": LAYOUT.packed + bytes(4),
    "a negative size": np.array([-1, 1, 0], np.int32).tobytes(),
    "a path of length zero": np.array([0, 0], np.int32).tobytes(),
    "a path of negative length": np.array([0, -1, 0], np.int32).tobytes(),
    "a path beyond the end": np.array([0, 9, 0], np.int32).tobytes(),
    "a path far beyond the end": np.array([0, 2**31 - 1, 0], np.int32).tobytes(),
    "a negative child": np.array([0, 1, -1], np.int32).tobytes(),
    "a child past the last": np.array([0, 1, 3], np.int32).tobytes(),
    "the largest child": np.array([0, 1, 2**31 - 1], np.int32).tobytes(),
    "a step below a number": np.array([0, 2, 0, 0], np.int32).tobytes(),
    "a step below a list": np.array([0, 2, 2, 0], np.int32).tobytes(),
    "a path that ends at a struct": np.array([0, 1, 1], np.int32).tobytes(),
    "a list where the batch has a number": np.array([3, 1, 0], np.int32).tobytes(),
    "the largest list size": np.array([2**31 - 1, 1, 2], np.int32).tobytes(),
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


ARRAY_ERRORS = (ValueError, BufferError, TypeError)


def test_unfit_moments_array_raises():
    for name, out in unfit_arrays((FIELDS, 4), np.int64):
        with contextlib.suppress(*ARRAY_ERRORS):
            core_moments(Producer(batch_node()), LAYOUT.packed, 1.0, False, 1, out)
            pytest.fail(f"an array {name} was taken")
        if isinstance(out, np.ndarray) and out.dtype.kind != "O":
            assert not out.any()


def test_unfit_weights_array_raises():
    for name, weights in unfit_arrays((3,), np.float64):
        if name == "read-only" or weights is None:
            continue
        out = np.zeros((FIELDS, 4), np.int64)
        with contextlib.suppress(*ARRAY_ERRORS):
            core_moments(Producer(batch_node()), LAYOUT.packed, 1.0, False, 1, out, weights)
            pytest.fail(f"an array {name} was taken")
        assert not out.any()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_merge_of_unfit_arrays_raises(at):
    for name, array in unfit_arrays((FIELDS, 4), np.int64):
        if name == "read-only" and at < 2:
            continue
        arguments = [np.zeros((FIELDS, 4), np.int64) for _ in range(3)]
        arguments[at] = array
        with contextlib.suppress(*ARRAY_ERRORS):
            _core.merge_moments(*arguments)
            pytest.fail(f"an array {name} was taken")
        assert not arguments[2 if at < 2 else 0].any()


@pytest.mark.parametrize(
    ("at", "kind"),
    [(0, float), (1, float), (2, float), (3, float), (4, float), (6, bool), (9, int), (10, int)],
)
def test_unfit_feature_array_raises(at, kind):
    for name, array in unfit_arrays((4,), np.dtype(kind).type):
        one, known = np.ones(4), np.ones(4, bool)
        nans, infs = np.zeros((2, 4), np.int64)
        arguments = [one, one, one, one, one, np.inf, known, False, "ggg", nans, infs, 1]
        if (name == "read-only" and at < 9) or (array is None and at in (3, 4)):
            continue
        if kind is bool and name == "of another byte order":
            continue
        arguments[at] = array
        with contextlib.suppress(*ARRAY_ERRORS):
            core_transform(Producer(batch_node()), LAYOUT.packed, *arguments)
            pytest.fail(f"an array {name} was taken")
        assert not nans.any()
        assert not infs.any()


@pytest.mark.parametrize("formats", ["", "gg", "gggg", "ggx", "gg0"])
def test_output_needs_one_float_type_per_column(formats):
    one, known = np.ones(4), np.ones(4, bool)
    nans, infs = np.zeros((2, 4), np.int64)
    with pytest.raises(ValueError, match=r"schema|list|float16, float32 or float64"):
        core_transform(
            Producer(batch_node()), LAYOUT.packed, one, one, one, None, None, np.inf, known,
            False, formats, nans, infs, 1,
        )  # fmt: skip


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


# -------------------------------------------------------------- valid but unusual batches


COUNTS = ("count", "nulls", "nans", "pos_infs", "neg_infs")
# Tolerance of a mean, in standard deviations, and of a sum of squares, relative. The compiled
# kernels add at most 20 terms in a row: n - 1 roundings of 2**-53 are at most 2.2e-15 of the
# sum of the absolute terms. Squares about a centre are at most four times the squares about the
# mean, because the kernels choose another centre beyond that, which makes 9e-15. The reference
# sums 512 terms at a time, pairwise or in SIMD registers.
CLOSE = 1e-14


def assert_moments_agree(got, expected, close=CLOSE):
    """Check that all counts are equal and that all sums agree within their rounding errors."""
    for name in (*COUNTS, "min", "max"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)
    np.testing.assert_allclose(got.weight, expected.weight, rtol=close, atol=0)
    # A weight is rounded once a row until it vanishes; its square may be below any float64.
    np.testing.assert_allclose(got.squares, expected.squares, rtol=1e-12, atol=2.0**-1074)
    # The reference adds the pairs row by row, and subtracts each weight from the running sum.
    pairs = np.abs(got.pairs - expected.pairs)
    assert (pairs <= 1e-12 * expected.pairs + 2.0**-50 * expected.weight**2).all()
    # One rounding per 512 rows.
    np.testing.assert_allclose(got.decay, expected.decay, rtol=1e-13, atol=0)
    # Once the past is forgotten, the exponent may be that of the last 512 rows or of all rows.
    units = expected.exponent - got.exponent
    expected = expected.replace(
        mean_hi=np.ldexp(expected.mean_hi, units),
        mean_lo=np.ldexp(expected.mean_lo, units),
        m2_hi=np.ldexp(expected.m2_hi, 2 * units),
        m2_lo=np.ldexp(expected.m2_lo, 2 * units),
    )
    with np.errstate(all="ignore"):
        deviation = np.sqrt(np.where(got.weight > 0, expected.m2_hi / expected.weight, 0.0))
        mean = (got.mean_hi - expected.mean_hi) + (got.mean_lo - expected.mean_lo)
        m2 = (got.m2_hi - expected.m2_hi) + (got.m2_lo - expected.m2_lo)
    # The smallest float64, converted to the units of `expected`.
    least = np.ldexp(2.0**-1074, np.maximum(units, 0))
    slack = 2.0**-95 * np.abs(expected.mean_hi) + least
    assert (np.abs(mean) <= close * deviation + slack).all()
    assert (np.abs(m2) <= close * expected.m2_hi).all()


def values_and_validity(array):
    """Return the numbers of an output, including those under nulls, and its validity."""
    kind = array.type.to_pandas_dtype()
    numbers = np.frombuffer(array.buffers()[1] or b"", kind)[array.offset :][: len(array)]
    valid = unpack_validity(array, 0, len(array))
    return numbers, np.ones(len(array), bool) if valid is None else valid


def assert_outputs_equal(a, b):
    """Check that two outputs have the same nulls and numbers, the signs of zeros aside."""
    (ours, valid), (theirs, expected) = values_and_validity(a), values_and_validity(b)
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(ours, theirs)
    assert a.null_count == len(a) - valid.sum()


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


def single_column_node(node, offset=0, length=None):
    return Node(b"+s", node.length if length is None else length, [None], [node], offset=offset)


PLAIN = Layout([BoundColumn((0,), None)])
VALUES = np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
VALID = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1], bool)


def batch_of(**columns):
    return pa.record_batch({name: pa.array(v, from_pandas=False) for name, v in columns.items()})


def masked_array(values, valid, kind=None):
    return pa.array(values, kind, mask=~np.asarray(valid), from_pandas=False)


@pytest.mark.parametrize("own", [0, 1, 3])
@pytest.mark.parametrize("above", [0, 1, 5])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_batch_and_column_offsets_add_up(own, above, decay):
    rows = len(VALUES) - own - above
    node = number_node(values=VALUES, valid=VALID, offset=own, length=len(VALUES) - own)
    assert_producer_agrees(
        Producer(single_column_node(node, above, rows)),
        pa.record_batch({"x": masked_array(VALUES, VALID).slice(own + above)}),
        PLAIN,
        decay,
    )


@pytest.mark.parametrize("offset", [0, 1, 2])
@pytest.mark.parametrize("below", [0, 1, 3])
def test_struct_offset_applies_to_bitmap_and_fields(offset, below):
    rows = len(VALUES) - offset - below
    field = number_node(values=VALUES, valid=VALID, offset=below, length=len(VALUES) - below)
    above = np.arange(rows + offset) % 3 > 0
    bitmap = np.packbits(above, bitorder="little")
    struct = Node(b"+s", rows, [bitmap], [field], offset=offset, null_count=-1)
    shown = pa.StructArray.from_arrays(
        [masked_array(VALUES, VALID).slice(below + offset)], ["y"], mask=pa.array(~above[offset:])
    )
    batch = pa.record_batch({"x": shown})
    assert_producer_agrees(
        Producer(single_column_node(struct)), batch, Layout([BoundColumn((0, 0), None)])
    )


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
    batch = pa.record_batch({"x": shown})
    assert_producer_agrees(
        Producer(single_column_node(lists)), batch, Layout([BoundColumn((0,), size)]), decay
    )


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
    got = assert_producer_agrees(
        Producer(single_column_node(node)), batch_of(x=masked_array(VALUES, valid)), PLAIN, decay
    )
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
    node = single_column_node(Node(fmt, 0, [None, None]))
    for decay in (1.0, 0.5):
        got = native.block_moments(Columns(Producer(node), PLAIN), decay)
        for a, b in zip(got, native.empty_moments(1), strict=True):
            np.testing.assert_array_equal(a, b)
    out = run_transform(
        native.normalize, Columns(Producer(node), PLAIN), feature_transform(1), [F4]
    ).arrays[0]
    assert out.equals(pa.array([], pa.float32()))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_batch_without_columns_has_no_features(rows):
    node = Node(b"+s", rows, [None])
    for layout in (Layout([]), Layout([], encoded=True)):
        batch = Producer(node) if not layout.encoded else pa.record_batch({})
        got = native.block_moments(Columns(batch, layout))
        assert got.memory.shape == (FIELDS, 0)
        assert (
            run_transform(native.normalize, Columns(batch, layout), feature_transform(0), []).arrays
            == []
        )


def test_unbound_columns_are_not_read():
    node = single_column_node(Node(b"nonsense", -3, [None]), length=3)
    assert native.block_moments(Columns(Producer(node), Layout([]))).memory.shape == (FIELDS, 0)


def test_null_type_columns_are_nulls():
    nulls, rows = pa.nulls(5), 5
    struct = pa.StructArray.from_arrays([nulls, pa.array(range(rows))], ["a", "b"])
    batch = pa.record_batch([nulls, struct, nulls, nulls], names=list("abcd"))
    layout = Layout(
        [
            BoundColumn((0,), None),
            BoundColumn((1, 0), None),
            BoundColumn((1, 1), None),
            BoundColumn((2, 1, 3), None),  # bound to a struct
            BoundColumn((3,), 3),  # bound to a list
        ]
    )
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
        room[shift : shift + rows * size] = np.frombuffer(plain.buffers()[1], np.uint8)[
            : rows * size
        ]
        moved = pa.py_buffer(room)[shift:]
        array = pa.Array.from_buffers(kind, rows, [None, moved])
        assert array.buffers()[1].address % size or shift % size == 0
        assert_producer_agrees(
            pa.record_batch({"x": array}), pa.record_batch({"x": plain}), PLAIN, decay
        )
        if rows % 2 == 0:
            wide = [pa.FixedSizeListArray.from_arrays(a, 2) for a in (array, plain)]
            batches = [pa.record_batch({"x": a}) for a in wide]
            assert_producer_agrees(*batches, Layout([BoundColumn((0,), 2)]), decay)


def test_sliced_dictionaries_and_runs_with_nulls():
    indices = pa.array([0, 1, None, 2, 1, 0, 2, None, 1], pa.int8())
    words = pa.DictionaryArray.from_arrays(
        indices, pa.array([1.5, None, np.nan], from_pandas=False)
    )
    runs = pa.RunEndEncodedArray.from_arrays(
        pa.array([2, 3, 7, 9], pa.int32()), pa.array([1.0, None, 5.0, 7.0])
    )
    items = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 1] * 4 + [0, 1]), pa.array([3, None])
    )
    lists = pa.FixedSizeListArray.from_arrays(items, 2)
    layout = Layout(
        [BoundColumn((0,), None), BoundColumn((1,), None), BoundColumn((2,), 2)], encoded=True
    )
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
        assert_producer_agrees(some, some, Layout([BoundColumn((0,), 4)]))


# ------------------------------------------------------------ agreement on random columns

SHORT = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65]
MEDIUM = [127, 129, 511, 512, 513, 1023, 1024, 1025, 1535, 1537, 2000]
LONG = [32767, 32768, 32769, 65541, 131071, 131072, 131073]
INTEGERS = [np.dtype(f"{sign}{size}") for sign in "iu" for size in (1, 2, 4, 8)]
FLOATS = [F2, F4, F8]
DIGITS = {32: 9, 64: 18, 128: 38, 256: 76}
DECIMAL = {32: pa.decimal32, 64: pa.decimal64, 128: pa.decimal128, 256: pa.decimal256}


class RandomColumn:
    """A random column: its array, its exact values, and the properties that it was drawn with."""

    def __init__(self, rng, rows):
        self.rng, self.rows = rng, rows
        self.size = None if rng.random() < 0.7 else int(rng.integers(1, 21))
        if rows > 65 and self.size:
            self.size = min(self.size, 4) if rows <= 2000 else None
        width = self.size or 1
        self.before, behind = (int(rng.choice([0, 0, 1, 3, 7, 8, 13])) for _ in range(2))
        self.n = n = (self.before + rows + behind) * width
        family = rng.choice(["float", "integer", "decimal"], p=[0.5, 0.3, 0.2])
        self.exact = family != "float"
        self.far = False
        numbers, values = getattr(self, f"_{family}")()
        valid = self._validity(n)
        inner = pa.Array.from_buffers(
            self.kind, n, [None if valid is None else _bitmap(valid), pa.py_buffer(numbers)]
        )
        array, present = inner, np.ones(n, bool) if valid is None else valid
        if self.size:
            above = self._validity(n // width)
            missing = None if above is None else pa.array(~above)
            array = pa.FixedSizeListArray.from_arrays(inner, width, mask=missing)
            if above is not None:
                present = present & np.repeat(above, width)
        self.array = array.slice(self.before, rows)
        shown = slice(self.before * width, (self.before + rows) * width)
        self.values = values[shown].reshape(rows, width)
        self.present = present[shown].reshape(rows, width)

    @property
    def columns(self):
        return Columns(pa.record_batch({"x": self.array}), Layout([BoundColumn((0,), self.size)]))

    def _validity(self, n):
        rng = self.rng
        pattern = rng.choice(["none", "all", "random", "few", "runs", "first", "last"])
        if pattern == "none" or n == 0:
            return None
        valid = np.ones(n, bool)
        if pattern == "all":
            valid[:] = False
        elif pattern == "random":
            valid = rng.random(n) < rng.random()
        elif pattern == "few":
            valid[rng.integers(0, n, 3)] = False
        elif pattern == "runs":
            valid = np.repeat(rng.random(n // 100 + 1) < 0.5, 100)[:n]
        elif pattern == "first":
            valid[0] = False
        elif rng.random() < 0.5:
            valid[-1] = False
        else:
            valid[:-1] = False
        return valid

    def _float(self):
        rng, n = self.rng, self.n
        dtype = FLOATS[rng.choice(3, p=[0.15, 0.25, 0.6])]
        self.kind = pa.from_numpy_dtype(dtype)
        shape = rng.choice(["normal", "two", "sorted", "constant", "wide", "huge", "tiny", "step"])
        x = rng.normal(size=n)
        if shape == "normal":
            x = x + 10.0 ** rng.uniform(-2, 15) * rng.choice([-1, 1])
        elif shape == "two":
            x = rng.choice(rng.normal(rng.choice([0, 1e6]), 1, 2), n)
        elif shape == "sorted":
            x = np.sort(x) + rng.choice([0.0, 1e3])
        elif shape == "constant":
            x = np.full(n, x[0] * 10.0 ** rng.integers(-300, 300) if n else 0.0)
        elif shape == "wide":
            x = x * 10.0 ** rng.integers(-250, 250, n)
        elif shape == "huge":
            x = np.clip(x, -2, 2) / 2 * 1.7e308
        elif shape == "tiny":
            x = np.rint(4 * x) * 5e-324
        else:
            # Two levels, far from each other: no centre suits both.
            x = x * 0.1 + np.where(np.arange(n) < rng.integers(0, n + 1), 0.0, 1e8)
        if rng.random() < 0.3 and n:
            where = rng.integers(0, n, int(rng.integers(1, 2 + n // 4)))
            x[where] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], len(where))
        with np.errstate(all="ignore"):
            x = x.astype(dtype)
        return x, x.astype(np.float64)

    def _draw_integers(self, low, high, octets):
        """Draw Python integers near one number, over the whole range, or at its ends."""
        rng, n = self.rng, self.n
        if self.rows > 65:
            # Columns of this length are compared with the reference alone. It subtracts its
            # base exactly only where a float64 holds the difference.
            low, high = max(low, -(2**52)), min(high, 2**52)
        shape = rng.choice(["near", "near", "anywhere", "ends", "constant"])
        if shape == "anywhere":
            octet_string, reach = rng.bytes(n * octets), high - low + 1
            parts = (octet_string[i : i + octets] for i in range(0, n * octets, octets))
            return [low + int.from_bytes(part) % reach for part in parts]
        if shape == "ends":
            return [low + (high - low) * v // 9 for v in rng.integers(0, 10, n).tolist()]
        middle = (0, low, high, low + (high - low) * int(rng.integers(2**30)) // 2**30)
        middle = middle[rng.integers(4)]
        spread = 0 if shape == "constant" else int(10.0 ** rng.uniform(0, 15))
        near = rng.integers(-spread, spread + 1, n).tolist()
        return [min(max(middle + v, low), high) for v in near]

    def _integer(self):
        dtype = INTEGERS[self.rng.integers(len(INTEGERS))]
        self.kind = pa.from_numpy_dtype(dtype)
        limits = np.iinfo(dtype)
        values = self._draw_integers(int(limits.min), int(limits.max), dtype.itemsize)
        self.far = any(abs(v) > 2**53 for v in values)
        return np.array(values, dtype), np.array(values, object)

    def _decimal(self):
        bits = int(self.rng.choice([32, 64, 128, 256]))
        digits = DIGITS[bits]
        self.kind = DECIMAL[bits](digits, int(self.rng.integers(0, digits + 1)))
        top = 10 ** int(self.rng.integers(1, digits + 1)) - 1
        values = self._draw_integers(-top, top, bits // 8)
        octets = b"".join(v.to_bytes(bits // 8, "little", signed=True) for v in values)
        self.far = any(abs(v) > 2**53 for v in values)
        ten = 10**self.kind.scale
        return octets, np.array([Fraction(v, ten) for v in values], object)


def _bitmap(valid):
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def random_columns(seed, count):
    rng = np.random.default_rng(seed)
    for i in range(count):
        rows = int(rng.choice(LONG if i % 500 == 0 else MEDIUM if i % 15 == 0 else SHORT))
        decay = float(rng.choice([1.0, 1.0, 0.5, 0.999, 0.0]))
        yield i, rng, RandomColumn(rng, rows), decay


def finite_values(column, feature):
    """Return the values of a feature, and which of them are present and finite."""
    values, present = column.values[:, feature], column.present[:, feature]
    if column.exact:
        return values, present
    return values, present & np.isfinite(values)


def assert_extremes(column, got):
    """Check that minimum and maximum are those of the values, rounded once."""
    for feature in range(column.values.shape[1]):
        values, usable = finite_values(column, feature)
        some = values[usable]
        if not len(some):
            assert (got.min[feature], got.max[feature]) == (np.inf, -np.inf)
            continue
        for ours, exact in ((got.min[feature], min(some)), (got.max[feature], max(some))):
            if not pa.types.is_decimal(column.kind):
                assert ours == float(exact)
                continue
            # Rounded to nearest, up to ties that 106 bits cannot decide.
            half = Fraction(np.spacing(abs(ours))) / 2
            assert abs(Fraction(ours) - exact) <= half * (1 + Fraction(1, 2**40))


def assert_moments_near_exact(column, got, decay, ignore_na):
    """Compare mean, sum of squares and the sums of weights with exact fractions."""
    close = Fraction(CLOSE)
    for feature in range(min(column.values.shape[1], 3 if column.rows <= 9 else 1)):
        values, usable = finite_values(column, feature)
        if not usable.any():
            assert got.weight[feature] == got.m2_hi[feature] == 0
            continue
        behind = np.cumsum(usable[::-1])[::-1] - usable
        ages = (behind if ignore_na else np.arange(len(usable))[::-1])[usable]
        weights = [Fraction(decay) ** int(age - ages[-1]) for age in ages]
        mean, m2 = exact_moments(list(values[usable]), weights)
        # Rows after the last value fade all sums, but the weight never below its minimum.
        weight = sum(weights)
        faded = Fraction(decay) ** int(ages[-1])
        faded = faded if ages[-1] == 0 else max(faded, min(1, Fraction(1, 2**400) / weight))
        squares = sum(w * w for w in weights)
        pairs = (weight**2 - squares) / 2
        unit = Fraction(2) ** int(got.exponent[feature])
        got_mean = (Fraction(got.mean_hi[feature]) + Fraction(got.mean_lo[feature])) * unit
        got_m2 = (Fraction(got.m2_hi[feature]) + Fraction(got.m2_lo[feature])) * unit**2
        assert abs(got_m2 - m2 * faded) <= close * m2 * faded
        # Numbers below 2**-1000 of the largest value may vanish in its units.
        slack = abs(mean) / 2**95 + Fraction(np.abs(values[usable]).max()) / 2**1000
        apart = max(abs(got_mean - mean) - slack, 0)
        if pa.types.is_decimal(column.kind) and column.kind.bit_width > 64:
            # A batch has one base, which may be a forgotten value far from the rest.
            apart = max(apart - (max(values[usable]) - min(values[usable])) / 2**53, 0)
        assert apart**2 * weight <= close**2 * m2
        assert abs(Fraction(got.weight[feature]) - weight * faded) <= close * weight * faded
        # A product of two weights may be below the least float64.
        for ours, products in ((got.pairs[feature], pairs), (got.squares[feature], squares)):
            slack = close * products * faded**2 + Fraction(1, 2**1074)
            assert abs(Fraction(ours) - products * faded**2) <= slack


def test_moments_agree_with_the_reference_or_with_fractions(long):
    exactly, arrays = 0, 10_000 if long else 1_500
    for i, rng, column, decay in random_columns(1, arrays):
        ignore_na = bool(rng.integers(2)) and decay != 1
        got = native.block_moments(column.columns, decay, ignore_na)
        few = column.rows <= 65
        try:
            assert_extremes(column, got)
            if not column.far or not few:
                assert_moments_agree(got, reference.block_moments(column.columns, decay, ignore_na))
            if few and (column.far or (column.rows <= 9 and i % 4 == 0)):
                exactly += 1
                assert_moments_near_exact(column, got, decay, ignore_na)
        except AssertionError as error:
            error.add_note(
                f"array {i}: {column.kind} x {column.size}, {column.rows} rows, decay {decay}"
            )
            raise
    assert exactly > arrays / 5


def random_transform(rng, column, m):
    """Return a transform with roughly the mean and deviation of the column."""
    width = column.size or 1
    with np.errstate(all="ignore"):
        hi = np.ldexp(m.mean_hi, m.exponent)
        spread = np.ldexp(np.sqrt(m.m2_hi / np.maximum(m.weight, 1)), m.exponent)
        low = np.where(np.abs(hi) < 1e300, np.ldexp(m.mean_lo, m.exponent), 0.0)
    spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
    affine = rng.random() < 0.3
    return FeatureTransform(
        hi, low, spread,
        rng.uniform(0.5, 2, width) if affine else None,
        rng.normal(size=width) if affine else None,
        float(rng.choice([1e-3, 0.5, 3.0])) if rng.random() < 0.3 else None,
        np.ones(width, bool) if rng.random() < 0.7 else rng.random(width) < 0.5,
    )  # fmt: skip


def assert_outputs_close(a, b, slack):
    """Check that outputs differ by at most `slack`, plus one ulp of a type below float64."""
    (ours, valid), (theirs, expected) = values_and_validity(a), values_and_validity(b)
    np.testing.assert_array_equal(valid, expected)
    assert a.null_count == len(a) - valid.sum()
    assert not ours[~valid].any()
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(all="ignore"):
        unit = 0.0 if ours.dtype == F8 else np.spacing(np.maximum(np.abs(ours), np.abs(theirs)))
        apart = np.abs(ours.astype(F8) - theirs.astype(F8))
    assert (same | (apart <= unit + slack)).all()


def test_transforms_agree_with_the_reference(long):
    for i, rng, column, _ in random_columns(2, 2000 if long else 500):
        moments = native.block_moments(column.columns)
        transform = random_transform(rng, column, moments)
        dtype = FLOATS[rng.integers(3)]
        # Both kernels read floats unchanged, but subtract different bases from types wider
        # than 53 bits. Each of the few steps that follow rounds a number no larger than the
        # distance of a value from the other kernel's base, or than a value.
        slack = backward = 0.0
        with np.errstate(all="ignore"):
            if pa.types.is_decimal(column.kind) or column.kind in (pa.int64(), pa.uint64()):
                low = np.where(moments.count > 0, moments.min, 0.0)
                high = np.where(moments.count > 0, moments.max, 0.0)
                reach = np.maximum(high - transform.location_hi, transform.location_hi - low)
                gamma = 1.0 if transform.gamma is None else transform.gamma
                largest = np.maximum(-low, high)
                # A base is a float64, so that it is off by up to 2**-53 of the values.
                reach = reach + largest * 2.0**-53
                slack = np.max(8 * 2.0**-53 * gamma * (reach / transform.scale + 1))
                backward = np.max(16 * 2.0**-53 * (largest + 9) * transform.scale * 2)
        try:
            ours = run_transform(native.normalize, column.columns, transform, [dtype])
            theirs = run_transform(reference.normalize, column.columns, transform, [dtype])
            if slack == 0 and dtype != F4:
                assert_outputs_equal(ours.arrays[0], theirs.arrays[0])
            assert_outputs_close(ours.arrays[0], theirs.arrays[0], slack)
            np.testing.assert_array_equal(ours.nans, theirs.nans)
            np.testing.assert_array_equal(ours.infs, theirs.infs)
            back = run_transform(native.denormalize, column.columns, transform, [dtype])
            again = run_transform(reference.denormalize, column.columns, transform, [dtype])
            if backward == 0:
                assert_outputs_equal(back.arrays[0], again.arrays[0])
            assert_outputs_close(back.arrays[0], again.arrays[0], backward)
            np.testing.assert_array_equal(back.nans, again.nans)
        except AssertionError as error:
            error.add_note(
                f"array {i}: {column.kind} x {column.size}, {column.rows} rows, to {dtype}"
            )
            raise


# ----------------------------------------------------------- instruction sets and threads

# Every type, plain and in lists, with and without nulls, in lengths around the limits of the
# compiled loops.
SIMD_SCRIPT = """
import sys
import threading
import time
import numpy as np, pyarrow as pa
from decimal import Decimal
from streambn.kernels import Columns, Layout, BoundColumn, native

def arrays(rows):
    rng = np.random.default_rng(rows)
    x = rng.normal(1e6, 1, rows)
    null = rng.random(rows) < 0.1
    for kind in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split():
        small = kind in ("f2", "i1", "u1")
        with np.errstate(all="ignore"):
            v = (np.abs(x - 1e6) * 30 if small or kind == "i2" else np.abs(x) * 1000).astype(kind)
        for mask in (None, null):
            yield pa.array(v, mask=mask)
        flat = pa.array(v[: rows // 3 * 3], mask=null[: rows // 3 * 3])
        yield pa.FixedSizeListArray.from_arrays(flat, 3)
    for bits, digits in ((32, 9), (64, 18), (128, 38), (256, 76)):
        if rows < 2000:
            kind = getattr(pa, f"decimal{bits}")(digits, 2)
            yield pa.array([Decimal(int(v)) / 100 for v in x], kind, mask=null)
    spoiled = np.where(null, rng.choice([np.nan, np.inf, -np.inf, 1e300, 1e-300], rows), x)
    yield pa.array(spoiled, mask=np.roll(null, 1), from_pandas=False)
    yield pa.array(x * 1e-310)

out = []
for rows in (1, 7, 65, 511, 513, 1025, 32769, 140001):
    for array in arrays(rows):
        size = getattr(array.type, "list_size", None)
        columns = Columns(pa.record_batch({"x": array}), Layout([BoundColumn((0,), size)]))
        for decay in (1.0, 0.99, 0.0):
            for ignore_na in (False, True):
                out.append(native.block_moments(columns, decay, ignore_na).memory)
np.save(sys.argv[1], np.concatenate(out, axis=1))
print(native.simd)
"""


def test_instruction_sets_give_the_same_moments(tmp_path):
    found = {}
    for simd in ("baseline", "avx2", "avx512"):
        path = tmp_path / f"{simd}.npy"
        ran = subprocess.run(
            [sys.executable, "-c", SIMD_SCRIPT, path],
            env={**os.environ, "STREAMBN_SIMD": simd}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[ran.stdout.strip()] = MomentArrays(np.load(path))
    assert "baseline" in found
    first = found["baseline"]
    assert first.memory.shape[1] > 1000
    for other in found.values():
        for name in (*COUNTS, "min", "max", "weight", "pairs", "squares", "decay", "exponent"):
            a, b = getattr(first, name), getattr(other, name)
            assert a.tobytes() == b.tobytes(), name
        # The error of a square comes from a fused multiply-add or from split factors. The two
        # differ below the hundredth bit where that error is subnormal.
        for name in ("mean", "m2"):
            (a, b), (c, d) = (
                (getattr(m, f"{name}_hi"), getattr(m, f"{name}_lo")) for m in (first, other)
            )
            assert (np.abs((a - c) + (b - d)) <= 1e-28 * np.abs(a)).all()


def large_batch():
    rng = np.random.default_rng(0)
    rows = 3_000_000
    x = rng.normal(1e6, 1, rows)
    null = rng.random(rows) < 0.1
    spoiled = np.where(null, np.nan, x)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x[:rows].astype(F4), mask=null), 1)
    return pa.record_batch(
        {
            "plain": pa.array(x),
            "nulls": pa.array(x, mask=null),
            "nan": pa.array(spoiled, from_pandas=False),
            "int8": pa.array((x % 100).astype(np.int8)),
            "int64": pa.array((x * 1e9).astype(np.int64), mask=null),
            "decimal": pa.Array.from_buffers(
                pa.decimal64(18, 4), rows, [None, pa.py_buffer((x * 1e4).astype(np.int64))]
            ),
            "list": lists,
            "half": pa.array(x.astype(np.float32) - 1e6).cast(pa.float16()),
        }
    )


LARGE = Layout([BoundColumn((i,), 1 if i == 6 else None) for i in range(8)])


@pytest.fixture
def threads():
    """Give a test the function that sets the number of threads, and restore it afterwards."""
    before = native._threads
    yield native.set_threads
    native.set_threads(before)


def result_bytes(columns):
    """Yield the bytes of all moments and outputs of the columns."""
    width = columns.layout.features
    for decay, ignore_na in ((1.0, False), (0.999, False), (0.999, True)):
        yield native.block_moments(columns, decay, ignore_na).memory.tobytes()
    dtypes = [F8, F4, F8, F2, F8, F8, F4, F8][:width]
    for function in (native.normalize, native.denormalize):
        out = run_transform(function, columns, feature_transform(width, 1e6, 2.0, clip=2.5), dtypes)
        yield out.nans.tobytes() + out.infs.tobytes()
        for array in out.arrays:
            yield from (b.to_pybytes() for b in array.buffers() if b)
            yield array.null_count


def test_results_do_not_depend_on_the_number_of_threads(threads):
    columns = Columns(large_batch(), LARGE)
    threads(1)
    expected = list(map(hash, result_bytes(columns)))
    for count in (2, 3, 8):
        threads(count)
        assert list(map(hash, result_bytes(columns))) == expected


def test_any_number_of_threads_is_accepted(threads):
    for count in (1, 7, 2**31 - 1, 2**31, 2**40, 10**30):
        threads(count)
        assert native.block_moments(Columns.of(pa.array([1.0, 3.0]))).mean_hi[0] == 2


def test_concurrent_calls_are_independent(threads):
    batch = large_batch().slice(0, 400_000)
    jobs = [Columns(batch.slice(7 * i, 300_000), LARGE) for i in range(12)]
    threads(1)
    expected = [list(map(hash, result_bytes(job))) for job in jobs]
    threads(3)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: list(map(hash, result_bytes(job))), jobs))
    assert found == expected


def test_concurrent_calls_with_new_decays():
    columns = Columns.of(pa.array(np.random.default_rng(0).normal(size=3000)))
    decays = [0.5 + i / 1000 for i in range(60)] * 4
    alone = [native.block_moments(columns, decay).memory.tobytes() for decay in decays]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda decay: native.block_moments(columns, decay).memory, decays)
        assert [memory.tobytes() for memory in together] == alone


def _run_in_child(queue, batch, count):
    native.set_threads(count)
    moments = native.block_moments(Columns(batch, LARGE), 0.999)
    out = run_transform(
        native.normalize, Columns(batch, LARGE), feature_transform(8, 1e6), [F8] * 8
    )
    queue.put((moments.memory.tobytes(), [a.null_count for a in out.arrays]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with fork: Linux or macOS")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_parent_and_child_work_after_fork(threads):
    batch = large_batch().slice(0, 1_000_000)
    threads(3)
    memory = native.block_moments(Columns(batch, LARGE), 0.999).memory.tobytes()
    nulls = [
        a.null_count
        for a in run_transform(
            native.normalize, Columns(batch, LARGE), feature_transform(8, 1e6), [F8] * 8
        ).arrays
    ]
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    for count in (1, 3):
        child = fork.Process(target=_run_in_child, args=(queue, batch, count))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert queue.get() == (memory, nulls)
    assert native.block_moments(Columns(batch, LARGE), 0.999).memory.tobytes() == memory


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with fork: Linux or macOS")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_works_after_fork_during_a_call(threads):
    columns = Columns(large_batch().slice(0, 300_000), LARGE)
    threads(3)
    memory = native.block_moments(columns, 0.999).memory.tobytes()
    ended = threading.Event()

    def work():
        while not ended.is_set():
            native.block_moments(columns, 0.999)

    busy = threading.Thread(target=work)
    busy.start()
    try:
        for _ in range(30):
            pid = os.fork()
            if pid == 0:  # a failed assertion would run the rest of pytest here
                same = native.block_moments(columns, 0.999).memory.tobytes() == memory
                os._exit(0 if same else 1)
            assert _exit_code(pid, seconds=60) == 0
    finally:
        ended.set()
        busy.join()


def _exit_code(pid, seconds):
    """Wait for a process and return its exit code; kill one that hangs and return None."""
    for _ in range(seconds * 100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def test_any_thread_may_release_outputs_even_at_exit():
    code = """
import threading, numpy as np, pyarrow as pa
from streambn.kernels import Columns, FeatureTransform, native
one = np.ones(1)
transform = FeatureTransform(one, one, one, None, None, None, np.ones(1, bool))
columns = Columns.of(pa.array(np.arange(1e4) % 100))
make = lambda: native.normalize(columns, transform, pa.schema({"0": pa.float64()})).batch.columns
box = [make() for _ in range(20)]
workers = [threading.Thread(target=box.pop) for _ in range(10)]
[w.start() for w in workers], [w.join() for w in workers]
# Arrow's own threads, which do not hold the GIL, drop the last references.
for _ in range(5):
    chunks = pa.chunked_array([make()[0] for _ in range(10)])
    assert pa.table({"x": chunks}).group_by("x").aggregate([]).num_rows == 100
    del chunks
keep = make()
class AtExit:
    def __del__(self, arrays=make()):
        pass
last = AtExit()
print("done")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "done"), ran.stderr


# --------------------------------------------------------------------------------- memory


def test_outputs_outlive_their_input_and_normalizer():
    batch = pa.record_batch({"x": masked_array(np.arange(5000.0), np.arange(5000) % 7 > 0)})
    norm = sbn.Normalizer().update(batch)
    expected = norm.transform(batch).to_pylist()
    out = norm.transform(pa.record_batch(batch.columns, schema=batch.schema))
    column, part = out.column(0), out.column(0).slice(4000, 9)
    del batch, norm, out
    gc.collect()
    junk = [np.full(5000, 7.0) for _ in range(50)]
    assert column.to_pylist() == [row["x"] for row in expected]
    del column
    gc.collect()
    junk += [np.full(64_000, 7.0) for _ in range(50)]
    assert part.to_pylist() == [row["x"] for row in expected[4000:4009]]


@pytest.mark.parametrize("rows", [10, 100_000])
def test_arrow_allocates_and_frees_outputs(rows):
    gc.collect()
    columns = Columns(
        pa.record_batch({"x": masked_array(np.arange(float(rows)), np.arange(rows) % 3 > 0)}), PLAIN
    )
    before = pa.total_allocated_bytes()
    out = run_transform(native.normalize, columns, feature_transform(1), [F8])
    grown = pa.total_allocated_bytes() - before
    # Small outputs share 64 KB; Arrow rounds larger ones up to 64 bytes.
    assert rows * 8 <= grown <= max(2 * 65536, rows * 8 + rows // 8 + 65536 + 256)
    assert out.arrays[0].buffers()[1].address % 64 == 0
    del out
    assert pa.total_allocated_bytes() == before


def resident_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.memory
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc: run it on Linux")
def test_repeated_calls_and_errors_leak_nothing():
    rows = 5000
    batch = pa.record_batch(
        {
            "x": masked_array(np.arange(float(rows)), np.arange(rows) % 3 > 0),
            "v": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * rows)), 2),
        }
    )
    layout = Layout([BoundColumn((0,), None), BoundColumn((1,), 2)])
    columns, wrong = (
        Columns(batch, layout),
        Columns(batch, Layout([BoundColumn((0,), None), BoundColumn((1,), 3)])),
    )
    node = batch_node()
    node.children[0].n_buffers = 1
    one, known = np.ones(3), np.ones(3, bool)
    nans, infs = np.zeros((2, 3), np.int64)

    def calls():
        for decay in (1.0, 0.9):
            native.merge_moments(*[native.block_moments(columns, decay)] * 2)
        out = run_transform(native.normalize, columns, feature_transform(3), [F8, F4])
        run_transform(native.denormalize, columns, feature_transform(3), [F2, F8])
        with contextlib.suppress(InvalidValueError):
            native.block_moments(wrong)
        with contextlib.suppress(InvalidValueError):
            run_transform(native.normalize, wrong, feature_transform(4), [F8, F8])
        with contextlib.suppress(InvalidValueError):
            native.block_moments(Columns(Producer(node), LAYOUT))
        # This call fails after it has allocated the first column.
        with contextlib.suppress(ValueError):
            core_transform(
                batch, layout.packed, one, one, one, None, None, 1.0, known, False, "gx",
                nans, infs, 1,
            )  # fmt: skip
        _capsules.clear()
        _unreleased.clear()
        return out

    for _ in range(200):
        calls()
    gc.collect()
    allocated, held = pa.total_allocated_bytes(), resident_memory()
    for _ in range(2000):
        calls()
    gc.collect()
    assert pa.total_allocated_bytes() == allocated
    # 16,000 calls that leak 100 bytes each would add 1.6 MB.
    assert resident_memory() - held < 1_500_000
