"""The outputs of a file job: which sources go where, each written whole or not at all.

`plan` says which sources go into which output, and `concat` joins streams that go into
the same one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from streambn.errors import InvalidValueError, SchemaError, StreamBNError
from streambn.io import Location, formats, locate
from streambn.io.formats import Format
from streambn.io.readers import detect_format
from streambn.io.sources import PIPE, Source

__all__ = ["Output", "check_target", "concat", "plan"]


@dataclass(frozen=True, slots=True)
class Output:
    """One output: its file, its format, and the sources that go into it.

    Attributes
    ----------
    target : str
        The file's path or URL; ``"-"`` is standard output.
    format : Format
        What is written there.
    sources : tuple of Source
        In order.
    mirrored : bool
        A folder's copy of one source, under the source's relative path.
    codec : str or None
        How such a copy is compressed as a whole, as its source is.
    """

    target: str
    format: Format
    sources: tuple[Source, ...]
    mirrored: bool = False
    codec: str | None = None

    @property
    def of_parquet(self) -> bool:
        """Whether it is Parquet, and its first source is too, which is looked at if need be."""
        source = self.sources[0]
        if self.format is not Format.PARQUET or not source.rereadable:
            return False
        # The format of a folder's copy is that of its source, which was looked at before.
        return self.mirrored or detect_format(source.open, source.name)[0] is Format.PARQUET

    @property
    def location(self) -> Location:
        """Where it is to be; standard output is nowhere."""
        return locate(self.target)


def plan(sources: Sequence[Source], out: str, *, skipping: bool = False) -> list[Output]:
    """Say which sources go into which output.

    Parameters
    ----------
    sources : sequence of Source
        What `scan` found.
    out : str
        ``"-"``: one Arrow IPC stream on standard output. A file name: one file, its
        format by its suffix. A folder (it exists, or ends in a slash, or takes several
        sources and has no known suffix): one file for each source, under the same
        relative path and in the source's own format. Both may be URLs.
    skipping : bool
        Whether a source of no known format is planned for all the same: it will be found
        to be damaged when it is read, and then be left out.

    Returns
    -------
    list of Output

    Raises
    ------
    InvalidValueError
        The suffix is unknown, an output would replace an input, or standard output is a
        terminal.
    """
    if out == PIPE:
        if sys.stdout.isatty():
            raise InvalidValueError("standard output is a terminal: pipe it on, or name a file")
        return [Output(PIPE, Format.IPC_STREAM, tuple(sources))]
    where = locate(out)
    where.check_store()
    kind = formats.SUFFIXES.get(Path(where.name).suffix.lower())
    many = len(sources) > 1 or any(source.listed for source in sources)
    if where.ends_in_slash or where.is_folder() or (many and kind is None):
        return _plan_folder(sources, where, skipping)
    if kind is None:
        raise InvalidValueError(
            f"{out}: an output's format is told by its suffix, one of {', '.join(formats.SUFFIXES)}"
            "; a folder's name ends in a slash, and - is standard output"
        )
    check_target(where.text, sources)
    return [Output(where.text, kind, tuple(sources))]


def _plan_folder(sources: Sequence[Source], folder: Location, skipping: bool) -> list[Output]:
    if folder.is_file():
        raise InvalidValueError(
            f"{folder.text} is a file, but these inputs need a folder to go into"
        )
    identities = _identities(sources)
    _check_outside(folder, sources)
    outputs: dict[str, Output] = {}
    for source in sources:
        target = folder.child(source.relative)
        _check_replaceable(target, identities)
        if target.text in outputs:
            first = outputs[target.text].sources[0]
            raise InvalidValueError(f"{first.name} and {source.name} would both be {target.text}")
        kind, codec = Format.IPC_STREAM, None
        if source.rereadable:
            try:
                kind, codec = detect_format(source.open, source.name)
            except (StreamBNError, OSError):
                if not skipping:
                    raise
        outputs[target.text] = Output(target.text, kind, (source,), mirrored=True, codec=codec)
    return list(outputs.values())


def _identities(sources: Sequence[Source]) -> set[str]:
    return {where.identity for source in sources if (where := source.location) is not None}


def _check_outside(target: Location, sources: Sequence[Source]) -> None:
    """Refuse a target in a folder that is listed: the next run would take it for an input."""
    inner = target.identity.rstrip("/") + "/"
    for root in sorted({source.root for source in sources if source.root is not None}):
        if inner.startswith(locate(root).identity.rstrip("/") + "/"):
            raise InvalidValueError(
                f"{target.text} lies in the input folder {root}, so that the next run would read "
                "it as an input: write outside of it"
            )


def _check_replaceable(target: Location, inputs: Collection[str]) -> None:
    """Refuse a target that is an input, or is there and is no file."""
    if target.identity in inputs:
        raise InvalidValueError(f"{target.text} is one of the inputs: write somewhere else")
    # In a store, an object and a folder of one name do not stand in each other's way.
    if target.local is not None and target.exists() and not target.is_file():
        raise InvalidValueError(f"{target.text} exists and is not a regular file")


def check_target(target: str, sources: Sequence[Source] = ()) -> None:
    """Refuse, before any work is done, a file that cannot or must not be written.

    Parameters
    ----------
    target : str
        The path or URL of the file to be written; a local folder must exist already.
    sources : sequence of Source
        Inputs, none of which may be replaced.

    Raises
    ------
    InvalidValueError
        With the reason.
    StreamBNError
        The store that it would be in cannot be reached.
    """
    if target == PIPE:
        raise InvalidValueError("statistics go to a file, not to standard output: name one")
    where = locate(target)
    where.check_store()
    _check_outside(where, sources)
    _check_replaceable(where, _identities(sources))
    if where.local is not None and not os.path.isdir(os.path.dirname(where.identity)):
        raise InvalidValueError(f"{target}: the folder {os.path.dirname(target)} does not exist")


def concat(readers: Iterable[tuple[str, Any]]) -> Any:
    """Join streams into one that has the schema of the first.

    Parameters
    ----------
    readers : iterable of (str, pyarrow.RecordBatchReader)
        Each with the name that errors give it. A reader is asked for only when the one
        before it has ended.

    Returns
    -------
    pyarrow.RecordBatchReader

    Raises
    ------
    SchemaError
        A later stream lacks a column, has one more, or one whose values do not fit the
        type that the first stream gives it. Raised when the reader arrives there.
    """
    pending = iter(readers)
    first_name, first = next(pending)
    schema = first.schema

    def batches() -> Iterator[Any]:
        yield from first
        for name, reader in pending:
            _check_names(reader.schema.names, schema.names, name, first_name)
            for batch in reader:
                yield _conform(batch, schema, name, first_name)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _check_names(names: Sequence[str], expected: Sequence[str], name: str, first: str) -> None:
    for column in expected:
        if column not in names:
            raise SchemaError(f"{name}: {SchemaError.missing(column, names)}")
    for column in names:
        if column not in expected:
            raise SchemaError(
                f"{name}: column {column!r} is not in {first}, which goes into the same output; "
                "write to a folder instead, where each file keeps its own columns"
            )


def _conform(batch: Any, schema: Any, name: str, first: str) -> Any:
    """Bring columns into the order and types of `schema`."""
    if batch.schema.names != schema.names:
        batch = batch.select(schema.names)
    columns = []
    for column, target in zip(batch.columns, schema, strict=True):
        try:
            columns.append(column if column.type == target.type else column.cast(target.type))
        except pa.ArrowException as error:
            raise SchemaError(
                f"{name}: column {target.name!r} is {column.type}, and its values do not all fit "
                f"{target.type}, which it is in {first}, of the same output"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)
