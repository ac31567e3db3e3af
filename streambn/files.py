"""The inputs of a file job: which files are meant, and each of them as a stream.

A `Source` is one file, or standard input. `scan` turns what a user typed into sources,
and `open_reader` turns a source into a lazy stream of record batches. Nothing here
knows about statistics, and nothing is in memory beyond the batch under way.
"""

from __future__ import annotations

import dataclasses
import glob
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

from streambn import reading
from streambn.errors import StreamBNError
from streambn.reading import Choose, Opened, Piece

__all__ = ["PIPE", "Source", "fitting_columns", "open_reader", "open_source", "scan"]

# Standard input among the inputs; standard output as an output.
PIPE = "-"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes
    ----------
    path : str
        As the user would write it; ``"-"`` is standard input.
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

    distant = False

    def open(self) -> Any:
        return pa.OSFile(self.path, "r")

    def stamp(self) -> Any:
        s = os.stat(self.path)
        from streambn.locations import Stamp
        return Stamp(s.st_size, s.st_mtime_ns, None)

    @property
    def rereadable(self) -> bool:
        """Whether it can be read a second time: a pipe cannot."""
        return self.path != PIPE and stat.S_ISREG(os.stat(self.path).st_mode)


# --- finding --------------------------------------------------------------------------


def scan(inputs: Sequence[str]) -> list[Source]:
    """Find every file that the arguments mean, in the order in which to read them.

    Parameters
    ----------
    inputs : sequence of str
        Files, globs (``**`` crosses folders), folders, or ``"-"`` for standard input.
        A folder is listed recursively and sorted by path; names in it that begin with
        a dot or an underscore are skipped, as Hive and Spark do. A file that several
        arguments mean is read once, where it came first.

    Returns
    -------
    list of Source

    Raises
    ------
    StreamBNError
        An argument means no file at all.
    """
    found: dict[str, Source] = {}
    bases = []
    for text in inputs:
        base, sources = _expand(text)
        bases += [] if base is None else [os.path.abspath(base)]
        for source in sources:
            found.setdefault(os.path.abspath(source.path), source)
    common = os.path.commonpath(bases) if bases else os.curdir
    return [
        source
        if source.path == PIPE
        else dataclasses.replace(source, relative=os.path.relpath(path, common), keys=keys)
        for (path, source), keys in zip(found.items(), _hive_keys(found), strict=True)
    ]


def _expand(text: str) -> tuple[str | None, list[Source]]:
    """Give the folder that relative paths start from, and the files one argument means."""
    if text == PIPE:
        return None, [Source(PIPE)]
    if os.path.isdir(text):
        files = list(_walk(text))
        if not files:
            raise StreamBNError(f"{text}: no data files in this folder")
        return text, [Source(file, listed=True, root=text) for file in files]
    if os.path.exists(text):
        return os.path.dirname(text), [Source(text)]
    if not glob.has_magic(text):
        raise StreamBNError(f"{text}: no such file or folder")
    return _match(text)


def _match(pattern: str) -> tuple[str, list[Source]]:
    """Expand a glob; a folder that it matches stands for the files in it."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = os.path.join(*parts[:fixed]) if fixed else os.curdir
    hidden_meant = any(map(_hidden, parts[fixed:]))
    hits = sorted(glob.glob(pattern, recursive=True), key=lambda hit: Path(hit).parts)
    files: list[str] = []
    for hit in hits:
        if hidden_meant or not any(map(_hidden, Path(hit).parts[fixed:])):
            files += _walk(hit) if os.path.isdir(hit) else [hit]
    if not files:
        raise StreamBNError(f"{pattern}: no file matches this glob")
    root = base if "**" in parts else None
    return base, [Source(file, listed=True, root=root) for file in files]


def _hidden(name: str) -> bool:
    return name.startswith((".", "_")) and name not in {os.curdir, os.pardir}


def _walk(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the files of a tree, sorted; links are followed, but not in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if _hidden(name):
            continue
        if os.path.isdir(path):
            yield from _walk(path, (*above, real))
        elif os.path.isfile(path):
            yield path


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
    elif source.path != PIPE:
        pipe = open(source.path, "rb", buffering=0)  # noqa: SIM115  (closed at its end)
        opened = reading.open_pipe(pipe, source.name)
    elif sys.stdin.isatty():
        raise StreamBNError("standard input is a terminal: pipe an Arrow IPC stream into it")
    else:
        opened = reading.open_pipe(open(0, "rb", buffering=0, closefd=False), source.name)
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
