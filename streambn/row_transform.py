"""The map from data to normalized values, and back, for one row: a dict."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from streambn.kernels import RowMaps
from streambn.kernels.rows import MISSING, number, refuse
from streambn.standardize import Standardizer

__all__ = ["RowTransform"]

Row = dict[Any, Any]


class RowTransform:
    """Normalizes rows as a `Standardizer` normalizes batches. Threads may share it.

    Columns of plain numbers take the compiled path. Structs, vectors, and columns that have no
    type yet take the path of a batch of one row, which is a hundred times slower.

    Parameters
    ----------
    standardizer : Standardizer

    Attributes
    ----------
    transform, inverse : callable
        Take a row and return a new one.
    """

    def __init__(self, standardizer: Standardizer) -> None:
        leaves = standardizer.binding.leaves
        nested = {x.path[0] for x in leaves if not x.typed or x.size is not None or len(x.path) > 1}
        plain = standardizer.select({leaf.path[0] for leaf in leaves} - nested)
        others = standardizer.select(nested)
        paths = [] if plain is None else [_row_maps(plain)]
        paths += [] if others is None else [_NestedRows(others)]
        inverses = [each.inverse for each in paths]
        gamma = standardizer.parameters.gamma
        if gamma is not None and not gamma.all():

            def refuse_inverse(row: Row) -> Row:
                standardizer.check_invertible()
                return row

            inverses.insert(0, refuse_inverse)
        self.transform = _chain([each.transform for each in paths])
        self.inverse = _chain(inverses)


def _chain(functions: list[Callable[[Row], Row]]) -> Callable[[Row], Row]:
    if len(functions) == 1:
        return functions[0]

    def apply(row: Row) -> Row:
        for function in functions:
            row = function(row)
        return row

    return apply


def _row_maps(standardizer: Standardizer) -> Any:
    """Return the maps of columns of plain numbers."""
    options, maps = standardizer.options, standardizer.parameters
    return RowMaps(
        # The keys in a caller's code are the same objects, which are found faster.
        [sys.intern(leaf.path[0]) for leaf in standardizer.binding.leaves],
        maps.location_hi,
        maps.location_lo,
        maps.scale,
        maps.gamma,
        maps.beta,
        math.inf if maps.clip is None else maps.clip,
        maps.known,
        standardizer.binding.union,
        MISSING.index(options.nan),
        MISSING.index(options.inf),
        number,
        refuse,
    )


class _NestedRows:
    """Normalizes rows as batches of one row."""

    def __init__(self, standardizer: Standardizer) -> None:
        self._standardizer = standardizer
        # The paths of the leaves, as nested dicts. None: a column without a type yet.
        self._tree: dict[str, Any] = {}
        for leaf in standardizer.binding.leaves:
            below = self._tree
            for name in leaf.path[:-1]:
                below = below.setdefault(name, {})
            below[leaf.path[-1]] = {} if leaf.typed else None

    def transform(self, row: Row) -> Row:
        return self._map(row, self._standardizer.standardize)

    def inverse(self, row: Row) -> Row:
        return self._map(row, self._standardizer.restore)

    def _map(
        self, row: Row, function: Callable[[pa.RecordBatch, pa.Schema], pa.RecordBatch]
    ) -> Row:
        if not isinstance(row, dict):
            refuse("row", None, row)
        out = dict(row)
        there = {name: tree for name, tree in self._tree.items() if name in out}
        if len(there) < len(self._tree) and not self._standardizer.binding.union:
            refuse("missing", next(name for name in self._tree if name not in out), out)
        if not there:
            return out
        arrays = [_array(out[name], tree, name) for name, tree in there.items()]
        batch = pa.RecordBatch.from_arrays(arrays, list(there))
        schema = self._standardizer.output_schema(batch.schema, pa.float64())
        columns = function(batch, schema).columns
        for (name, tree), column in zip(there.items(), columns, strict=True):
            out[name] = _merge(out[name], column[0].as_py(), tree)
        return out


def _array(value: Any, tree: Any, name: str) -> pa.Array:
    """Return what the features read of a value, as an array of one row."""
    if tree is None:
        try:
            return pa.array([value])
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            refuse("text", name, value)
    part, kind = _as_arrow(value, tree, name)
    return pa.array([part], kind)


def _as_arrow(value: Any, tree: dict[str, Any], name: str) -> tuple[Any, pa.DataType]:
    if tree and isinstance(value, Mapping):
        there = [key for key in tree if key in value]
        below = {key: _as_arrow(value[key], tree[key] or {}, f"{name}.{key}") for key in there}
        struct = pa.struct([(key, kind) for key, (_, kind) in below.items()])
        return {key: part for key, (part, _) in below.items()}, struct
    if _is_list(value):
        found = [_as_arrow(each, {}, name) for each in _elements(value)]
        if {kind for _, kind in found} <= {pa.int64(), pa.null()}:
            return [part for part, _ in found], pa.list_(pa.int64(), len(found))
        parts = [None if part is None else float(part) for part, _ in found]
        return parts, pa.list_(pa.float64(), len(found))
    parsed = number(value, name)
    if parsed is None:
        refuse("text", name, value)
    if not parsed:
        return None, pa.null()
    high, _, exact = parsed
    # An integer keeps its low digits.
    if exact and abs(high) < 2**62 and value == (whole := int(value)):
        return whole, pa.int64()
    return high, pa.float64()


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _elements(value: Any) -> Iterator[Any]:
    """Yield the elements of a list, or of the lists within it, as those of a tensor."""
    for each in value:
        if _is_list(each):
            yield from _elements(each)
        else:
            yield each


def _merge(value: Any, mapped: Any, tree: Any) -> Any:
    """Return a value in which the parts that the features read are replaced."""
    if tree and isinstance(value, Mapping):
        merged = {key: _merge(value[key], mapped[key], tree[key]) for key in tree if key in value}
        return {**value, **merged}
    if isinstance(mapped, list) and _is_list(value):
        return _shaped(value, iter(mapped))
    return mapped


def _shaped(value: Any, elements: Iterator[Any]) -> list[Any]:
    """Return elements in lists as those of a value."""
    return [_shaped(each, elements) if _is_list(each) else next(elements) for each in value]
