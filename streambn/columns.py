"""Arrow schemas and lanes: which columns are numeric, and how to take them apart.

A *leaf* is one numeric column, wherever it lies: at the top level or in a struct. A
leaf of fixed-size lists or tensors holds one lane an element. A `Binding` is the choice
of leaves made on the first batch; later batches are matched to it by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.errors import SchemaError
from streambn.kernels import Column
from streambn.kernels.decode import unpack_validity

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


class _Place(NamedTuple):
    """Where a leaf is in a schema, and the floating type in which it comes out."""

    leaf: Leaf
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody misses
    floating: pa.DataType


_REMEMBERED = 4  # schemas


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
    def _seen(self) -> dict[pa.Schema, list[_Place]]:
        return {}

    def places(self, schema: pa.Schema) -> list[_Place]:
        """Find every leaf in a schema.

        Raises
        ------
        SchemaError
            A leaf is missing, not numeric or of another size.
        """
        # A stream has one schema, or an input's and an output's: finding 50 columns anew
        # would take longer than reducing 1000 rows of them.
        for known, places in tuple(self._seen.items()):
            if schema is known or schema.equals(known):
                return places
        places = []
        for leaf in self.leaves:
            field = _resolve(schema, leaf.path)
            _check_leaf(leaf, field)
            index = schema.get_field_index(leaf.path[0])
            places.append(_Place(leaf, index, float_type(field.type)))
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()
        self._seen[schema] = places
        return places

    def extract(self, batch: pa.RecordBatch) -> list[Column]:
        """Take the leaves out of a batch.

        Raises
        ------
        SchemaError
            A leaf is missing, not numeric or of another size.
        """
        columns = []
        for leaf, index, _ in self.places(batch.schema):
            array = batch.column(index)
            outer = None
            for name in leaf.path[1:]:
                outer = _both(outer, unpack_validity(array, 0, len(array)))
                array = array.field(array.type.get_field_index(name))
            columns.append(_open(array, leaf.width, outer))
        return columns

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
        for leaf, index, floating in self.places(schema):
            fields[index] = _replaced_field(
                fields[index], leaf, leaf.path[1:], dtype or floating, nullable
            )
        return pa.schema(fields, schema.metadata)

    def rebuild(
        self, batch: pa.RecordBatch, values: Sequence[pa.Array], schema: pa.Schema
    ) -> pa.RecordBatch:
        """Put normalized values in the place of the leaves; all else passes through."""
        arrays = batch.columns
        for (leaf, index, _), flat in zip(self.places(batch.schema), values, strict=True):
            kind = schema.field(index).type
            arrays[index] = _replaced_array(arrays[index], leaf.path[1:], flat, kind)
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
        leaves = [leaf for name in columns for leaf in _named(schema, name)]
    binding = Binding(tuple(leaves))
    twice = [lane for i, lane in enumerate(binding.lanes) if lane in binding.lanes[:i]]
    if twice:
        raise SchemaError(
            f"column {twice[0]!r} is meant twice. Name each column once in columns=; a struct's "
            "name stands for all its fields."
        )
    binding.places(schema)
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


def _named(schema: pa.Schema, name: str) -> list[Leaf]:
    path = (name,) if name in schema.names else tuple(name.split("."))
    field = _resolve(schema, path, name)
    leaves = list(_leaves(path, field.type))
    if not leaves:
        raise SchemaError(
            f"column {name!r} is {field.type}, which is not numeric. Leave it out of columns=, "
            "or cast it to a number first."
        )
    return leaves


def _resolve(schema: pa.Schema, path: tuple[str, ...], asked: str | None = None) -> pa.Field:
    """Find the field at a path."""
    name = asked or ".".join(path)
    fields: Any = schema
    names = schema.names
    for depth, part in enumerate(path):
        if names.count(part) > 1:
            raise SchemaError(
                f"column {part!r} is there {names.count(part)} times. Rename all but one."
            )
        if part not in names:
            prefix = ".".join(path[:depth])
            raise SchemaError.missing(name, [f"{prefix}.{n}" if prefix else n for n in names])
        field = fields.field(part)
        fields = field.type
        names = [f.name for f in fields] if pa.types.is_struct(fields) else []
    return field


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


# ------------------------------------------------------------ taking apart, putting back


def _open(array: pa.Array, width: int, outer: NDArray[np.bool_] | None) -> Column:
    """Make a primitive array and its outer validity of a numeric array."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array) * width, pa.float64())
    elif pa.types.is_fixed_size_list(array.type):
        outer = _both(outer, unpack_validity(array, 0, len(array)))
        array = array.values.slice(array.offset * width, len(array) * width)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    elif pa.types.is_run_end_encoded(array.type):
        import pyarrow.compute as pc  # noqa: PLC0415 - rarely needed, 40 ms to import

        array = pc.run_end_decode(array)
    return Column(array, width, outer)


def _both(a: NDArray[np.bool_] | None, b: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if a is None or b is None:
        return b if a is None else a
    return a & b


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
    fields = [
        _replaced_field(child, leaf, path[1:], floating, nullable)
        if child.name == path[0]
        else child
        for child in field.type
    ]
    return field.with_type(pa.struct(fields))


def _replaced_array(
    array: pa.Array, path: tuple[str, ...], flat: pa.Array, kind: pa.DataType
) -> pa.Array:
    """Put the flat values into an array of type `kind`, below `path`."""
    if path:
        children = [
            _replaced_array(array.field(i), path[1:], flat, field.type)
            if field.name == path[0]
            else array.field(i)
            for i, field in enumerate(kind)
        ]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=_null_mask(array))
    if isinstance(kind, pa.FixedShapeTensorType):
        storage = _replaced_array(array.storage, (), flat, kind.storage_type)
        return pa.ExtensionArray.from_storage(kind, storage)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=_null_mask(array))
    return flat


def _null_mask(array: pa.Array) -> pa.Array | None:
    valid = unpack_validity(array, 0, len(array))
    return None if valid is None else pa.array(~valid)
