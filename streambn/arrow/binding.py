"""Arrow schemas and lanes: which columns are numeric, and how to take them apart.

A *leaf* is one numeric column, wherever it lies: at the top level or in a struct. A
leaf of fixed-size lists or tensors holds one lane an element. A `Binding` is the choice
of leaves made on the first batch; later batches are matched to it by name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.arrow.rebuild import cast_passed, replaced_array, replaced_field, told_to_pandas
from streambn.errors import SchemaError
from streambn.kernels import BoundColumn, Columns, Layout

__all__ = [
    "Binding",
    "Leaf",
    "SchemaCache",
    "bind",
    "float_type",
    "is_encoded",
    "numeric_type",
]


class Leaf(NamedTuple):
    """One bound column.

    Attributes
    ----------
    path : tuple of str
        The column's name, then the names of the struct fields below it.
    size : int or None
        Elements of a fixed-size list; None: a plain column.
    exact : bool
        Whether the values are integers or decimals, which come without rounding.
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
        """Number of lanes."""
        return 1 if self.size is None else self.size

    @property
    def lanes(self) -> list[str]:
        """Names of the lanes: `name`, or `name[0]`, `name[1]`, ..."""
        if self.size is None:
            return [self.name]
        return [f"{self.name}[{i}]" for i in range(self.size)]


class SchemaCache:
    """What was found out about the last few schemas.

    A stream has one schema, or an input's and an output's: finding 50 columns anew would
    take longer than reducing 1000 rows of them.
    """

    __slots__ = ("_known",)

    _SCHEMAS: ClassVar[int] = 4

    def __init__(self) -> None:
        self._known: list[tuple[pa.Schema, Any, Any]] = []

    def get(self, schema: pa.Schema, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made of an equal schema and key, or make it."""
        for known, other, value in tuple(self._known):
            if other == key and (schema is known or schema.equals(known, check_metadata=True)):
                return value
        value = make()
        if len(self._known) > self._SCHEMAS:
            self._known.clear()
        self._known.append((schema, key, value))
        return value


class _Found(NamedTuple):
    """Where the leaves are in a schema, and the types in which they come out.

    Attributes
    ----------
    schema : pyarrow.Schema
    layout : Layout
    floating : tuple of pyarrow.DataType
        The float types of the leaves.
    """

    schema: pa.Schema
    layout: Layout
    floating: tuple[pa.DataType, ...]


@dataclass(frozen=True)
class Binding:
    """The leaves that a normalizer works on, in the order of their lanes."""

    leaves: tuple[Leaf, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return Binding, (self.leaves,)

    @cached_property
    def lanes(self) -> tuple[str, ...]:
        """The lanes' names."""
        return tuple(lane for leaf in self.leaves for lane in leaf.lanes)

    @cached_property
    def exact(self) -> NDArray[np.bool_]:
        """Which lanes hold integers or decimals."""
        return np.repeat([leaf.exact for leaf in self.leaves], [x.width for x in self.leaves])

    @property
    def columns(self) -> list[str]:
        """Names of the top-level columns that are needed, each once."""
        return list(dict.fromkeys(leaf.path[0] for leaf in self.leaves))

    @cached_property
    def _seen(self) -> SchemaCache:
        return SchemaCache()

    def _find(self, schema: pa.Schema) -> _Found:
        """Find every leaf in a schema.

        Raises
        ------
        SchemaError
            A leaf is missing, not numeric or of another size.
        """
        found: _Found = self._seen.get(schema, None, lambda: self._found(schema))
        return found

    def _found(self, schema: pa.Schema) -> _Found:
        places, floating, top, encoded = [], [], _top(schema), False
        for leaf in self.leaves:
            kind = _resolve(top, leaf.path).type
            _check_leaf(leaf, kind)
            places.append(BoundColumn(_indices(schema, leaf.path), leaf.size))
            floating.append(float_type(kind))
            encoded = encoded or is_encoded(kind)
        return _Found(schema, Layout(places, schema, encoded), tuple(floating))

    def extract(self, batch: pa.RecordBatch) -> Columns:
        """Find the leaves in a batch.

        Raises
        ------
        SchemaError
            A leaf is missing, not numeric or of another size.
        """
        return Columns(batch, self._find(batch.schema).layout)

    def leaf_schema(self, columns: Columns, out: pa.Schema) -> pa.Schema:
        """Give a schema of the leaves alone, as they are in the output schema `out`.

        Where they are all that there is, that is `out` itself.
        """
        if columns.layout.whole:
            return out

        def make() -> pa.Schema:
            kinds = zip(self.leaves, self._find(out).floating, strict=True)
            return pa.schema(
                (str(i), kind if leaf.size is None else pa.list_(kind, leaf.size))
                for i, (leaf, kind) in enumerate(kinds)
            )

        return self._seen.get(out, "leaves", make)

    def output_schema(
        self, schema: pa.Schema, dtype: pa.DataType | None, nullable: bool
    ) -> pa.Schema:
        """Give the schema after normalization.

        Parameters
        ----------
        schema : pyarrow.Schema
        dtype : pyarrow.DataType or None
            Of all normalized columns; None: by the rule of `float_type`.
        nullable : bool
            Whether normalization may make nulls in a column that has none.
        """
        fields = list(schema)
        found = self._find(schema)
        for leaf, place, floating in zip(
            self.leaves, found.layout.places, found.floating, strict=True
        ):
            index = place.path[0]
            fields[index] = replaced_field(
                fields[index], leaf.size, leaf.path[1:], dtype or floating, nullable
            )
        changed = {f.name for f, old in zip(fields, schema, strict=True) if f.type != old.type}
        return pa.schema(fields, told_to_pandas(schema.metadata, changed))

    def rebuild(
        self, columns: Columns, leaves: pa.RecordBatch, schema: pa.Schema
    ) -> pa.RecordBatch:
        """Put normalized leaves in their places; all else passes through."""
        if columns.layout.whole:
            return leaves
        arrays = columns.batch.columns
        flats: dict[int, dict[tuple[str, ...], pa.Array]] = {}
        places = columns.layout.places
        for leaf, place, array in zip(self.leaves, places, leaves.columns, strict=True):
            flat = array if leaf.size is None else array.values
            flats.setdefault(place.path[0], {})[leaf.path[1:]] = flat
        for index, field in enumerate(schema):
            if index not in flats and field.type != arrays[index].type:
                arrays[index] = cast_passed(arrays[index], field)
        for index, below in flats.items():
            arrays[index] = replaced_array(arrays[index], below, schema.field(index).type)
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def bind(schema: pa.Schema, columns: Sequence[str] | None, beside: Sequence[str] = ()) -> Binding:
    """Choose the leaves of a schema.

    Parameters
    ----------
    schema : pyarrow.Schema
    columns : sequence of str, or None
        Names of columns, or dotted names of struct fields; a struct stands for all that
        is numeric in it. None: whatever is numeric, except the index of a pandas frame and
        what is in `beside`.
    beside : sequence of str
        Columns that say something about the rows: how much they weigh, when they happened.

    Raises
    ------
    SchemaError
        A name does not exist or is not numeric, two columns share a name, or there is
        nothing numeric at all.
    """
    if columns is None:
        no_data = _pandas_index(schema).union(beside)
        leaves = [
            leaf
            for field in schema
            if field.name not in no_data
            for leaf in _leaves((field.name,), field.type)
        ]
        if not leaves:
            types = ", ".join(f"{f.name}: {f.type}" for f in schema) or "no columns"
            than = f" other than {', '.join(map(repr, beside))}" if beside else ""
            raise SchemaError(
                f"there is no numeric column to normalize{than}; the data has {types}."
            )
    else:
        top = _top(schema)
        leaves = [leaf for name in columns for leaf in _named(top, name)]
    binding = Binding(tuple(leaves))
    if len(set(binding.lanes)) < len(binding.lanes):
        [(twice, _)] = Counter(binding.lanes).most_common(1)
        raise SchemaError(
            f"column {twice!r} is meant twice. Name each column once in columns=; a struct's "
            "name stands for all its fields."
        )
    binding._find(schema)
    return binding


def float_type(kind: pa.DataType) -> pa.DataType:
    """Give the output type for a column's type: floats stay as they are, others are float64."""
    values = (numeric_type(kind) or (kind, None))[0]
    return values if values.id in _FLOATS else _FLOAT64


# ---------------------------------------------------------------- finding the leaves

_FLOAT64 = pa.float64()
_FLOATS = frozenset(kind.id for kind in (pa.float16(), pa.float32(), _FLOAT64))
_NUMBERS = _FLOATS.union(
    kind.id
    for kind in (
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.decimal32(1), pa.decimal64(1), pa.decimal128(1), pa.decimal256(1)),
    )
)


def numeric_type(kind: pa.DataType) -> tuple[pa.DataType, int | None] | None:
    """Value type and list size of a numeric type; None: it is not numeric."""
    if kind.id in _NUMBERS:  # as most are, and there may be thousands
        return kind, None
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        inner = numeric_type(kind.value_type)
        if kind.list_size < 1 or inner is None or inner[1] is not None:
            return None
        return inner[0], kind.list_size
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    return (kind, None) if kind.id in _NUMBERS else None


def _leaves(path: tuple[str, ...], kind: pa.DataType) -> Iterator[Leaf]:
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves((*path, field.name), field.type)
    elif (numeric := numeric_type(kind)) is not None:
        yield Leaf(path, numeric[1], numeric[0].id not in _FLOATS)


def _named(top: dict[str, list[pa.Field]], name: str) -> list[Leaf]:
    path = (name,) if name in top else tuple(name.split("."))
    field = _resolve(top, path, name)
    leaves = list(_leaves(path, field.type))
    if not leaves:
        raise SchemaError(
            f"column {name!r} is {field.type}, which is not numeric. Leave it out of columns=, "
            "or cast it to a number first."
        )
    return leaves


def _top(schema: pa.Schema) -> dict[str, list[pa.Field]]:
    """Find the top-level fields by name, all of a name."""
    fields: dict[str, list[pa.Field]] = {}
    for field in schema:
        fields.setdefault(field.name, []).append(field)
    return fields


def _resolve(
    top: dict[str, list[pa.Field]], path: tuple[str, ...], asked: str | None = None
) -> pa.Field:
    """Find the field at a path; one of the null type stands for all that is below it."""
    fields = top
    for depth, part in enumerate(path):
        if part not in fields:
            prefix = "".join(f"{name}." for name in path[:depth])
            raise SchemaError.missing(asked or ".".join(path), [f"{prefix}{n}" for n in fields])
        if len(fields[part]) > 1:
            raise SchemaError(
                f"column {part!r} is there {len(fields[part])} times. Rename all but one."
            )
        [field] = fields[part]
        if pa.types.is_null(field.type):
            return field
        fields = _top(field.type) if pa.types.is_struct(field.type) else {}
    return field


def _indices(schema: pa.Schema, path: tuple[str, ...]) -> tuple[int, ...]:
    """Give the indices of a path; it ends at a null type, which stands for all that is below it."""
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


def is_encoded(kind: pa.DataType) -> bool:
    """Say whether a numeric type is dictionary- or run-end-encoded."""
    if kind.id in _NUMBERS:
        return False
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind))


def _check_leaf(leaf: Leaf, kind: pa.DataType) -> None:
    if pa.types.is_null(kind):
        return  # what a reader infers for a batch without a single value
    numeric = numeric_type(kind)
    if numeric is None:
        raise SchemaError(
            f"column {leaf.name!r} is no longer numeric: it is {kind}. "
            "Cast it to the type it had, or normalize other columns."
        )
    if numeric[1] != leaf.size:

        def words(size: int | None) -> str:
            return "a plain number" if size is None else f"a list of {size}"

        raise SchemaError(
            f"column {leaf.name!r} was {words(leaf.size)} a row and is now {words(numeric[1])}."
        )


def _pandas_index(schema: pa.Schema) -> set[str]:
    """Names of the columns that hold the index of a pandas frame: keys, not data."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        return {name for name in stored.get("index_columns", []) if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):
        return set()
