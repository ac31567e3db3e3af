"""Remote file systems: S3 and Google Cloud Storage through Arrow, all others through fsspec.

A store is named by the part of a URL that opens it, such as ``s3://bucket?region=eu-west-1`` or
``memory://``. Every error is one line, a `StreamBNError`, and no server is waited for longer
than a minute.
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

from streambn._credentials import conceal, redact_url, safe_cause
from streambn._lazy import lazy_module
from streambn.errors import StreamBNError

fs = lazy_module("pyarrow.fs")
fsspec = lazy_module("fsspec.core")

__all__ = [
    "OPTIONS",
    "endpoint_of",
    "one_line_errors",
    "open_store",
    "options_of",
    "scheme_of",
    "split_for_fsspec",
    "store_problem",
    "upload",
]

# The schemes that Arrow opens, and the options that their URLs may end in.
OPTIONS = {
    "s3": ("endpoint_override", "region", "scheme", "anonymous"),
    "gs": ("endpoint_override", "scheme", "anonymous"),
}
# Each attempt waits this long for a connection, and then this long for each byte.
_ATTEMPTS = 3
_CONNECT_SECONDS = 5
_SILENT_SECONDS = 15
# Google's library limits the time of all attempts instead of their number.
_RETRY_SECONDS = 40
# Smaller writes are gathered into pieces of this many bytes.
_BUFFER = 1 << 20
# Arrow uploads parts in the background and keeps them in memory until they are sent. A flush
# after this many bytes waits for them, so a slow network cannot fill the memory.
_MAX_PENDING = 48 << 20
# An upload ends with a copy to its name, and S3 copies at most 5 GiB.
_S3_COPY_LIMIT = 5 << 30


def scheme_of(store: str) -> str:
    """Return the part of a URL before ``://``."""
    return store.partition("://")[0]


def options_of(store: str) -> dict[str, str]:
    """Return the options after the question mark of a store's URL."""
    return dict(parse_qsl(store.partition("?")[2], keep_blank_values=True))


def endpoint_of(store: str) -> str | None:
    """Return the endpoint that the URL or the environment names; None is the provider's own."""
    endpoint = options_of(store).get("endpoint_override")
    if scheme_of(store) == "s3" and not endpoint:  # the variables of Amazon's own tools
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return endpoint.rstrip("/") if endpoint else None


@functools.cache
def open_store(store: str) -> Any:
    """Return the `pyarrow.fs.FileSystem` of a store; the same one for the same URL."""
    scheme = scheme_of(store)
    if scheme not in OPTIONS:
        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.url_to_fs(store)[0]))
    options: dict[str, Any] = options_of(store)
    options["anonymous"] = options.get("anonymous", "").lower() in {"true", "1", "yes"}
    options["endpoint_override"] = endpoint = endpoint_of(store)
    if scheme == "gs":
        if endpoint and "://" in endpoint:  # GcsFileSystem takes the scheme by itself
            endpoint_scheme, options["endpoint_override"] = endpoint.split("://", 1)
            options.setdefault("scheme", endpoint_scheme)
        return fs.GcsFileSystem(
            retry_time_limit=datetime.timedelta(seconds=_RETRY_SECONDS), **options
        )
    regions = (options.get("region"), *map(os.environ.get, ("AWS_REGION", "AWS_DEFAULT_REGION")))
    if not endpoint and not any(regions):  # Amazon refuses requests in the wrong region
        options["region"] = fs.resolve_s3_region(store.partition("://")[2].partition("?")[0])
    return fs.S3FileSystem(
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_SILENT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **options,
    )


def split_for_fsspec(url: str) -> tuple[str, str]:
    """Split a URL into the store, as a URL that opens it, and the path there.

    Raises
    ------
    StreamBNError
        fsspec, or the package that it needs for this protocol, is not installed.
    """
    scheme = scheme_of(url)
    try:
        strip_protocol = fsspec.strip_protocol
    except ImportError as error:
        message = f"{redact_url(url)}: {scheme}:// URLs need fsspec: pip install fsspec"
        raise StreamBNError(message, argument="path") from error
    try:
        path = str(strip_protocol(url))
    except ImportError as error:  # its message names the package to install
        reason = conceal(_first_line(error), url)
        raise StreamBNError(f"{redact_url(url)}: {reason}", argument="path") from error
    except ValueError as error:
        message = f"{redact_url(url)}: fsspec knows no protocol {scheme!r}"
        raise StreamBNError(message, argument="path") from error
    # After the scheme, some protocols have a host and others the first part of the path.
    host = url.partition("://")[2].partition("/")[0]
    return f"{scheme}://{'' if host in path.split('/') else host}", path


# --- writing --------------------------------------------------------------------------


@contextlib.contextmanager
def upload(store: str, key: str, name: str) -> Iterator[BinaryIO]:
    """Open a binary object that appears under its key when the block ends without an error.

    Arrow completes an upload even when its stream is closed after an error or garbage-collected.
    The bytes therefore go to a hidden key first, and the finished object is moved.

    Parameters
    ----------
    store : str
        The store's URL.
    key : str
        The path of the object in the store.
    name : str
        The object's path or URL, for messages.
    """
    folder, _, last = key.rpartition("/")
    stem = re.sub(r"[*?\[\]]", "_", last[:40])  # fsspec would take these for a pattern
    temporary = f"{folder}/.{stem}.{os.urandom(6).hex()}.tmp"
    with one_line_errors(name):
        filesystem = open_store(store)
        if scheme_of(store) not in OPTIONS:  # fsspec also reaches systems with real folders
            filesystem.create_dir(folder, recursive=True)
        stream = filesystem.open_output_stream(temporary)
    raw = _UploadStream(stream, name, _S3_COPY_LIMIT if scheme_of(store) == "s3" else None)
    file = io.BufferedWriter(raw, _BUFFER)
    try:
        yield file
        file.close()
        with one_line_errors(name):
            filesystem.move(temporary, key)
    except BaseException:
        with contextlib.suppress(Exception):
            file.close()
        # An incomplete upload leaves no object; asking a failing store could take a minute.
        if raw.completed:
            with contextlib.suppress(Exception):
                filesystem.delete_file(temporary)
        raise


class _UploadStream(io.RawIOBase):
    """An Arrow output stream with a limited size, bounded memory and one-line errors."""

    def __init__(self, stream: Any, name: str, limit: int | None) -> None:
        self._stream = stream
        self._name = name
        self._limit = limit
        self._size = self._flushed = 0
        self.completed = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._size += size
        if self._limit is not None and self._size > self._limit:
            raise StreamBNError(
                f"{redact_url(self._name)}: larger than {self._limit >> 30} GiB, the most that S3 "
                "can rename: write several files into a folder, or a local file"
            )
        with one_line_errors(self._name):
            self._stream.write(data)
            if self._size - self._flushed >= _MAX_PENDING:
                self._stream.flush()
                self._flushed = self._size
        return size

    def close(self) -> None:
        if self.closed:
            return
        try:
            with one_line_errors(self._name):
                self._stream.close()
            self.completed = True
        finally:
            super().close()


# --- errors ---------------------------------------------------------------------------


# A pattern of the error codes of S3 and Google, the problem, and the remedy. Arrow raises all of
# them as OSError, with the code in the text only.
_PROBLEMS = (
    (
        "NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist|Bucket '.*' not found",
        "there is no such bucket; create it, or check its name and the endpoint",
    ),
    (
        "PermanentRedirect|PERMANENT_REDIRECT|AuthorizationHeaderMalformed|HTTP status 301",
        "the bucket is in another region; set AWS_REGION, or end the URL in ?region=",
    ),
    (
        "ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY|InvalidAccessKey|SIGNATURE_DOES_NOT_MATCH"
        "|SignatureDoesNotMatch|ExpiredToken|EXPIRED_TOKEN|InvalidToken|INVALID_CLIENT_TOKEN"
        "|MISSING_AUTHENTICATION|UNRECOGNIZED_CLIENT|PERMISSION_DENIED|UNAUTHENTICATED|OAuth2"
        "|HTTP status 40[13]",
        "access is denied; check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "AWS_PROFILE, or GOOGLE_APPLICATION_CREDENTIALS) and their permissions",
    ),
    (
        "NETWORK_CONNECTION|REQUEST_TIMEOUT|RequestTimeout|curlCode|CURL error|UNAVAILABLE"
        "|SLOW_DOWN|SlowDown|INTERNAL_FAILURE|HTTP status 5[0-9][0-9]",
        "the store cannot be reached or does not answer; check the network and the endpoint "
        "(AWS_ENDPOINT_URL, or ?endpoint_override= in the URL), and try again",
    ),
    ("AWS Error|google::cloud", "the store failed; try again"),
)


@contextlib.contextmanager
def one_line_errors(url: str) -> Iterator[None]:
    """Raise the errors of a store as a `StreamBNError`: one line with name, problem and remedy.

    No part of it holds the credentials of the URL.
    """
    try:
        yield
    except StreamBNError:
        raise
    except Exception as error:  # fsspec passes on the exceptions of many libraries
        reason = store_problem(error) or _first_line(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "no such file or folder"
        message = f"{redact_url(url)}: {conceal(reason, url)}"
        raise StreamBNError(message) from safe_cause(error, url)


def store_problem(error: BaseException) -> str | None:
    """Return the problem and the remedy if S3 or Google Cloud Storage raised the error."""
    reason = _first_line(error)
    for pattern, problem in _PROBLEMS:
        if re.search(pattern, reason):
            return f"{problem} ({reason})"
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
