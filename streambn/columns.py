"""Arrow schemas and lanes: which columns are numeric, and how to take them apart.

A *leaf* is one numeric column, wherever it lies: at the top level or in a struct. A
leaf of fixed-size lists or tensors holds one lane an element. A `Binding` is the choice
of leaves made on the first batch; later batches are matched to it by name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.errors import SchemaError
from streambn.kernels import Columns, Layout, Place
from streambn.kernels.bitmaps import arrow_array, unpack_validity

__all__ = ["Binding", "Leaf", "bind", "float_type"]


@dataclass(frozen=True, slots=True)
class Leaf:
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


class _Found(NamedTuple):
    """Where the leaves are in a schema, and the types in which they come out.

    Attributes
    ----------
    schema : pyarrow.Schema
    layout : Layout
    floating : tuple of pyarrow.DataType
        The float types of the leaves.
    whole : bool
        Whether the leaves are all that there is, in their order and at the top level.
    """

    schema: pa.Schema
    layout: Layout
    floating: tuple[pa.DataType, ...]
    whole: bool


_REMEMBERED = 4  # schemas
# Types that hold the same values in another layout.
_FAMILIES = (
    (pa.string(), pa.large_string(), pa.string_view()),
    (pa.binary(), pa.large_binary(), pa.binary_view()),
)


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
    def _seen(self) -> list[_Found]:
        return []

    def _find(self, schema: pa.Schema) -> _Found:
        """Find every leaf in a schema.

        Raises
        ------
        SchemaError
            A leaf is missing, not numeric or of another size.
        """
        # A stream has one schema, or an input's and an output's: finding 50 columns anew
        # would take longer than reducing 1000 rows of them.
        for found in tuple(self._seen):
            if schema is found.schema or schema.equals(found.schema):
                return found
        places, floating, top, encoded = [], [], _top(schema), False
        for leaf in self.leaves:
            field = _resolve(top, leaf.path)
            _check_leaf(leaf, field)
            places.append(Place(_indices(schema, leaf.path), leaf.size))
            floating.append(float_type(field.type))
            encoded = encoded or _is_encoded(field.type)
        whole = not any(pa.types.is_null(kind) for kind in schema.types) and (
            [place.path for place in places] == [(i,) for i in range(len(schema))]
        )
        found = _Found(schema, Layout(places, schema, encoded), tuple(floating), whole)
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()
        self._seen.append(found)
        return found

    def extract(self, batch: pa.RecordBatch) -> Columns:
        """Find the leaves in a batch.

        Raises
        ------
        SchemaError
            A leaf is missing, not numeric or of another size.
        """
        return Columns(batch, self._find(batch.schema).layout)

    def leaf_schema(self, schema: pa.Schema, out: pa.Schema) -> pa.Schema:
        """Give a schema of the leaves alone, as they are in the output schema `out`.

        Where they are all that there is, that is `out` itself.
        """
        found = self._find(schema)
        return out if found.whole else self._leaf_schema(out)

    @cached_property
    def _leaf_schemas(self) -> list[tuple[pa.Schema, pa.Schema]]:
        return []

    def _leaf_schema(self, out: pa.Schema) -> pa.Schema:
        for known, leaves in tuple(self._leaf_schemas):
            if out is known or out.equals(known):
                return leaves
        leaves = pa.schema(
            [
                (str(i), kind if leaf.size is None else pa.list_(kind, leaf.size))
                for i, (leaf, kind) in enumerate(
                    zip(self.leaves, self._find(out).floating, strict=True)
                )
            ]
        )
        if len(self._leaf_schemas) > _REMEMBERED:
            self._leaf_schemas.clear()
        self._leaf_schemas.append((out, leaves))
        return leaves

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
            fields[index] = _replaced_field(
                fields[index], leaf, leaf.path[1:], dtype or floating, nullable
            )
        changed = {f.name for f, old in zip(fields, schema, strict=True) if f.type != old.type}
        return pa.schema(fields, _pandas_told(schema.metadata, changed))

    def rebuild(
        self, batch: pa.RecordBatch, leaves: pa.RecordBatch, schema: pa.Schema
    ) -> pa.RecordBatch:
        """Put normalized leaves in their places; all else passes through."""
        if self._find(batch.schema).whole:
            return leaves
        arrays = batch.columns
        flats: dict[int, dict[tuple[str, ...], pa.Array]] = {}
        places = self._find(batch.schema).layout.places
        for leaf, place, array in zip(self.leaves, places, leaves.columns, strict=True):
            flat = array if leaf.size is None else array.values
            flats.setdefault(place.path[0], {})[leaf.path[1:]] = flat
        for index, field in enumerate(schema):
            if index not in flats and field.type != arrays[index].type:
                arrays[index] = _passed(arrays[index], field)
        for index, below in flats.items():
            arrays[index] = _replaced_array(arrays[index], below, schema.field(index).type)
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def bind(schema: pa.Schema, columns: Sequence[str] | None) -> Binding:
    """Choose the leaves of a schema.

    Parameters
    ----------
    schema : pyarrow.Schema
    columns : sequence of str, or None
        Names of columns, or dotted names of struct fields; a struct stands for all that
        is numeric in it. None: whatever is numeric, except the index of a pandas frame.

    Raises
    ------
    SchemaError
        A name does not exist or is not numeric, two columns share a name, or there is
        nothing numeric at all.
    """
    if columns is None:
        index = _pandas_index(schema)
        leaves = [
            leaf
            for field in schema
            if field.name not in index
            for leaf in _leaves((field.name,), field.type)
        ]
        if not leaves:
            types = ", ".join(f"{f.name}: {f.type}" for f in schema) or "no columns"
            raise SchemaError(f"there is no numeric column to normalize; the data has {types}.")
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
    values = (_numeric(kind) or (kind, None))[0]
    return values if pa.types.is_floating(values) else pa.float64()


# ---------------------------------------------------------------- finding the leaves


def _numeric(kind: pa.DataType) -> tuple[pa.DataType, int | None] | None:
    """Value type and list size of a numeric type; None: it is not numeric."""
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        inner = _numeric(kind.value_type)
        if kind.list_size < 1 or inner is None or inner[1] is not None:
            return None
        return inner[0], kind.list_size
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return kind, None
    return None


def _leaves(path: tuple[str, ...], kind: pa.DataType) -> Iterator[Leaf]:
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves((*path, field.name), field.type)
    elif (numeric := _numeric(kind)) is not None:
        yield Leaf(path, numeric[1], not pa.types.is_floating(numeric[0]))


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
    """Indices of a path; it ends at a null type, which stands for all that is below it."""
    indices = [schema.get_field_index(path[0])]
    kind = schema.field(indices[0]).type
    for name in path[1:]:
        if pa.types.is_null(kind):
            break
        indices.append(kind.get_field_index(name))
        kind = kind.field(indices[-1]).type
    return tuple(indices)


def _is_encoded(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind))


def _check_leaf(leaf: Leaf, field: pa.Field) -> None:
    if pa.types.is_null(field.type):
        return  # what a reader infers for a batch without a single value
    numeric = _numeric(field.type)
    if numeric is None:
        raise SchemaError(
            f"column {leaf.name!r} is no longer numeric: it is {field.type}. "
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


def _pandas_told(
    metadata: dict[bytes, bytes] | None, changed: set[str]
) -> dict[bytes, bytes] | None:
    """Let what pandas keeps in the metadata forget the types of columns that are floats now.

    It restores a frame by them: a column that was Int64 would be cast back, and fail.
    """
    try:
        stored = json.loads((metadata or {})[b"pandas"])
        for column in stored["columns"]:
            if column["field_name"] in changed:
                column.update(pandas_type="float64", numpy_type="float64", metadata=None)
    except (KeyError, ValueError, TypeError):
        return metadata
    return {**(metadata or {}), b"pandas": json.dumps(stored).encode()}


# --------------------------------------------------------------------- putting back


def _replaced_type(kind: pa.DataType, leaf: Leaf, floating: pa.DataType) -> pa.DataType:
    """Give the type of a leaf whose values become floats."""
    if pa.types.is_null(kind):
        return floating if leaf.size is None else pa.list_(floating, leaf.size)
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.fixed_shape_tensor(
            floating, kind.shape, dim_names=kind.dim_names, permutation=kind.permutation
        )
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(floating).with_nullable(True), kind.list_size)
    return floating


def _replaced_field(
    field: pa.Field, leaf: Leaf, path: tuple[str, ...], floating: pa.DataType, nullable: bool
) -> pa.Field:
    if not path:
        field = field.with_type(_replaced_type(field.type, leaf, floating))
        return field.with_nullable(field.nullable or nullable)
    if pa.types.is_null(field.type):
        return field
    fields = [
        _replaced_field(child, leaf, path[1:], floating, nullable)
        if child.name == path[0]
        else child
        for child in field.type
    ]
    return field.with_type(pa.struct(fields))


def _replaced_array(
    array: pa.Array, flats: dict[tuple[str, ...], pa.Array], kind: pa.DataType
) -> pa.Array:
    """Put flat values, by their paths below the array, into an array of type `kind`."""
    if () not in flats:
        if pa.types.is_null(array.type):
            return array
        children = []
        for i, field in enumerate(kind):
            below = {path[1:]: flat for path, flat in flats.items() if path[0] == field.name}
            child = array.field(i)
            children.append(_replaced_array(child, below, field.type) if below else child)
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=_null_mask(array))
    if isinstance(kind, pa.FixedShapeTensorType):
        storage = _replaced_array(array.storage, flats, kind.storage_type)
        return pa.ExtensionArray.from_storage(kind, storage)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flats[()], type=kind, mask=_null_mask(array))
    return flats[()]


def _passed(array: pa.Array, field: pa.Field) -> pa.Array:
    """Give a column that passes through the type that it had in the first batch."""
    for family in _FAMILIES:
        if array.type in family and field.type in family:
            return array.cast(field.type)
    raise SchemaError(
        f"column {field.name!r}, which passes through, was {field.type} in the first batch and is "
        f"{array.type} now. Cast it to one type."
    )


def _null_mask(array: pa.Array) -> pa.Array | None:
    if pa.types.is_null(array.type):
        return arrow_array(np.ones(len(array), np.bool_))
    valid = unpack_validity(array, 0, len(array))
    return None if valid is None else arrow_array(~valid)
