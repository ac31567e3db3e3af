"""The stores that URLs lead to: opened once, through Arrow or fsspec, and never waited for long.

A store is known by a URL, of which only what is needed to open it counts: for S3 and
Google's storage the bucket and the options behind a question mark, for what fsspec reaches
whatever it makes of the URL. Nothing is imported before a store is asked for.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

from streambn.errors import InvalidValueError, StreamBNError

__all__ = [
    "OPTIONS",
    "check_options",
    "endpoint_of",
    "open_store",
    "scheme_of",
    "split_for_fsspec",
    "told",
    "trouble",
    "uploading",
]

# What may stand behind a question mark, for the schemes that Arrow reaches by itself.
OPTIONS = {
    "s3": ("endpoint_override", "region", "scheme", "anonymous"),
    "gs": ("endpoint_override", "scheme", "anonymous"),
}
# A server that is gone, or says nothing, is given up within a minute: so many attempts, each
# with so many seconds to connect and then so many without a single byte from it.
_ATTEMPTS = 3
_CONNECT_SECONDS = 5
_SILENT_SECONDS = 15
# Google's library counts not the attempts but the time.
_RETRY_SECONDS = 40
# What goes to a store goes in pieces no smaller than this.
_BUFFER = 1 << 20
# Arrow sends pieces in the background, as many at once as there are, and keeps them in memory
# until they are sent; a slow network would have it keep the whole file. So it is waited for
# when so much is under way.
_UNDER_WAY = 48 << 20
# An object takes its name by a copy within the store, and S3 copies none that is larger.
_S3_COPY_LIMIT = 5 << 30


def scheme_of(store: str) -> str:
    """Give what stands before ``://`` in a store's URL."""
    return store.partition("://")[0]


@functools.cache
def open_store(store: str) -> Any:
    """Open a store, once: a `pyarrow.fs.FileSystem`. What goes wrong is for `told` to tell."""
    scheme = scheme_of(store)
    if scheme not in OPTIONS:
        return _open_through_fsspec(store)
    options: dict[str, Any] = _options(store)
    options["anonymous"] = options.get("anonymous", "").lower() in {"true", "1", "yes"}
    options["endpoint_override"] = endpoint_of(store)
    return _open_s3(store, options) if scheme == "s3" else _open_gs(options)


def _open_s3(store: str, options: dict[str, Any]) -> Any:
    from pyarrow import fs  # noqa: PLC0415  (it takes its time, and local jobs need none)

    # Amazon refuses a request in another region than the bucket's, and can be asked for it.
    told_us = [options.get("region"), options["endpoint_override"]]
    told_us += [os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")]
    if not any(told_us):
        bucket = store.partition("://")[2].partition("?")[0]
        options["region"] = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_SILENT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **options,
    )


def _open_gs(options: dict[str, Any]) -> Any:
    from pyarrow import fs  # noqa: PLC0415

    # Unlike S3's, this one takes no URL.
    scheme, _, host = (options["endpoint_override"] or "").rpartition("://")
    options["endpoint_override"] = host or None
    if scheme:
        options.setdefault("scheme", scheme)
    limit = datetime.timedelta(seconds=_RETRY_SECONDS)
    return fs.GcsFileSystem(retry_time_limit=limit, **options)


def _open_through_fsspec(store: str) -> Any:
    from pyarrow import fs  # noqa: PLC0415

    fsspec = _fsspec(store)
    return fs.PyFileSystem(fs.FSSpecHandler(fsspec.core.url_to_fs(store)[0]))


def endpoint_of(store: str) -> str | None:
    """Say where a store is to be found, if not where it always is."""
    named = _options(store).get("endpoint_override")
    if scheme_of(store) == "s3" and not named:  # as Amazon's own tools do
        named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named.rstrip("/") if named else None


def check_options(store: str, name: str) -> None:
    """Refuse options that a store does not have, in a text."""
    known = OPTIONS[scheme_of(store)]
    for option in _options(store):
        if option not in known:
            raise InvalidValueError(f"{name}: no option {option!r}; there are {', '.join(known)}")


def _options(store: str) -> dict[str, str]:
    return dict(parse_qsl(store.partition("?")[2], keep_blank_values=True))


def split_for_fsspec(url: str) -> tuple[str, str]:
    """Ask fsspec for the store and the path in a URL, which differ between protocols.

    Returns
    -------
    (str, str)
        A URL that opens the store, the same for all that is in it, and the path there.

    Raises
    ------
    StreamBNError
        fsspec is not installed, or not what it needs for this protocol.
    """
    fsspec = _fsspec(url)
    try:
        path = str(fsspec.core.strip_protocol(url))
    except ImportError as error:  # which says what package the protocol needs
        said = str(error)
        packages = re.findall('"([a-z0-9_-]+)"', said) or re.findall(
            "[Ii]nstall ([a-z0-9_-]+)", said
        )
        remedy = f": pip install {' '.join(packages)}" if packages else ""
        raise StreamBNError(f"{url}: {_first_line(error)}{remedy}") from error
    except ValueError as error:
        raise StreamBNError(f"{url}: fsspec knows no protocol {scheme_of(url)!r}") from error
    # What follows the scheme is a host for some, and for others where the path begins.
    first = url.partition("://")[2].partition("/")[0]
    return f"{scheme_of(url)}://{'' if first in path.split('/') else first}", path


def _fsspec(url: str) -> Any:
    try:
        import fsspec.core  # noqa: PLC0415
    except ImportError as error:
        scheme = scheme_of(url)
        raise StreamBNError(
            f"{url}: {scheme}:// is reached through fsspec: pip install fsspec"
        ) from error
    return fsspec


# --- writing --------------------------------------------------------------------------


@contextlib.contextmanager
def uploading(store: str, key: str, name: str) -> Iterator[BinaryIO]:
    """Write an object under a hidden name, and move it when it is whole.

    Arrow completes an upload even when its stream is closed after a failure, and when the
    stream is merely forgotten. Under the name that was asked for, that would leave half an
    object which looks like a whole one.

    Parameters
    ----------
    store : str
        The store's URL.
    key : str
        Where in it the object is to be.
    name : str
        What messages call it.
    """
    folder, _, last = key.rpartition("/")
    stem = re.sub(r"[*?\[\]]", "_", last[:40])  # fsspec would see a pattern
    temporary = f"{folder}/.{stem}.{os.urandom(6).hex()}.tmp"
    with told(name):
        filesystem = open_store(store)
        if scheme_of(store) not in OPTIONS:  # what fsspec reaches may have real folders
            filesystem.create_dir(folder, recursive=True)
        stream = filesystem.open_output_stream(temporary)
    upload = _Upload(stream, name, _S3_COPY_LIMIT if scheme_of(store) == "s3" else None)
    file = io.BufferedWriter(upload, _BUFFER)
    try:
        yield file
        file.close()
        with told(name):
            filesystem.move(temporary, key)
    except BaseException:
        with contextlib.suppress(Exception):
            file.close()
        # What could not be completed is no object, and a store that has just failed is not
        # asked about it, which could take another minute.
        if upload.completed:
            with contextlib.suppress(Exception):
                filesystem.delete_file(temporary)
        raise


class _Upload(io.RawIOBase):
    """A stream into a store; what goes wrong with it is told as elsewhere."""

    def __init__(self, stream: Any, name: str, limit: int | None) -> None:
        self._stream = stream
        self._name = name
        self._limit = limit
        self._size = self._sent = 0
        self.completed = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._size += size
        if self._limit is not None and self._size > self._limit:
            raise StreamBNError(
                f"{self._name}: larger than {self._limit >> 30} GiB, which is more than S3 renames "
                "in one step: write several files into a folder, or a local file"
            )
        with told(self._name):
            self._stream.write(data)
            if self._size - self._sent >= _UNDER_WAY:
                self._stream.flush()
                self._sent = self._size
        return size

    def close(self) -> None:
        if self.closed:
            return
        try:
            with told(self._name):
                self._stream.close()
            self.completed = True
        finally:
            super().close()


# --- what goes wrong ------------------------------------------------------------------


# The first that fits what was said: what it comes from, and what helps.
_TROUBLES = (
    (
        "NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist|Bucket '.*' not found",
        "there is no such bucket",
        "make it, or look at its name and the endpoint",
    ),
    (
        "PermanentRedirect|PERMANENT_REDIRECT|AuthorizationHeaderMalformed|HTTP status 301",
        "the bucket is in another region",
        "set AWS_REGION, or end the URL in ?region=",
    ),
    (
        "ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY|InvalidAccessKey|SIGNATURE_DOES_NOT_MATCH"
        "|SignatureDoesNotMatch|ExpiredToken|EXPIRED_TOKEN|InvalidToken|INVALID_CLIENT_TOKEN"
        "|MISSING_AUTHENTICATION|UNRECOGNIZED_CLIENT|PERMISSION_DENIED|UNAUTHENTICATED|OAuth2"
        "|HTTP status 40[13]",
        "access is denied",
        "look at the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
        "GOOGLE_APPLICATION_CREDENTIALS) and at what they permit",
    ),
    (
        "NETWORK_CONNECTION|REQUEST_TIMEOUT|RequestTimeout|curlCode|CURL error|UNAVAILABLE"
        "|SLOW_DOWN|SlowDown|INTERNAL_FAILURE|HTTP status 5[0-9][0-9]",
        "the store cannot be reached or does not answer",
        "look at the network and the endpoint (AWS_ENDPOINT_URL, or ?endpoint_override= in the "
        "URL), and try again",
    ),
    ("AWS Error|google::cloud", "the store failed", "try again"),
)


def trouble(error: BaseException) -> str | None:
    """Say in a line what an error of S3 or Google's storage means and what helps.

    Returns
    -------
    str or None
        None for an error that does not come from there.
    """
    said = _first_line(error)
    for pattern, what, remedy in _TROUBLES:
        if re.search(pattern, said):
            return f"{what}; {remedy} ({said})"
    return None


@contextlib.contextmanager
def told(place: str) -> Iterator[None]:
    """Turn whatever goes wrong in a store into one line that names the place."""
    try:
        yield
    except StreamBNError:
        raise
    except FileNotFoundError as error:
        raise StreamBNError(f"{place}: no such file or folder") from error
    except Exception as error:  # fsspec's file systems raise what their libraries raise
        said = trouble(error) or _first_line(error) or type(error).__name__
        raise StreamBNError(f"{place}: {said}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
