"""The inputs of a file job: their discovery, and their reading.

A `Source` is one file, or standard input. `scan` finds the sources that the arguments of a
command name, and `open_source` opens one in the format that its content has.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pyarrow as pa

from streambn._credentials import redact_url
from streambn.errors import StreamBNError
from streambn.io import readers
from streambn.io.csv_dialect import CsvOptions
from streambn.io.csv_passthrough import Passthrough, PassthroughOf
from streambn.io.formats import describe_read_errors
from streambn.io.listing import glob, walk
from streambn.io.locations import Location, Stamp, locate
from streambn.io.pieces import ColumnSelector, Damaged, DataFile, Piece

__all__ = [
    "PIPE",
    "Source",
    "open_reader",
    "open_source",
    "original_path",
    "scan",
    "settle_source",
    "unicode_text",
]

# Standard input as an input, standard output as an output.
PIPE = "-"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class Source(NamedTuple):
    """One input.

    Attributes
    ----------
    path : str
        A path or a URL, as the user would write it, perhaps with credentials; ``"-"`` is standard
        input.
    relative : str
        The path below the common folder of all inputs.
    keys : mapping of str to pyarrow.Scalar
        Hive partition keys: the ``key=value`` folders of the path.
    listed : bool
        Whether a folder or a glob led to it. A named file has False.
    root : str or None
        The folder whose whole tree was listed to find it.
    """

    path: str
    relative: str = "stdin.arrows"
    keys: Mapping[str, Any] = MappingProxyType({})
    listed: bool = False
    root: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The default of `keys` cannot be pickled.
        return Source, (self.path, self.relative, {**self.keys}, self.listed, self.root)

    def __repr__(self) -> str:
        """Return the source without credentials."""
        return f"Source({self.name!r}, relative={self.relative!r})"

    @property
    def name(self) -> str:
        """Its name in messages, without credentials."""
        return "standard input" if self.path == PIPE else redact_url(self.path)

    @property
    def identity(self) -> str:
        """A text for files that name this source: without credentials, and valid Unicode."""
        return unicode_text(redact_url(self.path))

    @property
    def location(self) -> Location | None:
        """Its location; None for standard input."""
        return None if self.path == PIPE else locate(self.path)

    @property
    def remote(self) -> bool:
        """Whether a read has a high latency, as over a network."""
        location = self.location
        return location is not None and location.local is None

    @property
    def rereadable(self) -> bool:
        """Whether it can be read a second time. A pipe cannot."""
        location = self.location
        if location is None or location.local is None:
            return location is not None
        try:
            return stat.S_ISREG(os.stat(location.local).st_mode)
        except FileNotFoundError:  # opening it raises the error
            return True

    def open(self) -> Any:
        """Open a rereadable source for random access, as a `pyarrow.NativeFile`."""
        return self._file().open_input()

    def stamp(self) -> Stamp:
        """Return the stamp of a rereadable source, which changes when the file does."""
        return self._file().stamp()

    def check_unchanged(self, stamp: Stamp | None) -> None:
        """Refuse data of a file that changed while it was read.

        Parameters
        ----------
        stamp : Stamp or None
            Stamp of the file from before it was read; None for a pipe.
        """
        if stamp is None:
            return
        try:
            unchanged = self.stamp() == stamp
        except (OSError, StreamBNError):
            unchanged = False
        if not unchanged:
            raise StreamBNError(
                f"{self.name} changed or was removed while it was read, so its data is unusable. "
                "Run again when the file is complete."
            )

    def _file(self) -> Location:
        if (location := self.location) is None:
            raise StreamBNError("standard input can be read only once, from beginning to end")
        return location


def unicode_text(path: str) -> str:
    r"""Return a path as text that every JSON file can hold, another one for each path.

    Only a path that is not UTF-8 changes: the code of each of its bytes follows a null character,
    which no path has.

    Examples
    --------
    >>> unicode_text("caf\udce9.csv")
    'caf\x00dce9.csv'
    """
    return re.sub("[\ud800-\udfff]", lambda byte: f"\0{ord(byte[0]):04x}", path)


def original_path(text: str) -> str:
    """Return the path of a `unicode_text`."""
    return re.sub("\0([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), text)


# --- discovery ------------------------------------------------------------------------


def scan(
    inputs: Sequence[str], on_unusable: Callable[[StreamBNError], None] | None = None
) -> list[Source]:
    """Return the sources that the arguments of a command name, in reading order.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders and globs (``**`` crosses folders), each a path or a URL; ``"-"`` is
        standard input. A folder is listed recursively, sorted by path. As in Hive and Spark,
        names that begin with a dot or an underscore are skipped. A file that several
        arguments name is read once, at its first place.
    on_unusable : callable, optional
        Called with the error of each object in a store whose key is no relative path below the
        folder, which is then left out. Default: raise the error.

    Returns
    -------
    list of Source

    Raises
    ------
    StreamBNError
        An argument matches no file, its store cannot be reached, or the key of an object is no
        relative path.
    """
    found: dict[str, Source] = {}
    bases: dict[str, list[str]] = {}
    for text in inputs:
        base, sources = _expand(text, on_unusable)
        if base is not None:
            bases.setdefault(base.store, []).append(_absolute(base))
        for source in sources:
            location = source.location
            key = PIPE if location is None else location.store + _absolute(location)
            found.setdefault(key, source)
    # Relative paths start at one folder for each store, and at one for this machine.
    common = {store: os.path.commonpath(paths) for store, paths in bases.items()}
    locations = [source.location for source in found.values()]
    keys = _hive_keys(["" if here is None else _absolute(here) for here in locations])
    return [
        source
        if here is None
        else source._replace(relative=_relative(here, common[here.store]), keys=own)
        for source, here, own in zip(found.values(), locations, keys, strict=True)
    ]


def _relative(location: Location, folder: str) -> str:
    if location.local is not None:
        return os.path.relpath(_absolute(location), folder)
    # A key is no path that could be normalized: in//x and in/x are two objects.
    return _absolute(location).removeprefix(f"{folder.rstrip('/')}/")


def _absolute(location: Location) -> str:
    """Return the absolute path on this machine or in a store. Links are not resolved."""
    if location.local is None:
        return "/" + location.key.strip("/")
    return os.path.abspath(location.local)


def _expand(
    text: str, on_unusable: Callable[[StreamBNError], None] | None
) -> tuple[Location | None, list[Source]]:
    """Return the folder that relative paths start from, and the files of one argument."""
    if text == PIPE:
        return None, [Source(PIPE)]
    location = locate(text)
    if location.is_folder():
        files = list(walk(location, on_unusable))
        if not files:
            raise StreamBNError(f"{redact_url(text)}: no data files in this folder")
        return location, [Source(file.text, listed=True, root=location.text) for file in files]
    if location.exists():
        return location.parent, [Source(location.text)]
    if not location.is_pattern:
        location.check_store()
        raise StreamBNError(f"{redact_url(text)}: no such file or folder")
    base, files = glob(location, on_unusable)
    if not files:
        location.check_store()
        raise StreamBNError(f"{redact_url(text)}: no file matches this glob")
    root = base.text if "**" in (location.local or location.key).split("/") else None
    return base, [Source(file.text, listed=True, root=root) for file in files]


def _hive_keys(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Return the ``key=value`` folders of paths. A key is an integer if all its values are."""
    raw = list(map(_hive_texts, paths))
    types = {}
    for key in {key for keys in raw for key in keys}:
        values = [value for keys in raw if (value := keys.get(key)) is not None]
        whole = all(re.fullmatch(r"-?[0-9]{1,18}", value) for value in values)
        types[key] = pa.int64() if values and whole else pa.string()
    return [
        {key: pa.scalar(value, pa.string()).cast(types[key]) for key, value in keys.items()}
        for keys in raw
    ]


def _hive_texts(path: str) -> dict[str, str | None]:
    """Return the ``key=value`` folders of a path."""
    folders = (part.partition("=") for part in Path(path).parts[:-1])
    return {
        _unquote(key): None if value == _HIVE_NULL else _unquote(value)
        for key, equals, value in folders
        if key and equals
    }


def _unquote(text: str) -> str:
    """Decode a part of a Hive path; text that is not UTF-8, which Arrow lacks, stays encoded."""
    content = unquote_to_bytes(os.fsencode(text))
    try:
        return content.decode()
    except UnicodeDecodeError:
        return quote_from_bytes(content)


# --- reading --------------------------------------------------------------------------


def open_source(
    source: Source,
    *,
    keys: Iterable[str] = (),
    select_columns: ColumnSelector | None = None,
    csv: CsvOptions | None = None,
    settled: Mapping[str, Any] | None = None,
    passthrough: PassthroughOf | None = None,
    keep_damaged: bool = False,
) -> DataFile:
    """Open a source in the format that its content has.

    Parameters
    ----------
    source : Source
    keys : iterable of str
        Hive partition keys to append as columns. A column of the same name in the file
        takes precedence.
    select_columns : callable, optional
        Returns the columns to read of a Parquet or Arrow IPC file, given the schema.
    csv : CsvOptions, optional
        How to read CSV.
    settled : mapping of str to pyarrow.DataType, optional
        Types of CSV columns that `settle_source` found.
    passthrough : Passthrough or callable, optional
        The CSV columns that keep their text. Default: none.
    keep_damaged : bool
        Whether a `Damaged` stands for each damaged batch of an Arrow IPC stream. By default it
        raises its error.

    Raises
    ------
    StreamBNError
        The file is empty, of an unknown format, damaged or truncated. Damage to a piece is
        raised when the piece is read.
    """
    if source.rereadable:
        opened = readers.open_file(
            source.open,
            source.name,
            select_columns,
            csv,
            settled,
            passthrough,
            remote=source.remote,
            keep_damaged=keep_damaged,
        )
    elif (location := source.location) is not None and location.local is not None:
        pipe = open(location.local, "rb", buffering=0)  # noqa: SIM115  (closed at its end)
        opened = readers.open_pipe(pipe, source.name, csv, passthrough, keep_damaged=keep_damaged)
        opened = _close_at_end(pipe, opened)
    elif sys.stdin.isatty():
        raise StreamBNError("standard input is a terminal: pipe data into it")
    else:
        pipe = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
        opened = readers.open_pipe(pipe, source.name, csv, passthrough, keep_damaged=keep_damaged)
    with describe_read_errors(source.name, opened.format):  # a name may be other than UTF-8
        _read_names(opened.schema)
    wanted = set(keys) - set(opened.schema.names)
    constants = {key: value for key, value in source.keys.items() if key in wanted}
    if not constants:
        return opened
    text = opened.passthrough
    if text is not None and text.keeps_text and source.location is not None:
        texts = _hive_texts(_absolute(source.location))
        passed = text.columns(constants, csv or CsvOptions())
        constants |= {key: pa.scalar(texts[key], pa.string()).cast(pa.binary()) for key in passed}
    schema = opened.schema
    for key, value in constants.items():
        schema = schema.append(pa.field(key, value.type))
    values = list(constants.values())

    def with_keys(piece: Piece) -> Piece:
        return piece._replace(read=lambda: _append_columns(piece.read(), values, schema))

    return opened._replace(schema=schema, pieces=[with_keys(piece) for piece in opened.pieces])


def _read_names(fields: Iterable[Any]) -> None:
    """Decode the names of columns, and of the fields in them."""
    for field in fields:
        _ = field.name
        _read_names(field.type.field(i) for i in range(field.type.num_fields))


def settle_source(
    source: Source, csv: CsvOptions, passthrough: Passthrough | None = None
) -> Mapping[str, Any]:
    """Read a source, and return a type for each CSV column that all its values fit.

    Other formats have no types to settle, and a CSV file of one block has none either: the
    types of its columns are inferred from all its values.
    """
    if not source.rereadable:
        return {}
    return readers.settle_file(source.open, source.name, csv, passthrough)


def _close_at_end(pipe: Any, opened: DataFile) -> DataFile:
    """Close a pipe after its last batch."""

    def read(piece: Piece) -> Iterator[Any]:
        with pipe:
            yield from piece.read()

    pieces = [p._replace(read=functools.partial(read, p)) for p in opened.pieces]
    return opened._replace(pieces=pieces)


def open_reader(source: Source, **options: Any) -> Any:
    """Open a source as a lazy pyarrow.RecordBatchReader. `open_source` has the options."""
    opened = open_source(source, **options)
    batches = (batch for piece in opened.pieces for batch in piece.read())
    return pa.RecordBatchReader.from_batches(opened.schema, batches)


def _append_columns(batches: Iterable[Any], values: list[Any], schema: Any) -> Iterator[Any]:
    """Append constant columns to each batch."""
    for batch in batches:
        if isinstance(batch, Damaged):
            yield batch
            continue
        columns = [pa.repeat(value, batch.num_rows) for value in values]
        yield pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)
