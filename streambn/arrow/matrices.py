"""NumPy arrays of rows and columns as batches, whose columns are named x0, x1, and so on."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn._messages import listed, spell
from streambn.arrow.selection import Leaf
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels.bitmaps import arrow_array

__all__ = ["Matrix", "empty_like", "foreign_columns"]

_TYPES = {
    np.dtype(f"{kind}{size}"): pa.from_numpy_dtype(np.dtype(f"{kind}{size}"))
    for kind, sizes in (("f", (2, 4, 8)), ("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)))
    for size in sizes
}
_ARROW_MEMORY = 1 << 20  # bytes from which on outputs are allocated by Arrow


class Matrix:
    """A two-dimensional array as a batch of the columns x0, x1, and so on.

    It has the part of the interface of a `pyarrow.RecordBatch` that learning and normalizing use.

    Attributes
    ----------
    array : ndarray, shape (rows, columns)
        Of a native number type, in any memory layout.
    schema : pyarrow.Schema
        The same object for all arrays with one type and number of columns.
    """

    __slots__ = ("array", "schema")

    def __init__(self, array: NDArray[Any], schema: pa.Schema) -> None:
        self.array = array
        self.schema = schema

    @classmethod
    def of(cls, array: NDArray[Any], name: str = "data") -> Self:
        """Return an array as a batch. The kernels read it in place.

        It is copied only if its values are not in native byte order or not aligned. `name` is that
        of the argument.

        Raises
        ------
        InvalidValueError
            The array does not have two dimensions, or does not hold plain numbers.
        """
        if type(array) is not np.ndarray or array.dtype not in _TYPES or array.ndim != 2:
            array = _plain(array, name)
        if not array.flags.aligned:
            array = array.copy()
        return cls(array, _schema(array.shape[1], array.dtype))

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.array)

    def to_batch(self) -> pa.RecordBatch:
        """Return a copy as a record batch."""
        columns = [arrow_array(column) for column in self.array.T]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


@functools.lru_cache(maxsize=64)
def _schema(width: int, dtype: np.dtype[Any]) -> pa.Schema:
    return pa.schema([(f"x{i}", _TYPES[dtype]) for i in range(width)])


def empty_like(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a new array of the shape of another, and by rows or by columns as that is.

    Large arrays take their memory from Arrow, which reuses it and aligns it to cache lines.
    """
    by_columns = abs(array.strides[0]) < abs(array.strides[1])
    shape = array.shape[::-1] if by_columns else array.shape
    out: NDArray[Any]
    if array.size * dtype.itemsize < _ARROW_MEMORY:
        out = np.empty(shape, dtype)
    else:
        memory = pa.allocate_buffer(array.size * dtype.itemsize)
        out = np.frombuffer(memory, dtype).reshape(shape)
    return out.T if by_columns else out


# ------------------------------------------------------------------------ refusals


def _plain(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Return an array in native byte order, without the features of a subclass."""
    kind, shape = array.dtype, array.shape
    if isinstance(array, np.ma.MaskedArray):
        what = "a masked array, whose mask is not read"
        remedy = f"Pass {name}.astype(float).filled(numpy.nan): NaN values are skipped."
    elif kind.names is not None:
        what = "a structured array"
        columns = f"{{name: {name}[name].ravel() for name in {name}.dtype.names}}"
        remedy = f"Pass its fields as columns: pyarrow.table({columns})."
    elif kind.newbyteorder("=") not in _TYPES:
        what, remedy = f"an array of {kind}, which is not a number type", _conversion(kind, name)
    elif len(shape) != 2:
        what, remedy = f"an array of shape {shape}, not of rows and columns", _reshape(shape, name)
    else:
        return np.asarray(array, kind.newbyteorder("="))
    raise InvalidValueError(f"{name} is {what}. {remedy}", argument=name)


def _conversion(kind: np.dtype[Any], name: str) -> str:
    """Return the remedy for an array of a type that is not accepted."""
    if kind.kind == "b":
        return f"Pass {name}.astype(numpy.int8) to count True as 1."
    if kind.kind == "c":
        return f"Pass its parts as columns: numpy.hstack([{name}.real, {name}.imag])."
    if kind.kind in "mM":
        return f"Pass {name}.astype(numpy.int64) to use its ticks."
    return f"Convert it to numbers: {name}.astype(numpy.float64)."


def _reshape(shape: tuple[int, ...], name: str) -> str:
    """Return the remedy for an array that does not have two dimensions."""
    if not shape:
        return f"Pass {name}.reshape(1, 1) for one row of one column."
    if len(shape) == 1:
        row = f"{name}.reshape(1, -1)"
        return f"Pass {name}.reshape(-1, 1) for one column, or {row} for one row."
    return f"Pass {name}.reshape(-1, {name}.shape[-1]) if its last axis is that of columns."


def foreign_columns(
    schema: pa.Schema, leaves: Iterable[Leaf], others: Iterable[str]
) -> SchemaError:
    """Return the error for an array whose columns are not those that have statistics.

    `others` are the columns of weights and event times.
    """
    leaves, width = [*leaves], len(schema)
    names = listed(repr(leaf.name) for leaf in leaves)
    plain = all(len(leaf.path) == 1 and leaf.size is None for leaf in leaves)
    if plain and all(_is_index(leaf.name) for leaf in leaves):
        needed = {leaf.name for leaf in leaves}.union(filter(_is_index, others))
        count = max(int(name[1:]) for name in needed) + 1
        remedy = f"Pass data[:, :{count}], or choose columns with {spell('columns')}."
        if width < count:
            remedy = f"Fit with {spell('schema', 'union')} if columns may be absent."
        return SchemaError(
            f"the array has {width} columns, but the statistics are of an array of {count} "
            f"({names}). {remedy}",
            argument="data",
        )
    remedy = "pyarrow.table({'name': data[:, 0], ...})"
    if plain and len(leaves) == width:
        remedy = "pyarrow.table(dict(zip(norm.features, data.T)))"
    elif len(leaves) == 1 and leaves[0].size == width and len(leaves[0].path) == 1:
        lists = f"pyarrow.FixedSizeListArray.from_arrays(data.ravel(), {width})"
        remedy = f"pyarrow.table({{{leaves[0].name!r}: {lists}}})"
    return SchemaError(
        f"an array names its columns {listed(map(repr, schema.names))}, but the statistics are of "
        f"{names}. Name them: {remedy}.",
        argument="data",
    )


def _is_index(name: str) -> bool:
    """Return whether a name is that of a column of an array."""
    digits = name[1:]
    return name[:1] == "x" and digits.isascii() and digits.isdigit() and str(int(digits)) == digits
