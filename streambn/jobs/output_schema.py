"""The schema of an output that several sources go into, settled before it is written.

The sources must have the same columns, in any order; the output has them in the order of the
first. With a union by name, a source may lack columns, which are null there. A column that the
sources store differently has their common type, and is nullable if it is so in any of them. A
normalized column has the common type of what each source alone would give, and its values are
computed in that type.

Only schemas are read for this. A pipe cannot be asked before its turn: every field of the output
is nullable then, and the pipe must fit the schema that the others settled.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa

from streambn.arrow import (
    cast_column,
    common_field,
    has_required,
    holds,
    input_type,
    null_in_required,
    nullable_field,
    numeric_type,
    untyped_field,
    update_pandas_metadata,
)
from streambn.errors import SchemaError, StreamBNError
from streambn.io import Format, Source, detect_format, located
from streambn.jobs.inputs import Needs, Schemas, SourceSchema, read_schemas
from streambn.jobs.operations import Operation
from streambn.jobs.plan import Output, ReadOptions

__all__ = ["SourceMap", "check_types", "settle_schema"]


def settle_schema(operation: Operation, schemas: Schemas, options: ReadOptions) -> Any:
    """Return the schema of an output; None if no source can be mapped.

    Raises
    ------
    SchemaError
        The operation does not fit a source, the sources have other columns, or no type holds a
        column of all. If damage is to be skipped, such a source has no part in the schema.
    """
    union: _Union | None = None
    for known in schemas.known:
        with located(known.source), _suppressed(options.skip_damaged):
            mapped = operation.schema(known.schema)
            if union is None:
                union = _Union(known, mapped, options.union)
            else:
                union.add(known, mapped)
    if union is None:
        return None
    schema = union.schema if union.several else union.first
    if schemas.piped:
        schema = pa.schema(map(nullable_field, schema), schema.metadata)
    # A normalized column that is null in all sources gets its type.
    schema = operation.schema(schema)
    if union.several:
        for known in schemas.known:
            with located(known.source), _suppressed(options.skip_damaged):
                SourceMap(operation, known.schema, schema, options)
    return schema


def _suppressed(skip_damaged: bool) -> Any:
    return contextlib.suppress(StreamBNError) if skip_damaged else contextlib.nullcontext()


def check_types(output: Output, options: ReadOptions) -> None:
    """Refuse sources of one output that no operation could join.

    Only files that declare their types are asked. Those of text change while it is read.

    Raises
    ------
    SchemaError
        No type holds a column of all sources.
    """
    declared = tuple(filter(_declares_types, output.sources))
    if len(declared) < 2:
        return
    schemas = read_schemas(
        output._replace(sources=declared), Needs(None, output.format, several=True), options
    )
    if len(schemas.known) < 2:
        return
    fields: dict[str, tuple[Any, SourceSchema]] = {}
    for known in schemas.known:
        with located(known.source):
            if not options.union:
                _check_names(known, schemas.known[0])
            for field in known.schema:
                ours, origin = fields.setdefault(field.name, (field, known))
                found = common_field(ours, field)
                # Numbers may be normalized, which gives them a common type.
                if found is None and not (numeric_type(ours.type) and numeric_type(field.type)):
                    raise _no_common_type(ours, origin, field, known)
                if found is not None and found.type != ours.type:
                    fields[field.name] = found, known


def _declares_types(source: Source) -> bool:
    try:
        kind, _ = detect_format(source.open, source.name)
    except (StreamBNError, OSError):  # comes again when the source is read
        return False
    return kind.declares_types


def _check_names(known: SourceSchema, first: SourceSchema) -> None:
    """Refuse a source that has other columns than the first."""
    for one, other, where in ((known, first, "not in"), (first, known, "missing, but in")):
        names = {*other.schema.names}
        for name in one.schema.names:
            if name not in names:
                raise SchemaError(
                    f"column {name!r} is {where} {first.source}, which goes into the same output. "
                    "To make it null where it is absent, pass --union-by-name. Or write to a "
                    "folder, where each file keeps its own columns.",
                    column=name,
                )


def _untyped(schema: Any, mapped: Any) -> Any:
    return pa.schema(map(untyped_field, schema, mapped), mapped.metadata)


class _Union:
    """The union of the columns of several sources, with their common types."""

    def __init__(self, known: SourceSchema, mapped: Any, by_name: bool) -> None:
        self.first = mapped
        self.several = False
        self._known, self._by_name = known, by_name
        self._fields: dict[str, Any] = {}
        self._origins: dict[str, SourceSchema] = {}  # the source that gave a column its type

    @property
    def schema(self) -> Any:
        """The schema of all sources, with the metadata of the first."""
        changed = {f.name for f in self.first if f.type != self._fields[f.name].type}
        metadata = update_pandas_metadata(self.first.metadata, changed)
        return pa.schema(self._fields.values(), metadata)

    def add(self, known: SourceSchema, mapped: Any) -> None:
        """Add a source, or raise and stay as before."""
        if not self._by_name:
            _check_names(known, self._known)
        mapped = _untyped(known.schema, mapped)
        if not self.several:
            self._begin()
        fields, origins = dict(self._fields), dict(self._origins)
        for name, field in _by_name(mapped).items():
            if name not in fields:
                fields[name], origins[name] = field.with_nullable(True), known
                continue
            found = common_field(fields[name], field)
            if found is None:
                raise _no_common_type(fields[name], origins[name], field, known)
            if found.type == field.type != fields[name].type:
                origins[name] = known
            fields[name] = found
        for name in fields.keys() - set(mapped.names):
            fields[name] = fields[name].with_nullable(True)
        self._fields, self._origins = fields, origins

    def _begin(self) -> None:
        with located(self._known.source):
            self._fields = _by_name(_untyped(self._known.schema, self.first))
        self._origins = dict.fromkeys(self._fields, self._known)
        self.several = True


def _by_name(schema: Any) -> dict[str, Any]:
    fields = {field.name: field for field in schema}
    for name in fields if len(fields) < len(schema) else ():
        count = schema.names.count(name)
        if count > 1:
            raise SchemaError(
                f"column {name!r} exists {count} times. Rename all but one of them, or write to a "
                "folder, where each file keeps its own columns.",
                column=name,
            )
    return fields


def _no_common_type(
    ours: Any, origin: SourceSchema, theirs: Any, known: SourceSchema
) -> SchemaError:
    remedy = "Cast it to one type"
    if Format.CSV in (origin.format, known.format):
        remedy += f" (of CSV: --csv-type {ours.name}={ours.type})"
    return SchemaError(
        f"column {ours.name!r} is {theirs.type}, but {ours.type} in {origin.source}, which goes "
        f"into the same output, and no type holds both. {remedy}, or write to a folder, where "
        "each file keeps its own types.",
        column=ours.name,
    )


class SourceMap:
    """The map from the batches of one source to batches of the output.

    Parameters
    ----------
    operation : Operation
    schema : pyarrow.Schema
        Schema of the source.
    target : pyarrow.Schema or None
        Schema of the output. None: the source is the only one that has a part in it.
    options : ReadOptions

    Raises
    ------
    SchemaError
        The source does not fit the schema of the output.
    """

    def __init__(
        self, operation: Operation, schema: Any, target: Any, options: ReadOptions
    ) -> None:
        mapped = operation.schema(schema)
        self._target = mapped if target is None else target
        self._required = [i for i, field in enumerate(self._target) if has_required(field)]
        self._whole = _is_like(mapped, self._target)
        if self._whole:
            self._function = operation.function(schema.names)
            return
        _check_fits(_untyped(schema, mapped), self._target, options)
        given, alone = _by_name(schema), _by_name(mapped)
        # The columns of the source in the order of the output, before and after the operation.
        after = [field for field in self._target if field.name in given]
        self._after = pa.schema(after, self._target.metadata)
        self._before = pa.schema(
            [(f.name, input_type(given[f.name].type, alone[f.name].type, f.type)) for f in after],
            schema.metadata,
        )
        self._function = operation.function(self._before.names)
        self._columns = {name: index for index, name in enumerate(schema.names)}
        self(_empty_batch(schema))  # refuses types that do not convert, before the first batch

    def __call__(self, batch: Any) -> Any:
        """Return the batch of the output."""
        out = self._function(batch, self._target) if self._whole else self._map(batch)
        for index in self._required:
            name = null_in_required(self._target.field(index), out.column(index))
            if name is not None:
                raise SchemaError(
                    f"column {name!r} holds null, but its file declares it not null. Write the "
                    "file again with a nullable field.",
                    column=name,
                )
        return out

    def _map(self, batch: Any) -> Any:
        before = [_cast(batch.column(self._columns[field.name]), field) for field in self._before]
        mapped = self._function(
            pa.RecordBatch.from_arrays(before, schema=self._before), self._after
        )
        columns = dict(zip(mapped.schema.names, mapped.columns, strict=True))
        arrays = [
            columns[f.name] if f.name in columns else pa.nulls(batch.num_rows, f.type)
            for f in self._target
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self._target)


def _is_like(schema: Any, target: Any) -> bool:
    """Return whether batches of one schema are valid under another."""
    return schema.names == target.names and all(
        field.type == wanted.type and (wanted.nullable or not field.nullable)
        for field, wanted in zip(schema, target, strict=True)
    )


def _check_fits(mapped: Any, target: Any, options: ReadOptions) -> None:
    """Refuse a source that would change the schema of the output, which is settled."""
    remedy = "List this source first, or write to a folder, where each file keeps its own columns."
    given, fields = _by_name(mapped), {field.name: field for field in target}
    for name in fields if not options.union else ():
        if name not in given:
            raise SchemaError.missing(name, given)
    for name, field in given.items():
        if name not in fields:
            raise SchemaError(
                f"column {name!r} is not in the other sources, which go into the same output. "
                f"{remedy}",
                column=name,
            )
        ours = fields[name]
        if not holds(ours.type, field.type) or (field.nullable and not ours.nullable):
            raise SchemaError(
                f"column {name!r} is {_described(field)}, but {_described(ours)} in the other "
                f"sources, which go into the same output. {remedy}",
                column=name,
            )


def _described(field: Any) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def _empty_batch(schema: Any) -> Any:
    columns = [pa.nulls(0, field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(array: Any, field: Any) -> Any:
    try:
        return cast_column(array, field.type)
    except pa.ArrowException as error:
        raise SchemaError(
            f"column {field.name!r} is {array.type}, and its values do not all fit {field.type}, "
            "the common type of the sources that go into the same output. Cast it to one type, or "
            "write to a folder, where each file keeps its own types.",
            column=field.name,
        ) from error
