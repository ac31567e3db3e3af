"""The inputs of a file job: which files are meant, and each of them as a stream.

A `Source` is one file, or standard input. `scan` turns what a user typed into sources,
and `open_reader` turns a source into a lazy stream of record batches. Nothing here
knows about statistics, and nothing is in memory beyond the batch under way.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from streambn.errors import StreamBNError
from streambn.io import readers as reading
from streambn.io.listing import glob, walk
from streambn.io.locations import Location, Stamp, locate
from streambn.io.readers import Choose, Opened, Piece

__all__ = ["PIPE", "Source", "fitting_columns", "open_reader", "open_source", "scan"]

# Standard input among the inputs; standard output as an output.
PIPE = "-"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class Source:
    """One input.

    Attributes
    ----------
    path : str
        As the user would write it, a path or a URL; ``"-"`` is standard input.
    relative : str
        The path below the folder that all inputs have in common.
    keys : mapping of str to pyarrow.Scalar
        Hive partition keys of the folders on its path.
    listed : bool
        Found by listing a folder or matching a glob, rather than named.
    root : str or None
        The folder whose whole tree was listed to find it.
    """

    path: str
    relative: str = "stdin.arrows"
    keys: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = False
    root: str | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard input" if self.path == PIPE else self.path

    @property
    def location(self) -> Location | None:
        """Where it is; standard input is nowhere."""
        return None if self.path == PIPE else locate(self.path)

    @property
    def distant(self) -> bool:
        """Whether each read of it takes long, as over a network."""
        where = self.location
        return where is not None and where.local is None

    @property
    def rereadable(self) -> bool:
        """Whether it can be read a second time: a pipe cannot."""
        where = self.location
        if where is None or where.local is None:
            return where is not None
        try:
            return stat.S_ISREG(os.stat(where.local).st_mode)
        except FileNotFoundError:  # which is told when it is opened
            return True

    def open(self) -> Any:
        """Open it to be read at any place in it, if it is rereadable: a `pyarrow.NativeFile`."""
        return self._there().open_input()

    def stamp(self) -> Stamp:
        """Look up what tells whether it is still the file that it was, if it is rereadable."""
        return self._there().stamp()

    def _there(self) -> Location:
        if (where := self.location) is None:
            raise StreamBNError("standard input can be read once, from its beginning to its end")
        return where


# --- finding --------------------------------------------------------------------------


def scan(inputs: Sequence[str]) -> list[Source]:
    """Find every file that the arguments mean, in the order in which to read them.

    Parameters
    ----------
    inputs : sequence of str
        Files, globs (``**`` crosses folders), folders, each a path or a URL; or ``"-"`` for
        standard input. A folder is listed recursively and sorted by path; names in it that
        begin with a dot or an underscore are skipped, as Hive and Spark do. A file that
        several arguments mean is read once, where it came first.

    Returns
    -------
    list of Source

    Raises
    ------
    StreamBNError
        An argument means no file at all, or a store that cannot be reached.
    """
    found: dict[str, Source] = {}
    bases: dict[str, list[str]] = {}
    for text in inputs:
        base, sources = _expand(text)
        if base is not None:
            bases.setdefault(base.store, []).append(_place(base))
        for source in sources:
            where = source.location
            found.setdefault(PIPE if where is None else where.store + _place(where), source)
    # Each store has a common folder of its own, and this machine one.
    common = {store: os.path.commonpath(places) for store, places in bases.items()}
    wheres = [source.location for source in found.values()]
    keys = _hive_keys(["" if where is None else _place(where) for where in wheres])
    return [
        source
        if where is None
        else dataclasses.replace(
            source, relative=os.path.relpath(_place(where), common[where.store]), keys=mine
        )
        for source, where, mine in zip(found.values(), wheres, keys, strict=True)
    ]


def _place(where: Location) -> str:
    """Give an absolute path, on this machine or in a store; links are what they are called."""
    return "/" + where.key.strip("/") if where.local is None else os.path.abspath(where.local)


def _expand(text: str) -> tuple[Location | None, list[Source]]:
    """Give the folder that relative paths start from, and the files one argument means."""
    if text == PIPE:
        return None, [Source(PIPE)]
    where = locate(text)
    if where.is_folder():
        files = list(walk(where))
        if not files:
            raise StreamBNError(f"{text}: no data files in this folder")
        return where, [Source(file.text, listed=True, root=where.text) for file in files]
    if where.exists():
        return where.parent, [Source(where.text)]
    if not where.is_pattern:
        where.check_store()
        raise StreamBNError(f"{text}: no such file or folder")
    base, files = glob(where)
    if not files:
        where.check_store()
        raise StreamBNError(f"{text}: no file matches this glob")
    root = base.text if "**" in (where.local or where.key).split("/") else None
    return base, [Source(file.text, listed=True, root=root) for file in files]


def _hive_keys(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Read the ``key=value`` folders of paths; a key is an integer if all its values are."""
    raw: list[dict[str, str | None]] = []
    for path in paths:
        folders = (part.partition("=") for part in Path(path).parts[:-1])
        raw.append(
            {
                unquote(key): None if value == _HIVE_NULL else unquote(value)
                for key, equals, value in folders
                if key and equals
            }
        )
    types = {}
    for key in {key for keys in raw for key in keys}:
        values = [value for keys in raw if (value := keys.get(key)) is not None]
        whole = all(re.fullmatch(r"-?[0-9]{1,18}", value) for value in values)
        types[key] = pa.int64() if values and whole else pa.string()
    return [
        {key: pa.scalar(value, pa.string()).cast(types[key]) for key, value in keys.items()}
        for keys in raw
    ]


# --- reading --------------------------------------------------------------------------


def open_source(
    source: Source,
    *,
    keys: Iterable[str] = (),
    choose: Choose | None = None,
    csv_types: Mapping[str, Any] | None = None,
) -> Opened:
    """Open a source, its format told by its content.

    Parameters
    ----------
    source : Source
        What to read.
    keys : iterable of str
        Hive partition keys to append as columns; a column that the file itself has
        under that name is left alone.
    choose : callable, optional
        Given the schema, names the top-level columns that are needed, or None for all.
        Parquet and Arrow IPC files then read no others.
    csv_types : mapping of str to pyarrow.DataType, optional
        Types of CSV columns that are not to be inferred.

    Raises
    ------
    StreamBNError
        The file is empty, of an unknown format, damaged or truncated; damage further
        on is raised when the reader arrives there.
    """
    if source.rereadable:
        opened = reading.open_file(
            source.open, source.name, choose, csv_types, distant=source.distant
        )
    elif (where := source.location) is not None and where.local is not None:
        pipe = open(where.local, "rb", buffering=0)  # noqa: SIM115  (closed at its end)
        opened = _closing(pipe, reading.open_pipe(pipe, source.name))
    elif sys.stdin.isatty():
        raise StreamBNError("standard input is a terminal: pipe an Arrow IPC stream into it")
    else:
        pipe = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
        opened = reading.open_pipe(pipe, source.name)
    wanted = set(keys) - set(opened.schema.names)
    appended = {key: value for key, value in source.keys.items() if key in wanted}
    if not appended:
        return opened
    schema = opened.schema
    for key, value in appended.items():
        schema = schema.append(pa.field(key, value.type))
    values = list(appended.values())

    def with_keys(piece: Piece) -> Piece:
        return piece._replace(read=lambda: _with_columns(piece.read(), values, schema))

    return Opened(opened.kind, schema, [with_keys(piece) for piece in opened.pieces])


def _closing(pipe: Any, opened: Opened) -> Opened:
    """Close a pipe when it was read to its end."""

    def read(piece: Piece) -> Iterator[Any]:
        with pipe:
            yield from piece.read()

    pieces = [p._replace(read=functools.partial(read, p)) for p in opened.pieces]
    return opened._replace(pieces=pieces)


def open_reader(source: Source, **how: Any) -> Any:
    """Open a source as a lazy pyarrow.RecordBatchReader; the arguments are `open_source`'s."""
    opened = open_source(source, **how)
    batches = (batch for piece in opened.pieces for batch in piece.read())
    return pa.RecordBatchReader.from_batches(opened.schema, batches)


def _with_columns(batches: Iterable[Any], values: list[Any], schema: Any) -> Iterator[Any]:
    """Append columns, each of one value that repeats."""
    for batch in batches:
        columns = [pa.repeat(value, batch.num_rows) for value in values]
        yield pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)


def fitting_columns(
    schema: Any,
    names: Sequence[str] | None,
    beside: Sequence[str] = (),
    keys: Collection[str] = (),
) -> list[str] | None:
    """Name the columns that statistics can need; None means that all must be read.

    Parameters
    ----------
    schema : pyarrow.Schema
        What the file holds.
    names : sequence of str or None
        The columns asked for, or lanes (``"a.b"`` is a field of ``"a"``, ``"a[0]"`` an
        element), or None for every numeric one. If one of them is not there, all columns are
        read, so that the error can name the nearest.
    beside : sequence of str
        Columns that say something about the rows: weights, event times.
    keys : collection of str
        Those that the file's path knows if the file does not.
    """
    there = set(schema.names)
    numeric = {f.name for f in schema if not _never_numeric(f.type)}
    if names is None and not numeric:
        return None
    owners = [_owners(name) & there for name in names or () if name in there or name not in keys]
    owners += [{name} & there for name in beside if name in there or name not in keys]
    if not all(owners):
        return None
    needed = set().union(numeric if names is None else (), *owners)
    return [name for name in schema.names if name in needed] or None


def _owners(name: str) -> set[str]:
    """Name the columns of which this can be a field or an element, or which it can be itself."""
    return {name, *(name[: found.start()] for found in re.finditer(r"[.\[]", name))}


def _never_numeric(type_: Any) -> bool:
    """Be sure that no statistic is kept of this type; when in doubt, say no."""
    of = pa.types
    tests = (of.is_boolean, of.is_temporal, of.is_null, of.is_map, of.is_list)
    texts = (of.is_string, of.is_large_string, of.is_binary, of.is_large_binary)
    return any(test(type_) for test in tests + texts)
