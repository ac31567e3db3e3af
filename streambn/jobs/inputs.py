"""The sources of an output: what an operation needs of them, and their schemas."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.arrow import common_field
from streambn.errors import StreamBNError
from streambn.io import (
    DataFile,
    Format,
    KeptText,
    Passthrough,
    Source,
    detect_format,
    located,
    prefetch,
)
from streambn.jobs.operations import LearnAndApply, Operation
from streambn.jobs.plan import Output, ReadOptions

__all__ = [
    "Needs",
    "Schemas",
    "SourceSchema",
    "keys_of",
    "needs_of",
    "open_input",
    "read_schemas",
]

# Schemas that may wait to be compared.
_WAITING = 64
# A read of a schema over a network is mostly a wait.
_REMOTE_THREADS = 16


class Needs(NamedTuple):
    """What an operation needs of the sources of an output.

    Attributes
    ----------
    operation : Operation or None
        None: the schemas alone.
    into : Format
        The format that columns must fit which the operation passes through.
    several : bool
        Whether there are several sources, which have one schema then.
    """

    operation: Operation | None
    into: Format
    several: bool

    @property
    def features(self) -> Collection[str]:
        """Names of the features that are normalized."""
        return () if self.operation is None else self.operation.features

    def passthrough(self, source: Source, options: ReadOptions) -> Passthrough | None:
        """Return which CSV columns of a source keep their text; None: the schema tells it."""
        changed = None if self.operation is None else self.operation.changed(self.into)
        if changed is None:
            return None
        settled = options.settled_passed.get(source.identity, {})
        if self.several:
            settled = {**settled, **dict.fromkeys(options.kept_text, pa.string())}
        return Passthrough(changed, self.into, settled)


def needs_of(output: Output, operation: Operation) -> Needs:
    """Return what an operation needs of the sources of an output."""
    into, several = output.format, len(output.sources) > 1
    if into in (Format.CSV, Format.JSON) and several and len(_formats(output.sources)) > 1:
        into = Format.IPC_STREAM  # the output has one schema, and only one of them has no types
    return Needs(operation, into, several)


def _formats(sources: Sequence[Source]) -> set[Format | None]:
    """Return the formats of sources; None is that of pipes."""
    found = set[Format | None]()
    for source in sources:
        with contextlib.suppress(StreamBNError, OSError):  # comes again when the source is read
            found.add(detect_format(source.open, source.name)[0] if source.rereadable else None)
    return found


def keys_of(output: Output, source: Source, features: Collection[str]) -> list[str]:
    """Return the Hive partition keys that become columns of the output.

    A copy in a folder keeps the keys in its path, so only keys that are normalized become
    columns there.
    """
    return [key for key in source.keys if not output.mirrored or key in features]


def open_input(output: Output, source: Source, needs: Needs, options: ReadOptions) -> DataFile:
    """Open a source of an output, with the keys of `keys_of` as columns."""
    keys = keys_of(output, source, needs.features)
    operation = needs.operation
    if not isinstance(operation, LearnAndApply):
        return options.open(source, needs.passthrough(source, options), keys=keys)

    def bind(schema: Any) -> Passthrough | None:
        for key in keys:
            if key not in schema.names:
                schema = schema.append(pa.field(key, source.keys[key].type))
        with located(source.name):
            operation.bind(schema)
        passthrough = needs.passthrough(source, options)
        if passthrough is None or passthrough.keeps_text:
            return passthrough
        options.settle([source], passthrough)  # what was learned cannot be taken back
        return needs.passthrough(source, options)

    return options.open(source, bind, keys=keys)


class SourceSchema(NamedTuple):
    """A schema, and the first source that has it."""

    schema: Any
    source: str
    format: Format


class Schemas(NamedTuple):
    """The schemas of the sources of an output.

    Attributes
    ----------
    known : sequence
        The schemas that differ, in the order of the sources.
    first : DataFile or None
        The first source, opened; None if it cannot be.
    piped : bool
        Whether a source is a pipe.
    """

    known: Sequence[SourceSchema]
    first: DataFile | None
    piped: bool


def read_schemas(output: Output, needs: Needs, options: ReadOptions) -> Schemas:
    """Read the schemas of all sources that can be read twice, and that of the first.

    CSV columns that pass through are text in all sources if no other type holds them.

    Raises
    ------
    StreamBNError, OSError
        A source cannot be read, and damage is not to be skipped.
    """
    schemas = _read_schemas(output, needs, options)
    clashes = _clashes(schemas.known, needs) if output.sources[0].rereadable else set()
    for column in clashes:
        options.kept_text.setdefault(column, KeptText(column))
    return _read_schemas(output, needs, options) if clashes else schemas


def _read_schemas(output: Output, needs: Needs, options: ReadOptions) -> Schemas:
    first: DataFile | None = None
    known: list[SourceSchema] = []
    piped = [not source.rereadable for source in output.sources]

    def read(source: Source) -> Iterator[DataFile]:
        yield open_input(output, source, needs, options)

    asked = [source for source, pipe in zip(output.sources[1:], piped[1:], strict=True) if not pipe]
    workers = _REMOTE_THREADS if any(source.remote for source in asked) else options.threads
    if isinstance(needs.operation, LearnAndApply):
        workers = 1  # to open a source binds the operation to its columns
    rest = prefetch(
        asked, read, workers=min(workers, len(asked)), capacity=_WAITING, size=lambda _: 1
    )
    with contextlib.closing(rest):
        start = output.sources[0]
        for source, opened in itertools.chain([(start, read(start))], rest):
            try:
                (file,) = opened
            except (StreamBNError, OSError):
                if not options.skip_damaged:
                    raise
                continue
            if source is start:
                first = file
            if not any(file.schema.equals(other.schema) for other in known):
                known.append(SourceSchema(file.schema, source.name, file.format))
    return Schemas(known, first, any(piped))


def _clashes(known: Sequence[SourceSchema], needs: Needs) -> set[str]:
    """Return the columns that pass through from CSV, and that text alone holds of all sources."""
    changed = needs.operation and needs.operation.changed(needs.into)
    if changed is None or not needs.several:
        return set()
    fields: dict[str, Any] = {}
    clashes = set()
    for field in (f for each in known for f in each.schema if _may_be_text(each, f.type)):
        found = common_field(fields.setdefault(field.name, field), field)
        if found is not None:
            fields[field.name] = found
        elif field.name not in changed:
            clashes.add(field.name)
    return clashes


def _may_be_text(known: SourceSchema, kind: Any) -> bool:
    return known.format is Format.CSV or pa.types.is_string(kind) or pa.types.is_large_string(kind)
