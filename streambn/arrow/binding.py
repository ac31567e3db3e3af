"""Which columns of a schema are features, and how a batch is taken apart and put together.

A *leaf* is one numeric column, at the top level or inside a struct. A leaf of fixed-size lists
or tensors holds one *feature* per element; any other leaf holds one. A `Binding` is the tuple
of leaves chosen from the first batch. Later batches are matched to it by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.arrow.rebuild import (
    cast_unchanged,
    float_field,
    rebuild_array,
    update_pandas_metadata,
)
from streambn.arrow.schemas import (
    SchemaCache,
    float_type,
    is_encoded,
    is_float,
    numeric_type,
    pandas_index_columns,
)
from streambn.errors import SchemaError
from streambn.kernels import BoundColumn, Columns, Layout

__all__ = ["Binding", "Leaf", "bind"]


class Leaf(NamedTuple):
    """One numeric column of a schema.

    Attributes
    ----------
    path : tuple of str
        The name of the top-level column, then those of the struct fields below it.
    size : int or None
        Number of elements of a fixed-size list; None for plain numbers.
    exact : bool
        Whether the values are integers or decimals, which arrive without rounding.
    """

    path: tuple[str, ...]
    size: int | None
    exact: bool

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path)

    @property
    def width(self) -> int:
        """Number of features."""
        return 1 if self.size is None else self.size

    @property
    def features(self) -> list[str]:
        """Names of the features: `name`, or `name[0]`, `name[1]`, ..."""
        if self.size is None:
            return [self.name]
        return [f"{self.name}[{i}]" for i in range(self.size)]


class _Resolution(NamedTuple):
    """Where the leaves are in one schema."""

    layout: Layout
    floating: tuple[pa.DataType, ...]  # the type of each leaf after normalization


@dataclass(frozen=True)
class Binding:
    """The leaves that a normalizer works on, in the order of their features."""

    leaves: tuple[Leaf, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached properties stay out of the pickle.
        return Binding, (self.leaves,)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(name for leaf in self.leaves for name in leaf.features)

    @cached_property
    def exact(self) -> NDArray[np.bool_]:
        """Whether each feature holds integers or decimals, shape (features,)."""
        return np.repeat([leaf.exact for leaf in self.leaves], [x.width for x in self.leaves])

    @property
    def columns(self) -> list[str]:
        """Names of the top-level columns that hold leaves, each once."""
        return list(dict.fromkeys(leaf.path[0] for leaf in self.leaves))

    @cached_property
    def indices(self) -> dict[str, list[int]]:
        """Indices of features by name; the name of a list stands for all its elements."""
        found: dict[str, list[int]] = {}
        start = 0
        for leaf in self.leaves:
            found[leaf.name] = list(range(start, start + leaf.width))
            if leaf.size is not None:
                for i, name in enumerate(leaf.features, start):
                    found[name] = [*found.get(name, []), i]
            start += leaf.width
        return found

    def select(self, columns: Collection[str]) -> tuple[Binding, NDArray[np.int64]]:
        """Return the binding to some top-level columns, and the indices of its features."""
        chosen = [leaf.path[0] in columns for leaf in self.leaves]
        binding = Binding(tuple(x for x, keep in zip(self.leaves, chosen, strict=True) if keep))
        return binding, np.flatnonzero(np.repeat(chosen, [leaf.width for leaf in self.leaves]))

    @cached_property
    def _cache(self) -> SchemaCache:
        return SchemaCache()

    def resolve(self, schema: pa.Schema) -> _Resolution:
        """Find every leaf in a schema.

        Raises
        ------
        SchemaError
            A leaf is missing, is not numeric or has another list size.
        """
        found: _Resolution = self._cache.get(schema, None, lambda: self._resolve(schema))
        return found

    def _resolve(self, schema: pa.Schema) -> _Resolution:
        places, floating, fields, encoded = [], [], _fields_by_name(schema), False
        for leaf in self.leaves:
            kind = _find_field(fields, leaf.path).type
            _check_leaf(leaf, kind)
            places.append(BoundColumn(_indices(schema, leaf.path), leaf.size))
            floating.append(float_type(kind))
            encoded = encoded or is_encoded(kind)
        return _Resolution(Layout(places, schema, encoded), tuple(floating))

    def extract(self, batch: pa.RecordBatch) -> Columns:
        """Return a batch with the places of its leaves; raises as `resolve` does."""
        return Columns(batch, self.resolve(batch.schema).layout)

    def leaf_schema(self, columns: Columns, out: pa.Schema) -> pa.Schema:
        """Return the schema of the leaves alone, with their types in the output schema `out`.

        If the batch consists of the leaves and nothing else, return `out` itself.
        """
        if columns.layout.whole:
            return out

        def make() -> pa.Schema:
            kinds = zip(self.leaves, self.resolve(out).floating, strict=True)
            return pa.schema(
                (str(i), kind if leaf.size is None else pa.list_(kind, leaf.size))
                for i, (leaf, kind) in enumerate(kinds)
            )

        return self._cache.get(out, "leaves", make)

    def output_schema(
        self, schema: pa.Schema, dtype: pa.DataType | None, nullable: bool
    ) -> pa.Schema:
        """Return the schema of normalized batches.

        The values have the type `dtype`, or by default that of `float_type`. `nullable` says
        whether normalization may add nulls to a column.
        """
        fields = list(schema)
        found = self.resolve(schema)
        for leaf, place, floating in zip(
            self.leaves, found.layout.places, found.floating, strict=True
        ):
            index = place.path[0]
            fields[index] = float_field(
                fields[index], leaf.size, leaf.path[1:], dtype or floating, nullable
            )
        changed = {f.name for f, old in zip(fields, schema, strict=True) if f.type != old.type}
        return pa.schema(fields, update_pandas_metadata(schema.metadata, changed))

    def rebuild(
        self, columns: Columns, leaves: pa.RecordBatch, schema: pa.Schema
    ) -> pa.RecordBatch:
        """Return a batch with its leaves replaced by normalized ones; the rest is unchanged."""
        if columns.layout.whole:
            return leaves
        arrays = columns.batch.columns
        values: dict[int, dict[tuple[str, ...], pa.Array]] = {}
        places = columns.layout.places
        for leaf, place, array in zip(self.leaves, places, leaves.columns, strict=True):
            flat = array if leaf.size is None else array.values
            values.setdefault(place.path[0], {})[leaf.path[1:]] = flat
        for index, field in enumerate(schema):
            if index not in values and field.type != arrays[index].type:
                arrays[index] = cast_unchanged(arrays[index], field)
        for index, below in values.items():
            arrays[index] = rebuild_array(arrays[index], below, schema.field(index).type)
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def bind(schema: pa.Schema, columns: Sequence[str] | None, exclude: Sequence[str] = ()) -> Binding:
    """Choose the leaves of a schema.

    Parameters
    ----------
    schema : pyarrow.Schema
    columns : sequence of str, or None
        Names of columns, or dotted names of struct fields. A struct stands for all its numeric
        fields. None: all numeric columns except `exclude` and the index of a pandas DataFrame.
    exclude : sequence of str
        Columns that describe rows: sample weights and event times.

    Raises
    ------
    SchemaError
        A name does not exist or is not numeric, two columns share a name, or no column is
        numeric.
    """
    if columns is None:
        excluded = pandas_index_columns(schema).union(exclude)
        leaves = [
            leaf
            for field in schema
            if field.name not in excluded
            for leaf in _leaves((field.name,), field.type)
        ]
        if not leaves:
            types = ", ".join(f"{f.name}: {f.type}" for f in schema) or "no columns"
            other = f" other than {', '.join(map(repr, exclude))}" if exclude else ""
            raise SchemaError(
                f"the data has no numeric column to normalize{other}; it has {types}."
            )
    else:
        fields = _fields_by_name(schema)
        leaves = [leaf for name in columns for leaf in _named_leaves(fields, name)]
    binding = Binding(tuple(leaves))
    if len(set(binding.features)) < len(binding.features):
        [(name, _)] = Counter(binding.features).most_common(1)
        raise SchemaError(
            f"column {name!r} is selected twice. Name each column once in columns=; the name of "
            "a struct stands for all its fields.",
            argument="columns",
            column=name,
        )
    binding.resolve(schema)
    return binding


# ------------------------------------------------------------------- finding leaves


def _leaves(path: tuple[str, ...], kind: pa.DataType) -> Iterator[Leaf]:
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves((*path, field.name), field.type)
    elif (numeric := numeric_type(kind)) is not None:
        yield Leaf(path, numeric[1], not is_float(numeric[0]))


def _named_leaves(fields: dict[str, list[pa.Field]], name: str) -> list[Leaf]:
    path = (name,) if name in fields else tuple(name.split("."))
    field = _find_field(fields, path, name)
    leaves = list(_leaves(path, field.type))
    if not leaves:
        raise SchemaError(
            f"column {name!r} is {field.type}, which is not numeric. Remove it from columns=, "
            "or cast it to a number first.",
            argument="columns",
            column=name,
        )
    return leaves


def _fields_by_name(schema: pa.Schema | pa.StructType) -> dict[str, list[pa.Field]]:
    fields: dict[str, list[pa.Field]] = {}
    for field in schema:
        fields.setdefault(field.name, []).append(field)
    return fields


def _find_field(
    fields: dict[str, list[pa.Field]], path: tuple[str, ...], requested: str | None = None
) -> pa.Field:
    """Return the field at a path; a field of the null type stands for everything below it."""
    for depth, part in enumerate(path):
        if part not in fields:
            prefix = "".join(f"{name}." for name in path[:depth])
            names = [f"{prefix}{name}" for name in fields]
            raise SchemaError.missing(requested or ".".join(path), names)
        if len(fields[part]) > 1:
            raise SchemaError(
                f"column {part!r} exists {len(fields[part])} times. Rename all but one of them.",
                column=part,
            )
        [field] = fields[part]
        if pa.types.is_null(field.type):
            return field
        fields = _fields_by_name(field.type) if pa.types.is_struct(field.type) else {}
    return field


def _indices(schema: pa.Schema, path: tuple[str, ...]) -> tuple[int, ...]:
    """Return the indices of a path, which ends early at a field of the null type."""
    indices = [schema.get_field_index(path[0])]
    if len(path) == 1:
        return tuple(indices)
    kind = schema.field(indices[0]).type
    for name in path[1:]:
        if pa.types.is_null(kind):
            break
        indices.append(kind.get_field_index(name))
        kind = kind.field(indices[-1]).type
    return tuple(indices)


def _check_leaf(leaf: Leaf, kind: pa.DataType) -> None:
    if pa.types.is_null(kind):
        return  # readers infer this type for a batch without a single value
    numeric = numeric_type(kind)
    if numeric is None:
        raise SchemaError(
            f"column {leaf.name!r} is no longer numeric: it is {kind}. Cast it to its former "
            "type, or normalize other columns.",
            column=leaf.name,
        )
    if numeric[1] != leaf.size:

        def describe(size: int | None) -> str:
            return "one number" if size is None else f"a list of {size}"

        raise SchemaError(
            f"column {leaf.name!r} had {describe(leaf.size)} per row and now has "
            f"{describe(numeric[1])}. Normalize columns of one shape.",
            column=leaf.name,
        )
