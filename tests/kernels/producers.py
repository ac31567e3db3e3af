"""Hand-made producers: batches that export any struct of the Arrow C data interface."""

from __future__ import annotations

import ctypes
import gc
import itertools
import sys

import numpy as np

from streambn.kernels import BoundColumn, Layout


def _fields(kind, names):
    return [(name, kind) for name in names.split()]


class CSchema(ctypes.Structure):
    _fields_ = (
        *_fields(ctypes.c_char_p, "format name metadata"),
        *_fields(ctypes.c_int64, "flags n_children"),
        *_fields(ctypes.c_void_p, "children dictionary release private_data"),
    )


class CArray(ctypes.Structure):
    _fields_ = (
        *_fields(ctypes.c_int64, "length null_count offset n_buffers n_children"),
        *_fields(ctypes.c_void_p, "buffers children dictionary release private_data"),
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
# exception is set. `assert_all_released` releases their structs instead.
_capsules: list[tuple[object, ctypes.Structure]] = []


class Node:
    """A schema and an array of the C data interface, exported exactly as its attributes say."""

    def __init__(self, fmt, length, buffers=(), children=(), offset=0, null_count=0):
        self.format, self.length, self.offset, self.null_count = fmt, length, offset, null_count
        self.name = b"x"
        self.buffers, self.children = list(buffers), list(children)
        self.n_buffers = self.schema_children = self.array_children = None
        self.schema_dictionary = self.array_dictionary = None
        self.schema_released = self.array_released = False
        self.buffers_missing = self.children_missing = False

    def schema(self):
        children = [c and c.schema() for c in self.children]
        count = len(children) if self.schema_children is None else self.schema_children
        return self._filled(
            CSchema(format=self.format, name=self.name, flags=2, n_children=count),
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
    """Export a struct in a capsule, by default under the name of its type."""
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
    """Return a node of numbers; `rest` overrides its length, offset or null count."""
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


def single_column_node(node, offset=0, length=None):
    """Return a batch of one column."""
    return Node(b"+s", node.length if length is None else length, [None], [node], offset=offset)


PLACES = [BoundColumn((0,), None), BoundColumn((1, 0), None), BoundColumn((2,), 2)]
LAYOUT = Layout(PLACES)


def forget_exports():
    """Forget all exported capsules and structs."""
    _capsules.clear()
    _unreleased.clear()


def assert_all_released():
    """Check that consumers keep no capsule and release every struct they took over."""
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
