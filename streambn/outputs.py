"""The outputs of a file job: which sources go where, each written whole or not at all.

`plan` says which sources go into which output, and `concat` joins streams that go into
the same one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from streambn import formats
from streambn.errors import InvalidValueError, SchemaError
from streambn.files import PIPE, Source
from streambn.formats import Format
from streambn.reading import format_of

__all__ = ["Output", "check_target", "concat", "plan"]


@dataclass(frozen=True, slots=True)
class Output:
    """One output: its file, its format, and the sources that go into it.

    Attributes
    ----------
    target : str
        The file's path; ``"-"`` is standard output.
    format : Format
        What is written there.
    sources : tuple of Source
        In order.
    mirrored : bool
        A folder's copy of one source, under the source's relative path.
    """

    target: str
    format: Format
    sources: tuple[Source, ...]
    mirrored: bool = False

    @property
    def location(self):
        from streambn.locations import locate
        return locate(self.target)


def plan(sources: Sequence[Source], out: str) -> list[Output]:
    """Say which sources go into which output.

    Parameters
    ----------
    sources : sequence of Source
        What `scan` found.
    out : str
        ``"-"``: one Arrow IPC stream on standard output. A file name: one file, its
        format by its suffix. A folder (it exists, or ends in a slash, or takes several
        sources and has no known suffix): one file for each source, under the same
        relative path and in the source's own format.

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
    kind = formats.SUFFIXES.get(Path(out).suffix.lower())
    many = len(sources) > 1 or any(source.listed for source in sources)
    if os.path.isdir(out) or out.endswith("/") or (many and kind is None):
        return _plan_folder(sources, out)
    if kind is None:
        raise InvalidValueError(
            f"{out}: an output's format is told by its suffix, one of {', '.join(formats.SUFFIXES)}"
            "; a folder's name ends in a slash, and - is standard output"
        )
    check_target(out, sources)
    return [Output(out, kind, tuple(sources))]


def _plan_folder(sources: Sequence[Source], out: str) -> list[Output]:
    if os.path.isfile(out):
        raise InvalidValueError(f"{out} is a file, but these inputs need a folder to go into")
    _check_outside(out, sources)
    outputs = []
    for source in sources:
        target = os.path.join(out, source.relative)
        check_target(target, sources, in_folder=False)
        kind = Format.IPC_STREAM
        if source.rereadable:
            kind, _ = format_of(source.open, source.name)
        outputs.append(Output(target, kind, (source,), mirrored=True))
    return outputs


def _check_outside(target: str, sources: Sequence[Source]) -> None:
    """Refuse a target in a folder that is listed: the next run would take it for an input."""
    real = os.path.realpath(target)
    for root in sorted({source.root for source in sources if source.root is not None}):
        if os.path.commonpath([real, os.path.realpath(root)]) == os.path.realpath(root):
            raise InvalidValueError(
                f"{target} lies in the input folder {root}, so that the next run would read it as "
                "an input: write outside of it"
            )


def check_target(target: str, sources: Sequence[Source] = (), *, in_folder: bool = True) -> None:
    """Refuse, before any work is done, a file that cannot or must not be written.

    Parameters
    ----------
    target : str
        The file to be written.
    sources : sequence of Source
        Inputs, none of which may be replaced.
    in_folder : bool
        Whether the file's folder must exist already.

    Raises
    ------
    InvalidValueError
        With the reason.
    """
    real = os.path.realpath(target)
    if any(source.path != PIPE and os.path.realpath(source.path) == real for source in sources):
        raise InvalidValueError(f"{target} is one of the inputs: write somewhere else")
    if target == PIPE:
        raise InvalidValueError("statistics go to a file, not to standard output: name one")
    _check_outside(target, sources)
    if os.path.exists(real) and not os.path.isfile(real):
        raise InvalidValueError(f"{target} exists and is not a regular file")
    if in_folder and not os.path.isdir(os.path.dirname(real)):
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
