"""Which columns of a schema are features.

A *leaf* is one numeric column, at the top level or inside a struct. A leaf of fixed-size lists,
tensors or vectors holds one *feature* per element; any other leaf holds one. A column of the null
type is an *untyped* leaf: its values, which are all missing so far, may turn out to be anything.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn._messages import display_name, escape, listed, spell
from streambn.arrow.schemas import is_float, numeric_type, pandas_index_columns
from streambn.arrow.vectors import is_list, needs_conversion
from streambn.errors import InvalidValueError, SchemaError
from streambn.policies import is_name

__all__ = [
    "Leaf",
    "LeftOut",
    "Names",
    "Selection",
    "check_names",
    "fields_by_name",
    "find_field",
    "find_leaves",
    "is_pattern",
    "is_untyped",
    "may_be_absent",
]

# Names and patterns of columns, or a function that chooses columns by their field.
Names = tuple[str, ...] | Callable[[pa.Field], bool]


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
    typed : bool
        Whether the type is known. An untyped leaf is one feature, whose values are all missing.
    """

    path: tuple[str, ...]
    size: int | None
    exact: bool
    typed: bool = True

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


class LeftOut(NamedTuple):
    """A column without statistics that the user did not exclude, and the reason."""

    column: str
    reason: str

    def __str__(self) -> str:
        # The reason may quote a type, which has the names of fields.
        return f"{display_name(self.column)} ({escape(self.reason)})"


class Selection(NamedTuple):
    """The columns that a user asked for.

    Attributes
    ----------
    columns : tuple of str, callable or None
        Names of columns, dotted names of struct fields, or shell patterns of either; or a
        function that takes a pyarrow.Field and returns whether to select the column. None: all
        numeric columns but the index of a pandas DataFrame.
    exclude : tuple of str
        Names and patterns of columns to leave alone.
    row_columns : tuple of str
        Columns that describe rows: sample weights and event times. Only `columns` selects them.
    union : bool
        Whether a named column may be absent.
    """

    columns: Names | None = None
    exclude: tuple[str, ...] = ()
    row_columns: tuple[str, ...] = ()
    union: bool = False

    def find(self, schema: pa.Schema) -> tuple[list[Leaf], list[LeftOut]]:
        """Return the leaves in a schema, and the columns that are left out.

        A column of lists is an untyped leaf if it was named. Its first value tells its size.

        Raises
        ------
        SchemaError
            A name does not exist or is not numeric, or a pattern matches no numeric column.
        """
        excluded = self._excluded(schema)
        if isinstance(self.columns, tuple):
            fields = fields_by_name(schema)
            named = [
                leaf
                for name in self.columns
                for leaf in self._named(schema, fields, name, excluded)
            ]
            _check_distinct(schema, named)
            return named, []
        index = pandas_index_columns(schema)
        leaves: list[Leaf] = []
        left_out: list[LeftOut] = []
        for field in schema:
            if field.name in excluded or field.name in self.row_columns or not self._wants(field):
                continue
            if field.name in index:
                left_out.append(LeftOut(field.name, "index of the DataFrame"))
            else:
                leaves += _keep(find_leaves((field.name,), field.type), excluded)
                left_out += _others((field.name,), field.type, excluded)
        _check_distinct(schema, leaves)
        return leaves, left_out

    def retype(
        self, untyped: Iterable[Leaf], schema: pa.Schema
    ) -> tuple[dict[Leaf, list[Leaf]], list[LeftOut]]:
        """Find the types that untyped leaves have in a schema.

        Return the new leaves of each leaf that has a type there, and the columns left out.

        Raises
        ------
        SchemaError
            A column was named and is not numeric.
        """
        fields, excluded = fields_by_name(schema), self._excluded(schema)
        named = {*self.columns} if isinstance(self.columns, tuple) else set()
        retyped: dict[Leaf, list[Leaf]] = {}
        left_out: list[LeftOut] = []
        for leaf in untyped:
            path = leaf.path if leaf.path[0] in fields else tuple(leaf.name.split("."))
            field = find_field(fields, path) if path[0] in fields else None
            if field is None or is_untyped(field.type):
                continue
            if not named.isdisjoint(_prefixes(leaf.path)):
                found = _require(field, path, leaf.name)
                if found != [leaf]:
                    retyped[leaf] = _keep(found, excluded)
            elif len(path) == 1 and not self._wants(field):
                retyped[leaf] = []
            else:
                retyped[leaf] = _keep(find_leaves(path, field.type), excluded)
                left_out += _others(path, field.type, excluded)
        return retyped, left_out

    def _wants(self, field: pa.Field) -> bool:
        """Return whether a function, if there is one, selects a column or cannot tell yet."""
        return not callable(self.columns) or is_untyped(field.type) or self.columns(field)

    def _excluded(self, schema: pa.Schema) -> set[str]:
        """Return the dotted names to leave alone."""
        excluded: set[str] = set()
        names = {*schema.names} if self.exclude else set()
        for name in self.exclude:
            if is_pattern(name) and name not in names:
                excluded.update(fnmatch.filter(_names(schema), name))
            else:
                excluded.add(name)
        return excluded

    def check_excluded(self, schema: pa.Schema) -> None:
        """Raise a SchemaError if a name to leave alone is not in the schema.

        The schema must be that of the whole data. Batches may lack columns that were not read.
        """
        if self.union:
            return
        names = None
        for name in self.exclude:
            names = _names(schema) if names is None else names
            if not is_pattern(name) and name not in names:
                missing = SchemaError.missing(name, schema.names)
                raise SchemaError(f"exclude: {missing}", argument="exclude", column=name)

    def _named(
        self,
        schema: pa.Schema,
        fields: dict[str, list[pa.Field]],
        name: str,
        excluded: set[str],
    ) -> Iterable[Leaf]:
        """Return the leaves that a name or a pattern stands for."""
        if is_pattern(name) and name not in fields:
            return self._matching(schema, name, excluded)
        path = (name,) if name in fields else tuple(name.split("."))
        if self.union and not _exists(fields, path):
            return [Leaf((name,), None, exact=True, typed=False)]
        field = find_field(fields, path, name, may_be_absent())
        return _keep(_require(field, path, name), excluded)

    def _matching(self, schema: pa.Schema, pattern: str, excluded: set[str]) -> list[Leaf]:
        hidden = excluded.union(self.row_columns, pandas_index_columns(schema))
        found = [
            leaf
            for field in schema
            if field.name not in hidden
            for leaf in _keep(find_leaves((field.name,), field.type), excluded)
            if any(fnmatch.fnmatchcase(name, pattern) for name in _prefixes(leaf.path))
        ]
        if not found and not self.union:
            names = listed(map(repr, schema.names)) or "no columns"
            raise SchemaError(
                f"the pattern {pattern!r} matches no numeric column. The data has: {names}.",
                argument="columns",
                column=pattern,
            )
        return found


def check_names(columns: Any, exclude: Any) -> tuple[Names | None, tuple[str, ...]]:
    """Return the columns to select and those to leave alone.

    Raises
    ------
    InvalidValueError
        An argument is not a list of names, or both have the same name.
    """
    chosen, excluded = columns, exclude
    if columns is not None and not callable(columns):
        domain = "a list of names, a callable that takes a pyarrow.Field, or None for all numeric"
        chosen = _checked("columns", columns, f"{domain} columns")
    excluded = () if exclude is None else _checked("exclude", exclude, "a list of names, or None")
    if isinstance(chosen, tuple) and (both := set(chosen) & set(excluded)):
        raise InvalidValueError(
            f"columns and exclude both name {min(both)!r}. Remove it from one of them.",
            argument="exclude",
            column=min(both),
        )
    return chosen, excluded


def _checked(argument: str, given: Any, domain: str) -> tuple[str, ...]:
    names = () if isinstance(given, str) or not isinstance(given, Sequence) else tuple(given)
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidValueError(f"{argument} must be {domain}, got {given!r}.", argument=argument)
    if foreign := [name for name in names if name and not is_name(name)]:
        raise InvalidValueError(
            f"{argument} must be {domain}, and {foreign[0]!r} is not Unicode text, so no column "
            "has this name.",
            argument=argument,
        )
    return names


def may_be_absent() -> str:
    """Return the remedy for a column that a batch lacks."""
    return f"Fit with {spell('schema', 'union')} if columns may be absent."


def is_pattern(name: str) -> bool:
    """Return whether a name that no column has is a shell pattern."""
    return "*" in name or "?" in name


# ------------------------------------------------------------------- finding leaves


def is_untyped(kind: pa.DataType) -> bool:
    """Return whether a type holds nulls alone and may turn out to be numeric."""
    types = pa.types
    tests = (types.is_fixed_size_list, types.is_dictionary, types.is_run_end_encoded)
    while any(test(kind) for test in tests):
        kind = kind.value_type
    return bool(types.is_null(kind))


def _prefixes(path: tuple[str, ...]) -> list[str]:
    """Return the dotted names of a leaf and of the structs around it."""
    return [".".join(path[: depth + 1]) for depth in range(len(path))]


def find_leaves(path: tuple[str, ...], kind: pa.DataType) -> Iterator[Leaf]:
    """Yield the leaves in a column or a struct field."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from find_leaves((*path, field.name), field.type)
    elif (numeric := numeric_type(kind)) is not None:
        if len(path) == 1 or not needs_conversion(kind):
            yield Leaf(path, numeric[1], not is_float(numeric[0]))
    elif is_untyped(kind):
        yield Leaf(path, None, exact=True, typed=False)


def _others(path: tuple[str, ...], kind: pa.DataType, excluded: set[str]) -> Iterator[LeftOut]:
    """Yield what `find_leaves` passes over."""
    name = ".".join(path)
    if name in excluded:
        return
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _others((*path, field.name), field.type, excluded)
    elif not any(find_leaves(path, kind)):
        is_vector = is_list(kind) and len(path) == 1
        hint = "; name it to use its lists as vectors of one length" if is_vector else ""
        yield LeftOut(name, f"{_describe(kind)}{hint}")


def _describe(kind: pa.DataType) -> str:
    """Return a type in a few words."""
    text = str(kind)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _keep(leaves: Iterable[Leaf], excluded: set[str]) -> list[Leaf]:
    """Drop the leaves that are excluded, on their own or with a struct around them."""
    if not excluded:
        return [*leaves]
    return [leaf for leaf in leaves if excluded.isdisjoint(_prefixes(leaf.path))]


def _require(field: pa.Field, path: tuple[str, ...], name: str) -> list[Leaf]:
    """Return the leaves of a column that was asked for, which must be numeric."""
    leaves = [*find_leaves(path, field.type)]
    if not leaves and len(path) == 1 and is_list(field.type):
        return [Leaf(path, None, exact=True, typed=False)]
    if not leaves:
        remedy = "" if pa.types.is_nested(field.type) else ", or cast it to a number first"
        raise SchemaError(
            f"column {name!r} is {field.type}, which is not numeric. Remove it from "
            f"{spell('columns')}{remedy}.",
            argument="columns",
            column=name,
        )
    return leaves


def _check_distinct(schema: pa.Schema, leaves: list[Leaf]) -> None:
    names = [feature for leaf in leaves for feature in leaf.features]
    if len(set(names)) < len(names):
        [(name, _)] = Counter(names).most_common(1)
        times = _names(schema).count(name)
        if times > 1:
            raise SchemaError(
                f"column {name!r} exists {times} times. Rename all but one of them, or leave them "
                f"out with {spell('exclude')}.",
                column=name,
            )
        raise SchemaError(
            f"column {name!r} is selected twice. Name each column once in {spell('columns')}; the "
            "name of a struct stands for all its fields.",
            argument="columns",
            column=name,
        )


# ------------------------------------------------------------------------- fields


def _names(schema: pa.Schema | pa.StructType, prefix: str = "") -> list[str]:
    """Return the dotted names of all columns and struct fields."""
    names = []
    for field in schema:
        names.append(f"{prefix}{field.name}")
        if pa.types.is_struct(field.type):
            names += _names(field.type, f"{prefix}{field.name}.")
    return names


def fields_by_name(schema: pa.Schema | pa.StructType) -> dict[str, list[pa.Field]]:
    """Return the fields of each name: more than one if a name occurs twice."""
    fields: dict[str, list[pa.Field]] = {}
    for field in schema:
        fields.setdefault(field.name, []).append(field)
    return fields


def _exists(fields: dict[str, list[pa.Field]], path: tuple[str, ...]) -> bool:
    for part in path:
        if part not in fields:
            return False
        kind = fields[part][0].type
        if pa.types.is_null(kind):
            return True
        fields = fields_by_name(kind) if pa.types.is_struct(kind) else {}
    return True


def find_field(
    fields: dict[str, list[pa.Field]],
    path: tuple[str, ...],
    requested: str | None = None,
    remedy: str = "",
) -> pa.Field:
    """Return the field at a path; a field of the null type stands for everything below it.

    Raises
    ------
    SchemaError
        There is none, or there are several. The message ends with the remedy.
    """
    for depth, part in enumerate(path):
        if part not in fields:
            prefix = "".join(f"{name}." for name in path[:depth])
            names = [f"{prefix}{name}" for name in fields]
            raise SchemaError.missing(requested or ".".join(path), names, remedy)
        if len(fields[part]) > 1:
            raise SchemaError(
                f"column {part!r} exists {len(fields[part])} times. Rename all but one of them.",
                column=part,
            )
        [field] = fields[part]
        if pa.types.is_null(field.type):
            return field
        fields = fields_by_name(field.type) if pa.types.is_struct(field.type) else {}
    return field
