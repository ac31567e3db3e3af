"""How a batch is taken apart into the columns that have statistics, and put together again.

A `Binding` is the tuple of leaves that a `Selection` found in the first batch. Later batches are
matched to it by name. They may settle the type of an untyped leaf, and by the schema rule "union"
they may add leaves or lack some.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn._messages import display_name, listed
from streambn.arrow.matrices import Matrix, foreign_columns
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
)
from streambn.arrow.selection import (
    Leaf,
    LeftOut,
    Selection,
    fields_by_name,
    find_field,
    is_untyped,
    may_be_absent,
)
from streambn.arrow.vectors import as_flat, is_list, needs_conversion, vector_size, vector_type
from streambn.errors import SchemaError
from streambn.kernels import BoundColumn, Columns, Layout
from streambn.kernels.interface import ABSENT

__all__ = ["Binding", "Change", "bind"]


class _Resolution(NamedTuple):
    """Where the leaves are in one schema."""

    layout: Layout
    floating: tuple[pa.DataType, ...]  # the type of each leaf after normalization
    vectors: tuple[tuple[int, int], ...]  # columns to convert, and the sizes of their leaves


class Change(NamedTuple):
    """What becomes of a binding in view of further data.

    Attributes
    ----------
    binding : Binding
        The new one.
    origins : list of int
        For each of its features, the index of the feature whose history it has. The number of
        features of the old binding stands for one that was null in every row.
    left_out : list of LeftOut
        Columns that turned out not to be numeric.
    """

    binding: Binding
    origins: list[int]
    left_out: list[LeftOut]

    def with_null(self, leaves: Sequence[Leaf], old: Binding) -> Change:
        """Return the change with further leaves, which were null in every row of `old`."""
        binding = replace(self.binding, leaves=(*self.binding.leaves, *leaves))
        origins = [len(old.features)] * sum(leaf.width for leaf in leaves)
        return Change(binding, [*self.origins, *origins], self.left_out)


class _Chosen(Protocol):
    @property
    def selection(self) -> Selection:
        """The rule that finds the columns of a schema."""


@dataclass(frozen=True)
class Binding:
    """The leaves that a normalizer works on, in the order of their features.

    Attributes
    ----------
    leaves : tuple of Leaf
    union : bool
        Whether a batch may lack a leaf, whose values then count as null, and may add leaves.
    spare : bool
        Whether one more feature follows, which is null in every row. Its statistics are those
        that a leaf has before the batch that adds it.
    """

    leaves: tuple[Leaf, ...]
    union: bool = False
    spare: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached properties stay out of the pickle.
        return Binding, (self.leaves, self.union, self.spare)

    @cached_property
    def width(self) -> int:
        """Number of features in a policy's state: with the spare one."""
        return sum(leaf.width for leaf in self.leaves) + self.spare

    @cached_property
    def without_spare(self) -> Binding:
        """The binding to the leaves alone."""
        return replace(self, spare=False) if self.spare else self

    @cached_property
    def derived(self) -> dict[Any, Any]:
        """Cache of values that follow from the binding, which all states of a stream share.

        The class of a value is its key. The cache is neither compared nor pickled.
        """
        return {}

    @cached_property
    def name_characters(self) -> int:
        """About how many characters `features` has, without building it."""
        return sum((sum(map(len, x.path)) + len(x.path)) * x.width for x in self.leaves)

    @cached_property
    def is_settled(self) -> bool:
        """Whether no further data can change it."""
        return not self.union and all(leaf.typed for leaf in self.leaves)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(name for leaf in self.leaves for name in leaf.features)

    @cached_property
    def exact(self) -> NDArray[np.bool_]:
        """Whether each feature holds integers or decimals, shape (features,)."""
        kinds = np.array([leaf.exact for leaf in self.leaves], np.bool_)
        return np.repeat(kinds, [leaf.width for leaf in self.leaves])

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
        leaves = tuple(x for x, keep in zip(self.leaves, chosen, strict=True) if keep)
        binding = Binding(leaves, self.union)
        return binding, np.flatnonzero(np.repeat(chosen, [leaf.width for leaf in self.leaves]))

    def adapt(
        self,
        schema: pa.Schema,
        selection: Selection,
        batch: pa.RecordBatch | Matrix | None = None,
    ) -> Change | None:
        """Return what becomes of the binding in view of a schema; None: nothing.

        A column of lists whose size is not known yet takes it from `batch`.

        Raises
        ------
        SchemaError
            A column that was named turns out not to be numeric, or its lists are empty.
        """
        if self.is_settled:
            return None
        change: Change | None = self._cache.get(
            schema, "change", lambda: self._adapt(schema, selection)
        )
        if batch is None or isinstance(batch, Matrix):  # an array has no lists
            return change
        now = self if change is None else change.binding
        vectors = _vectors_of_known_size(now, batch)
        if not vectors:
            return change
        sized = now.replaced(vectors)
        if change is None:
            return sized
        origins = [change.origins[origin] for origin in sized.origins]
        return Change(sized.binding, origins, change.left_out)

    def _adapt(self, schema: pa.Schema, selection: Selection) -> Change | None:
        retyped, left_out = selection.retype(self._untyped, schema)
        change = self.replaced(retyped)
        if self.union:
            known = {leaf.path for leaf in (*self.leaves, *change.binding.leaves)}
            found, others = selection.find(schema)
            change = change.with_null([leaf for leaf in found if leaf.path not in known], self)
            left_out += others
        if change.binding.leaves == self.leaves:
            return Change(self, change.origins, left_out) if left_out else None
        return change._replace(left_out=left_out)

    def typed_by(self, other: Binding) -> Change:
        """Return the binding with its untyped leaves as they are in another binding.

        A leaf that the other binding lacks is not numeric there, unless a union may lack it.
        """
        retyped: dict[Leaf, list[Leaf]] = {}
        left_out: list[LeftOut] = []
        below: dict[tuple[str, ...], list[Leaf]] = {}
        for leaf in other.leaves if self._untyped else ():
            for depth in range(len(leaf.path)):
                below.setdefault(leaf.path[: depth + 1], []).append(leaf)
        for leaf in self._untyped:
            if leaf.path in below:
                retyped[leaf] = below[leaf.path]
            elif not self.union:
                retyped[leaf] = []
                left_out.append(LeftOut(leaf.name, "nulls in one part, not numeric in the other"))
        return self.replaced(retyped)._replace(left_out=left_out)

    @cached_property
    def _untyped(self) -> list[Leaf]:
        return [leaf for leaf in self.leaves if not leaf.typed]

    def replaced(self, replacements: Mapping[Leaf, Sequence[Leaf]]) -> Change:
        """Return the binding with other leaves in place of some untyped ones."""
        leaves: list[Leaf] = []
        origins: list[int] = []
        for leaf, start in self.starts():
            found = replacements.get(leaf)
            if found is None:
                leaves.append(leaf)
                origins += range(start, start + leaf.width)
            else:
                leaves += found
                origins += [start] * sum(new.width for new in found)
        return Change(Binding(tuple(leaves), self.union, self.spare), origins, [])

    def starts(self) -> Iterator[tuple[Leaf, int]]:
        """Yield each leaf and the index of its first feature."""
        start = 0
        for leaf in self.leaves:
            yield leaf, start
            start += leaf.width

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
        places, floating, vectors = [], [], []
        fields, converted, encoded = fields_by_name(schema), schema, False
        remedy = "Only whole columns may be absent." if self.union else may_be_absent()
        for leaf in self.leaves:
            if self.union and leaf.path[0] not in fields:
                places.append(BoundColumn((ABSENT,), leaf.size))
                floating.append(pa.float64())
                continue
            kind = find_field(fields, leaf.path, remedy=remedy).type
            _check_leaf(leaf, kind)
            floating.append(float_type(kind))
            if not leaf.typed:
                places.append(BoundColumn((ABSENT,), leaf.size))
                continue
            path = _indices(schema, leaf.path)
            places.append(BoundColumn(path, leaf.size))
            encoded = encoded or is_encoded(kind)
            if leaf.size is not None and needs_conversion(kind):
                vectors.append((path[0], leaf.size))
                field = schema.field(path[0]).with_type(vector_type(kind, leaf.size))
                converted = converted.set(path[0], field)
        if self.spare:
            places.append(BoundColumn((ABSENT,), None))
        return _Resolution(Layout(places, converted, encoded), tuple(floating), tuple(vectors))

    def check_matrix(self, matrix: Matrix, chosen: _Chosen) -> None:
        """Raise a SchemaError unless an array has the columns that `chosen.selection` finds in it.

        An array names its columns by their position alone, so one of another width must not pass
        for the same data, as a table with further columns does.
        """
        self._cache.get(matrix.schema, "matrix", lambda: self._check_matrix(matrix, chosen))

    def _check_matrix(self, matrix: Matrix, chosen: _Chosen) -> None:
        selection, bound = chosen.selection, {leaf.path for leaf in self.leaves}
        names = {(name,) for name in matrix.schema.names}
        if self.union:
            fits = not bound or not bound.isdisjoint(names)
        else:
            fits = bound <= names and bound == {
                leaf.path for leaf in selection.find(matrix.schema)[0]
            }
        if not fits:
            raise foreign_columns(matrix.schema, self.leaves, selection.row_columns)

    def extract(self, batch: pa.RecordBatch | Matrix) -> Columns:
        """Return a batch with the places of its leaves.

        Raises
        ------
        SchemaError
            As for `resolve`, or a list has another length than those before.
        """
        found = self.resolve(batch.schema)
        if isinstance(batch, Matrix):
            return Columns(batch.array, found.layout)
        for index, size in found.vectors:
            name = batch.schema.field(index).name
            flat = as_flat(batch.column(index), size, name)
            batch = batch.set_column(index, pa.field(name, flat.type), flat)
        return Columns(batch, found.layout)

    def leaf_schema(self, columns: Columns, out: pa.Schema) -> pa.Schema:
        """Return the schema of the leaves alone, with their types in the output schema `out`.

        If the batch consists of the leaves and nothing else, return `out` itself.
        """
        if self._is_whole(columns, out):
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

    def float_untyped(self, schema: pa.Schema, dtype: pa.DataType | None) -> pa.Schema:
        """Return an output schema in which leaves without a type yet hold floats.

        Those are nulls, and lists of a size that is not known yet.
        """
        for leaf in self._untyped:
            index = schema.get_field_index(leaf.path[0])
            kind = None if index < 0 else schema.field(index).type
            if kind is not None and (pa.types.is_null(kind) or is_list(kind)):
                field = float_field(schema.field(index), None, (), dtype or float_type(kind), True)
                schema = schema.set(index, field)
        return schema

    def rebuild(
        self, columns: Columns, leaves: pa.RecordBatch, schema: pa.Schema
    ) -> pa.RecordBatch:
        """Return a batch with its leaves replaced by normalized ones; the rest is unchanged."""
        if self._is_whole(columns, schema):
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

    def _is_whole(self, columns: Columns, out: pa.Schema) -> bool:
        """Return whether an output holds the normalized leaves and nothing else, unconverted."""
        if not columns.layout.whole:
            return False

        def make() -> bool:
            return not any(needs_conversion(field.type) for field in out)

        return bool(self._cache.get(out, "plain", make))


def bind(schema: pa.Schema, selection: Selection) -> tuple[Binding, list[LeftOut]]:
    """Return the binding to a first schema, and the columns that are left out.

    Raises
    ------
    SchemaError
        A name does not exist or is not numeric, two columns share a name, or no column is
        numeric.
    """
    selection.check_excluded(schema)
    leaves, left_out = selection.find(schema)
    if not leaves and not selection.union:
        types = listed(f"{display_name(f.name)}: {f.type}" for f in schema) or "no columns"
        ignored = [*selection.exclude, *selection.row_columns]
        other = f" other than {listed(map(repr, ignored))}" if ignored else ""
        raise SchemaError(f"the data has no numeric column to normalize{other}; it has {types}.")
    binding = Binding(tuple(leaves), selection.union, selection.union)
    binding.resolve(schema)
    return binding, left_out


def _vectors_of_known_size(binding: Binding, batch: pa.RecordBatch) -> dict[Leaf, list[Leaf]]:
    """Return the untyped leaves that are lists in a batch, with the size of the lists."""
    vectors = {}
    for leaf in binding._untyped:
        index = batch.schema.get_field_index(leaf.path[0])
        if index < 0 or len(leaf.path) > 1:
            continue
        array = batch.column(index)
        size = vector_size(array, leaf.name) if is_list(array.type) else None
        if size == 0:
            raise SchemaError(
                f"column {leaf.name!r} holds an empty list, and a vector has elements. Make it "
                "null, or normalize other columns.",
                column=leaf.name,
            )
        if size is not None:
            numeric = numeric_type(array.type.value_type)
            exact = numeric is not None and not is_float(numeric[0])
            vectors[leaf] = [leaf._replace(size=size, exact=exact, typed=True)]
    return vectors


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
    if pa.types.is_null(kind) or (not leaf.typed and is_untyped(kind)):
        return  # readers infer this type for a batch without a single value
    if (leaf.size is not None or not leaf.typed) and is_list(kind):
        return  # the values tell their length
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
