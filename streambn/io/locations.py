"""Files and folders by path or URL: local, in an object store, or on an fsspec file system.

Local files are opened through the operating system, which keeps start-up fast, and their errors
are its `OSError`. Files elsewhere are opened through `streambn.io.stores`.
"""

from __future__ import annotations

import contextlib
import functools
import glob as local_glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from streambn._credentials import redact_url, remember
from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import atomic, stores
from streambn.io.stores import one_line_errors

__all__ = ["Location", "Stamp", "identities", "locate", "mode_of", "remove_leftovers"]


class Stamp(NamedTuple):
    """Properties of a file that change when its content changes.

    Attributes
    ----------
    size : int
        In bytes.
    modified : int or None
        Modification time in nanoseconds since 1970, if the store has one.
    etag : str or None
        The store's identifier of this content, if it has one.
    """

    size: int
    modified: int | None
    etag: str | None


class Location(NamedTuple):
    """The place of a file or folder, which need not exist. `locate` makes locations.

    Attributes
    ----------
    text : str
        The path or URL. `locate` returns the same place for it. It may hold credentials.
    local : str or None
        The path of a local place, else None.
    store : str
        The URL of the store of any other place.
    key : str
        The path in the store. A bucket is its first part.
    """

    text: str
    local: str | None = None
    store: str = ""
    key: str = ""

    def __repr__(self) -> str:
        """Return the location without credentials."""
        return f"Location({self.label!r})"

    @property
    def label(self) -> str:
        """The path or URL without credentials, for messages."""
        return redact_url(self.text)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self._path.rstrip("/"))

    @property
    def ends_in_slash(self) -> bool:
        """Whether the path or URL ends in a slash, options aside."""
        return self._url.endswith("/")

    @property
    def is_pattern(self) -> bool:
        """Whether the path has wildcards for `glob`."""
        return local_glob.has_magic(self._path)

    @property
    def identity(self) -> str:
        """A text that is equal for two locations of the same place.

        The identity of a folder, up to a slash, starts the identities of the files in it.
        """
        if self.local is not None:
            return os.path.realpath(self.local)
        store = self.store
        if self._in_arrow_store:
            endpoint = stores.endpoint_of(store) or ""
            store = f"{stores.scheme_of(store)}://{endpoint.rpartition('://')[2]}"
        # Another user or password leads to the same place.
        return redact_url(f"{store}/{self.key.strip('/')}").replace("***@", "")

    @property
    def parent(self) -> Location:
        """The folder of the place; a bucket is its own."""
        if self.local is not None:
            folder = os.path.dirname(self.local.rstrip("/") or self.local) or os.curdir
            return Location(folder, folder)
        scheme, _, path = self._url.partition("://")
        folder = path.rstrip("/").rpartition("/")[0]
        if self._in_arrow_store and not folder:
            return self
        return locate(f"{scheme}://{folder}{self._options}")

    def child(self, relative: str) -> Location:
        """Return the place at a relative path below this one. A folder's may end in a slash.

        Raises
        ------
        StreamBNError
            The path leads to another place, or no file can have it.
        """
        problem = _problem_of(relative)
        if self.local is not None:
            problem = problem or _problem_of_local(relative)
            path = os.path.join(self.local, relative)
            place = Location(path, path)
        else:
            place = locate(os.path.join(self._url, relative) + self._options)
            expected = (self.store, f"{self.key}/{relative}".strip("/"))
            if (place.store, place.key.strip("/")) != expected:
                problem = problem or "its URL would name another place"
        if problem is not None:
            raise StreamBNError(
                f"{problem}. Rename it, or name the inputs by a pattern that it does not match.",
                source=f"{relative!r} in {self.label}",
            )
        return place

    def with_suffix(self, suffix: str) -> Location:
        """Return the place in the same folder whose name has this suffix appended."""
        if self.local is not None:
            return Location(self.local + suffix, self.local + suffix)
        return locate(f"{self._url}{suffix}{self._options}")

    def open_input(self) -> Any:
        """Open the file for random access, as a `pyarrow.NativeFile`."""
        if self.local is None:
            with one_line_errors(self.text):
                return self._filesystem.open_input_file(self.key)
        try:
            return pa.OSFile(os.fsencode(self.local), "r")  # a name may be other than UTF-8
        except OSError as error:  # Arrow's message is long
            if error.errno is None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), self.local) from error

    @contextlib.contextmanager
    def open_output(self, *, fsync: bool) -> Iterator[BinaryIO]:
        """Open a binary file that appears here when the block ends without an error.

        Until then the bytes go to a hidden file in the same folder. If the block or a write
        fails, that file is removed and the old file stays. Missing folders are created.

        Parameters
        ----------
        fsync : bool
            Whether to flush a local file to the disk before it appears.
        """
        if self.local is None:
            with stores.upload(self.store, self.key, self.text) as file:
                yield file
            return
        with (
            atomic.new_folders(Path(self.local).parent),
            atomic.atomic_write(self.local, fsync=fsync) as file,
        ):
            yield file

    def read_bytes(self, beginning: bytes = b"") -> bytes:
        """Return the content of the file; of a file with another beginning, only that much."""
        if self.local is not None:
            with open(self.local, "rb") as file:
                return _read_all(file, beginning)
        with self.open_input() as file, one_line_errors(self.text):
            return _read_all(file, beginning)

    def write_bytes(self, data: bytes) -> None:
        """Replace the content of the file in one step. A local folder must exist."""
        if self.local is None:
            output = stores.upload(self.store, self.key, self.text)
        else:
            output = atomic.atomic_write(self.local)
        with output as file:
            file.write(data)

    def check_writable(self) -> None:
        """Raise an `OSError` if a local file could not be written here."""
        if self.local is not None:
            atomic.check_writable(self.local)

    def remove(self) -> None:
        """Remove the file if it exists."""
        if self.local is not None:
            Path(self.local).unlink(missing_ok=True)
            return
        with one_line_errors(self.text), contextlib.suppress(FileNotFoundError):
            self._filesystem.delete_file(self.key)

    def exists(self) -> bool:
        """Return whether there is a file or folder."""
        if self.local is not None:
            return mode_of(self.local) != 0
        return bool(self._info().type.name != "NotFound")

    def is_file(self) -> bool:
        """Return whether there is a regular file or an object."""
        if self.local is not None:
            return os.path.isfile(self.local)
        return bool(self._info().is_file)

    def is_folder(self) -> bool:
        """Return whether there is a folder, or an object below this key."""
        if self.local is not None:
            return os.path.isdir(self.local)
        return bool(self._info().type.name == "Directory")

    def check_store(self) -> None:
        """Raise a `StreamBNError` if the store cannot be reached or has no such bucket."""
        if self.local is not None:
            return
        bucket = self.key.partition("/")[0] if self._in_arrow_store else None
        found = self._info(bucket).type.name != "NotFound"
        if bucket is not None and not found:
            raise StreamBNError(f"{self.label}: there is no bucket {bucket!r}")

    def stamp(self) -> Stamp:
        """Return properties of the file that change when its content changes."""
        if self.local is not None:
            status = os.stat(self.local)
            return Stamp(status.st_size, status.st_mtime_ns, None)
        info = self._info()
        if not info.is_file:
            raise StreamBNError(f"{self.label}: no such file")
        with one_line_errors(self.text):
            if self._in_arrow_store:
                with self._filesystem.open_input_file(self.key) as file:
                    properties = file.metadata() or {}
            else:  # Arrow does not pass on the properties that fsspec knows
                properties = self._filesystem.handler.fs.info(self.key)
        return Stamp(info.size or 0, info.mtime_ns, _etag(properties))

    def list_files(self) -> list[tuple[str, ...]]:
        """Return all files below a folder of a store: the names on each path, sorted.

        A name may be empty, ``.`` or ``..``, which `child` refuses.
        """
        with one_line_errors(self.text):
            selector = stores.fs.FileSelector(self.key, recursive=True, allow_not_found=True)
            infos = self._filesystem.get_file_info(selector)
        folder = self.key.strip("/") + "/"
        paths = (info.path.lstrip("/").removeprefix(folder) for info in infos if info.is_file)
        # An object whose key ends in a slash stands for a folder.
        return sorted(tuple(path.split("/")) for path in paths if path and path[-1] != "/")

    @property
    def _path(self) -> str:
        return self.key if self.local is None else self.local

    @property
    def _in_arrow_store(self) -> bool:
        return stores.scheme_of(self.store) in stores.OPTIONS

    @property
    def _options(self) -> str:
        return "".join(self.store.partition("?")[1:]) if self._in_arrow_store else ""

    @property
    def _url(self) -> str:
        return self.text.removesuffix(self._options)

    @property
    def _filesystem(self) -> Any:
        return stores.open_store(self.store)

    def _info(self, key: str | None = None) -> Any:
        with one_line_errors(self.text):
            return self._filesystem.get_file_info(self.key if key is None else key)


# The bytes that a name has at most on the file systems in use.
_MAX_NAME = 255


def _problem_of(relative: str) -> str | None:
    """Return why a relative path must not be used in any kind of folder; None if it may be."""
    if not relative:
        return "the path is empty"
    names = relative.removesuffix("/").split("/")
    if "" in names:
        return "the path has a name without characters"
    # On Windows a backslash divides names.
    if not {".", ".."}.isdisjoint(re.split(r"[/\\]", relative)):
        return "the path has . or .. as a name, and may lead out of the folder"
    if "\0" in relative:
        return "the path has a null character"
    return None


def _problem_of_local(relative: str) -> str | None:
    """Return why a relative path must not be used in a local folder; None if it may be."""
    if os.path.isabs(relative) or os.path.splitdrive(relative)[0]:
        return "the path is absolute"
    if len(relative) > _MAX_NAME // 4:  # as few
        longest = max(len(os.fsencode(name)) for name in relative.split("/"))
        if longest > _MAX_NAME:
            return f"the path has a name of {longest:,} bytes, and a local file at most {_MAX_NAME}"
    return None


def identities(locations: Iterable[Location]) -> list[str]:
    """Return the identity of each location. The folder of many files is resolved once."""
    resolve = functools.cache(os.path.realpath)

    def identity(where: Location) -> str:
        folder, name = os.path.split(where.local or "")
        if name in {"", os.curdir, os.pardir} or os.path.islink(where.local or ""):
            return where.identity
        return os.path.join(resolve(folder), name)

    return list(map(identity, locations))


def mode_of(path: str) -> int:
    """Return the type and the rights of a local file; 0 if there is none, or a broken link.

    A folder that may not be searched raises a PermissionError.
    """
    try:
        return os.stat(path).st_mode
    except PermissionError:
        raise
    except (OSError, ValueError):
        return 0


def _read_all(file: Any, beginning: bytes) -> bytes:
    start = bytes(file.read(len(beginning)))
    return start + bytes(file.read()) if start == beginning else start


def _etag(properties: dict[Any, Any]) -> str | None:
    """Return the ETag in the properties of a file; Arrow's are bytes, fsspec's are anything."""
    for name, value in properties.items():
        if value and name in {b"ETag", "ETag", "etag"}:
            return (value.decode() if isinstance(value, bytes) else str(value)).strip('"')
    return None


def locate(path: str | os.PathLike[str]) -> Location:
    """Return the location of a path or URL.

    Parameters
    ----------
    path : str or path-like
        A string with ``://`` is a URL unless a local file has that name. A path object is always
        local. Percent-encoded characters are decoded in ``file://`` URLs only.

        ``s3://bucket/key`` and ``gs://bucket/key`` may end in options, joined by ``&``:
        ``?endpoint_override=http://127.0.0.1:9000``, ``region=``, ``scheme=``,
        ``anonymous=true``. Credentials and the endpoint of S3 come from the usual variables:
        ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``,
        ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``.

    Returns
    -------
    Location

    Raises
    ------
    InvalidValueError
        The URL is malformed.
    StreamBNError
        A package that opens such URLs is not installed.
    """
    text = os.fspath(path)
    if "://" not in text:  # as most, and a job asks often
        return Location(text, text)
    url = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", text, re.DOTALL)
    if url is None or not isinstance(path, str) or os.path.lexists(text):
        return Location(text, text)
    scheme, rest = url[1].lower(), url[2]
    if scheme == "file":
        return _locate_file_url(text, rest)
    scheme = "gs" if scheme == "gcs" else scheme
    if scheme not in stores.OPTIONS:
        remember(text)
        return Location(text, None, *stores.split_for_fsspec(text))
    # A question mark before anything but a known option belongs to a pattern.
    known = stores.OPTIONS[scheme]
    options = re.search(rf"\?(?=(?:{'|'.join(known)})=)", rest)
    key, query = (rest[: options.start()], rest[options.start() :]) if options else (rest, "")
    bucket, _, below = key.partition("/")

    def refusal(problem: str) -> InvalidValueError:
        return InvalidValueError(f"{redact_url(text)}: {problem}", argument="path")

    if "@" in bucket or ":" in bucket:  # a secret key may have a slash
        raise refusal(
            f"a URL of {scheme}:// must not contain credentials: use environment variables or a "
            "profile"
        )
    if not bucket or local_glob.has_magic(bucket):
        raise refusal(f"the URL must name a bucket, as in {scheme}://bucket/path")
    store = f"{scheme}://{bucket}{query}"
    for option in stores.options_of(store):
        if option not in known:
            raise refusal(f"there is no option {option!r}; the options are {', '.join(known)}")
    return Location(text, None, store, f"{bucket}/{below}".rstrip("/"))


def _locate_file_url(url: str, rest: str) -> Location:
    host, _, path = rest.partition("/")
    if host not in {"", "localhost"}:
        label = redact_url(url)
        host = label.partition("://")[2].partition("/")[0]
        raise InvalidValueError(
            f"{label}: a file URL must not name another host, got {host!r}; a local file is "
            "file:///path",
            argument="path",
        )
    path = "/" + os.fsdecode(unquote_to_bytes(path))
    return Location(path, path)


def remove_leftovers(*files: Location) -> None:
    """Remove the temporary files that a killed process left when it wrote these local files."""
    atomic.remove_leftovers(*(file.local for file in files if file.local is not None))
