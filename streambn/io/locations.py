"""Where files live: a path on this machine, or a URL of a store elsewhere.

A `Location` is one place, and a value: it can be compared and pickled, and it opens
nothing until it is asked to. `walk` and `glob` find the files below a place, and `writing`
puts one there whole or not at all. Local files are reached through the operating system,
``s3://`` and ``gs://`` through Arrow, and any other URL through fsspec. What goes wrong
with a store elsewhere is told in one line, a `StreamBNError`, that says what helps; what
goes wrong on this machine is the `OSError` that the system raised.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob as local_glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import atomic, stores
from streambn.io.atomic import atomic_write, staged
from streambn.io.stores import told

__all__ = ["Location", "Stamp", "glob", "locate", "remove_leftovers", "walk", "writing"]


class Stamp(NamedTuple):
    """What tells whether a file is still the one that it was.

    Attributes
    ----------
    size : int
        In bytes.
    modified : int or None
        Nanoseconds since 1970, if the store knows.
    etag : str or None
        What a store calls this very content, if it calls it anything.
    """

    size: int
    modified: int | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class Location:
    """One place where a file or a folder is, or can be; made by `locate`.

    Attributes
    ----------
    text : str
        As the user would write it, which is what messages say. `locate` finds the same
        place by it again.
    local : str or None
        The path, if it is on this machine.
    store : str
        A URL of the store that it is in, if it is not.
    key : str
        Its path in the store; a bucket is the first part of it.
    """

    text: str
    local: str | None = None
    store: str = ""
    key: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self._path.rstrip("/"))

    @property
    def ends_in_slash(self) -> bool:
        """Whether it is written as folders are."""
        return self.text.removesuffix(self._query).endswith("/")

    @property
    def is_pattern(self) -> bool:
        """Whether it has characters that make it a pattern for `glob`."""
        return local_glob.has_magic(self._path)

    @property
    def identity(self) -> str:
        """The same for two locations if they are the same place, however written.

        That of a folder is what those of the files in it begin with, up to a slash.
        """
        if self.local is not None:
            return os.path.realpath(self.local)
        store = self.store
        if self._of_arrow:
            endpoint = stores.endpoint_of(store) or ""
            store = f"{stores.scheme_of(store)}://{endpoint.rpartition('://')[2]}"
        return f"{store}/{self.key.strip('/')}"

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        if self.local is not None:
            folder = os.path.dirname(self.local.rstrip("/") or self.local) or os.curdir
            return Location(folder, folder)
        key = self.key.rstrip("/").rpartition("/")[0]
        if self._of_arrow:
            return self._in_store(key) if key else self
        scheme, _, rest = self.text.partition("://")
        return Location(f"{scheme}://{rest.rstrip('/').rpartition('/')[0]}", None, self.store, key)

    def child(self, relative: str) -> Location:
        """Give the place at a relative path below it."""
        if self.local is not None:
            path = os.path.join(self.local, relative)
            return Location(path, path)
        key = os.path.join(self.key, relative)
        if self._of_arrow:
            return self._in_store(key)
        text = os.path.join(self.text, relative)
        return Location(text, None, self.store, key.rstrip("/") or key)

    def open_input(self) -> Any:
        """Open the file to be read at any place in it: a `pyarrow.NativeFile`."""
        if self.local is not None:
            try:
                return pa.OSFile(self.local, "r")
            except OSError as error:  # Arrow says it at length
                if error.errno is None:
                    raise
                raise OSError(error.errno, os.strerror(error.errno), self.local) from error
        with told(self.text):
            return self._filesystem.open_input_file(self.key)

    def stamp(self) -> Stamp:
        """Look up what tells whether the file is still the one that it was."""
        if self.local is not None:
            status = os.stat(self.local)
            return Stamp(status.st_size, status.st_mtime_ns, None)
        info = self._info()
        if not info.is_file:
            raise StreamBNError(f"{self.text}: no such file")
        return Stamp(info.size or 0, info.mtime_ns, self._etag())

    def exists(self) -> bool:
        """Say whether there is anything."""
        if self.local is not None:
            return os.path.exists(self.local)
        return bool(self._info().type.name != "NotFound")

    def is_file(self) -> bool:
        """Say whether there is a regular file, or an object of a store."""
        if self.local is not None:
            return os.path.isfile(self.local)
        return bool(self._info().is_file)

    def is_folder(self) -> bool:
        """Say whether there is a folder, or a store's objects whose names begin with it."""
        if self.local is not None:
            return os.path.isdir(self.local)
        return bool(self._info().type.name == "Directory")

    def check_store(self) -> None:
        """Refuse a place in a store that cannot be reached, or in a bucket that is not there."""
        if self.local is None:
            bucket = self.key.partition("/")[0]
            there = Location(self.text, None, self.store, bucket if self._of_arrow else self.key)
            if not there.exists() and self._of_arrow:
                raise StreamBNError(f"{self.text}: there is no bucket {bucket!r}")

    def read_bytes(self, beginning: bytes = b"") -> bytes:
        """Read the file whole; or just its beginning, if that is another than expected."""
        if self.local is not None:
            with open(self.local, "rb") as file:
                return _read_if(file, beginning)
        with self.open_input() as file, told(self.text):
            return _read_if(file, beginning)

    def write_bytes(self, data: bytes) -> None:
        """Replace the file by another, whole or not at all; a local folder must be there."""
        if self.local is not None:
            replaced = atomic_write(self.local)
        else:
            replaced = stores.uploading(self.store, self.key, self.text)
        with replaced as file:
            file.write(data)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self.local is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.local)
            return
        with told(self.text), contextlib.suppress(FileNotFoundError):
            self._filesystem.delete_file(self.key)

    @property
    def _path(self) -> str:
        return self.key if self.local is None else self.local

    @property
    def _of_arrow(self) -> bool:
        return stores.scheme_of(self.store) in stores.OPTIONS

    @property
    def _query(self) -> str:
        return "".join(self.store.partition("?")[1:]) if self._of_arrow else ""

    @property
    def _filesystem(self) -> Any:
        return stores.open_store(self.store)

    def _in_store(self, key: str) -> Location:
        text = f"{stores.scheme_of(self.store)}://{key}{self._query}"
        return Location(text, None, self.store, key.rstrip("/"))

    def _info(self) -> Any:
        with told(self.text):
            return self._filesystem.get_file_info(self.key)

    def _etag(self) -> str | None:
        with told(self.text):
            if self._of_arrow:
                with self._filesystem.open_input_file(self.key) as file:
                    known = file.metadata() or {}
            else:  # whose files Arrow does not ask
                known = self._filesystem.handler.fs.info(self.key)
        for name, value in known.items():
            said = name.decode() if isinstance(name, bytes) else str(name)
            if said.lower() == "etag" and value:
                return (value.decode() if isinstance(value, bytes) else str(value)).strip('"')
        return None


def _read_if(file: Any, beginning: bytes) -> bytes:
    start = bytes(file.read(len(beginning))) if beginning else b""
    return start + (bytes(file.read()) if start == beginning else b"")


def locate(text: str) -> Location:
    """Find the place that a text means.

    Parameters
    ----------
    text : str
        A path; or a URL, which is what has ``://`` in it unless a local file is called so.
        In ``file://`` URLs, and in no others, percent-encoded characters are decoded: the
        names of a store's objects are taken as they are. ``s3://bucket/key`` and
        ``gs://bucket/key`` may end in options: ``?endpoint_override=http://127.0.0.1:9000``,
        ``region=``, ``scheme=``, ``anonymous=true``, joined by ``&``. Credentials come from
        where the stores' own tools take them, such as the environment variables
        ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``,
        ``GOOGLE_APPLICATION_CREDENTIALS``; and so does ``AWS_ENDPOINT_URL``.

    Returns
    -------
    Location

    Raises
    ------
    InvalidValueError
        The URL makes no sense.
    StreamBNError
        What it takes to reach the store is not installed.
    """
    url = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", text, re.DOTALL)
    if url is None or os.path.lexists(text):
        return Location(text, text)
    scheme, rest = url[1].lower(), url[2]
    if scheme == "file":
        return _of_file_url(text, rest)
    scheme = "gs" if scheme == "gcs" else scheme
    if scheme not in stores.OPTIONS:
        return Location(text, None, *stores.split_for_fsspec(text))
    # Any other question mark belongs to a pattern.
    options = re.search(rf"\?(?=(?:{'|'.join(stores.OPTIONS[scheme])})=)", rest)
    path, query = (rest[: options.start()], rest[options.start() :]) if options else (rest, "")
    bucket, _, below = path.partition("/")
    if "@" in bucket:
        raise InvalidValueError(
            f"{scheme}://…@{bucket.rpartition('@')[2]}: credentials in a URL would end up in "
            "messages and logs: put them into environment variables or a profile instead"
        )
    if not bucket:
        raise InvalidValueError(f"{text} names no bucket: {scheme}://bucket/path does")
    if local_glob.has_magic(bucket):
        raise InvalidValueError(f"{text}: a bucket must be named, and not by a pattern")
    store = f"{scheme}://{bucket}{query}"
    stores.check_options(store, text)
    return Location(text, None, store, f"{bucket}/{below}".rstrip("/"))


def _of_file_url(text: str, rest: str) -> Location:
    host, _, path = rest.partition("/")
    if host not in {"", "localhost"}:
        raise InvalidValueError(
            f"{text}: {host!r} would be another machine; a file of this one is file:///path"
        )
    path = "/" + unquote(path)
    return Location(path, path)


# --- finding --------------------------------------------------------------------------


def walk(folder: Location) -> Iterator[Location]:
    """Yield the files below a folder, sorted by path, without those that are hidden.

    Hidden is what has a name on its path below the folder that begins with a dot or an
    underscore, as for Hive and Spark. Local links are followed, but not in a circle.
    """
    if folder.local is not None:
        for path in _walk_local(folder.local):
            yield Location(path, path)
        return
    for names in _listed(folder):
        if not any(map(_hidden, names)):
            yield folder.child("/".join(names))


def glob(pattern: Location) -> tuple[Location, list[Location]]:
    """Find the files that a pattern means, sorted by path.

    Parameters
    ----------
    pattern : Location
        ``*``, ``?`` and ``[…]`` stand for characters of a name, ``**`` for any number of
        folders. A folder that matches stands for all files that `walk` finds in it. What is
        hidden matches only a pattern in which a name begins with a dot or an underscore.

    Returns
    -------
    (Location, list of Location)
        The folder before the first name with a pattern in it, and the files.
    """
    if pattern.local is not None:
        return _glob_local(pattern.local)
    parts = pattern.key.split("/")
    base = pattern
    while base.is_pattern:
        base = base.parent
    wanted = parts[next(i for i, part in enumerate(parts) if local_glob.has_magic(part)) :]
    hidden_meant = any(map(_hidden, wanted))
    files = []
    for names in _listed(base):
        # The file itself may match, or any folder above it.
        for depth in range(len(names) + (not pattern.ends_in_slash)):
            hit, below = names[:depth], names[depth:]
            hidden = any(map(_hidden, below if hidden_meant else names))
            if not hidden and _matches(hit, wanted):
                files.append(base.child("/".join(names)))
                break
    return base, files


def _glob_local(pattern: str) -> tuple[Location, list[Location]]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if local_glob.has_magic(part))
    base = os.path.join(*parts[:fixed]) if fixed else os.curdir
    hidden_meant = any(map(_hidden, parts[fixed:]))
    hits = local_glob.glob(pattern, recursive=True)
    files: list[str] = []
    for hit in sorted(hits, key=lambda hit: Path(hit).parts):
        if hidden_meant or not any(map(_hidden, Path(hit).parts[fixed:])):
            files += _walk_local(hit) if os.path.isdir(hit) else [hit]
    return Location(base, base), [Location(path, path) for path in files]


def _hidden(name: str) -> bool:
    return name.startswith((".", "_")) and name not in {os.curdir, os.pardir}


def _walk_local(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if _hidden(name):
            continue
        if os.path.isdir(path):
            yield from _walk_local(path, (*above, real))
        elif os.path.isfile(path):
            yield path


def _listed(folder: Location) -> list[tuple[str, ...]]:
    """List the files below a folder of a store: the names on their paths, sorted."""
    from pyarrow import fs  # noqa: PLC0415  (it takes its time, and local jobs need none)

    with told(folder.text):
        selector = fs.FileSelector(folder.key, recursive=True, allow_not_found=True)
        found = folder._filesystem.get_file_info(selector)
    start = len(folder.key.strip("/"))
    below = (info.path.strip("/")[start:].strip("/") for info in found if info.is_file)
    return sorted(tuple(path.split("/")) for path in below if path)


def _matches(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Match names on a path as the glob of local files does."""
    if not wanted:
        return not names
    if wanted[0] == "**" and _matches(names, wanted[1:]):
        return True
    if not names or (names[0].startswith(".") and not wanted[0].startswith(".")):
        return False
    if wanted[0] == "**":
        return _matches(names[1:], wanted)
    return fnmatch.fnmatchcase(names[0], wanted[0]) and _matches(names[1:], wanted[1:])


# --- writing --------------------------------------------------------------------------


def remove_leftovers(*files: Location) -> None:
    """Remove what a killed process left of its attempts to write files, where they are local."""
    atomic.remove_leftovers(*(file.local for file in files if file.local is not None))


@contextlib.contextmanager
def writing(location: Location, *, fsync: bool) -> Iterator[BinaryIO]:
    """Open a binary file that appears under its name only when the block ends well.

    Until then it has a hidden name in the same folder. If the block raises, or the file
    cannot be written whole, what stood there before stays, and of the new one nothing
    does. Small writes are gathered, large ones passed on without a copy.

    Parameters
    ----------
    location : Location
        The file to create or replace. Folders above it that are missing are made.
    fsync : bool
        Whether a local file is to be on the disk, and not only on its way there, before it
        takes its name. A store elsewhere sees to that by itself.
    """
    if location.local is None:
        with stores.uploading(location.store, location.key, location.text) as file:
            yield file
        return
    with staged(fsync=fsync) as stage:
        stage.make_folder(Path(location.local).parent)
        with stage.write(location.local) as file:
            yield file
