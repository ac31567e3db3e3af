"""File formats: their names, their detection by content, and the errors of damaged files."""

from __future__ import annotations

import codecs
import contextlib
import enum
import re
from collections.abc import Callable, Iterator

import pyarrow as pa

from streambn._credentials import safe_cause
from streambn.errors import StreamBNError
from streambn.io.stores import store_problem

__all__ = [
    "COMPRESSION_SUFFIXES",
    "HEADER_SIZE",
    "SUFFIXES",
    "Format",
    "after_row",
    "describe_read_errors",
    "detect_compression",
    "located",
    "sniff",
]

# Bytes that suffice to detect a format, and to see whether a file is text.
HEADER_SIZE = 8192


class Format(enum.Enum):
    """A file format. The value is its name in messages."""

    PARQUET = "Parquet"
    IPC_FILE = "an Arrow IPC file"
    IPC_STREAM = "an Arrow IPC stream"
    CSV = "CSV"
    JSON = "newline-delimited JSON"

    @property
    def declares_types(self) -> bool:
        """Whether a file declares the types of its columns, as text does not."""
        return self not in (Format.CSV, Format.JSON)


SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.IPC_FILE,
    ".feather": Format.IPC_FILE,
    ".ipc": Format.IPC_FILE,
    ".arrows": Format.IPC_STREAM,
    ".csv": Format.CSV,
    ".ndjson": Format.JSON,
    ".jsonl": Format.JSON,
}

# The suffixes of compressed files, and Arrow's names of the codecs.
COMPRESSION_SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}

_MAGIC = {
    b"PAR1": Format.PARQUET,
    b"ARROW1": Format.IPC_FILE,
    b"\xff\xff\xff\xff": Format.IPC_STREAM,
}
_STATISTICS = b'{"format":"streambn statistics"'
# The first bytes of compressed files, and Arrow's names of the codecs.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\x04\x22\x4d\x18": "lz4",
}


def sniff(header: bytes, name: str) -> Format:
    """Return the format of a file, detected by its first bytes.

    Raises
    ------
    StreamBNError
        The file is empty or has an unknown format.
    """
    for magic, kind in _MAGIC.items():
        if header.startswith(magic):
            return kind
    if header.startswith(_STATISTICS):
        raise StreamBNError("a file of statistics, which holds no data to read", source=name)
    if re.match(rb"(\xef\xbb\xbf)?\s*\{", header):
        return Format.JSON
    if _is_csv(header):
        return Format.CSV
    if re.match(rb"(\xef\xbb\xbf)?\s*\[\s*[{\]]", header):
        raise StreamBNError(
            "a JSON array. Newline-delimited JSON has one object a line: `jq -c '.[]'` writes it "
            "from an array.",
            source=name,
        )
    problem = "the format is unknown" if header else "the file is empty"
    raise StreamBNError(
        f"{problem}. Readable formats are Parquet, an Arrow IPC file, an Arrow IPC stream, CSV, "
        "and newline-delimited JSON. All but Parquet may be compressed by gzip, zstd, lz4 or bz2.",
        source=name,
    )


def detect_compression(header: bytes) -> str | None:
    """Return the codec that compresses a whole file, or None."""
    for magic, codec in _COMPRESSED.items():
        if header.startswith(magic):
            return codec
    return None


def _is_csv(header: bytes) -> bool:
    """Return whether this may be CSV: text without control characters, and not JSON.

    The encoding may be any in which control characters have their ASCII codes, or UTF-16 with
    its mark.
    """
    encoding = (
        "utf-16" if header.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin-1"
    )
    text = header.removeprefix(codecs.BOM_UTF8).decode(encoding, "replace")
    control = re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)
    return control is None and re.match(r"\s*[^\s{\[]", text) is not None


def after_row(rows: int) -> str:
    """Return a description of the place in a file that follows `rows` rows."""
    return f"after row {rows:,}" if rows else ""


@contextlib.contextmanager
def located(name: str, where: str = "") -> Iterator[None]:
    """Name a file, and the place in it, in the errors of a block that do not name one."""
    try:
        yield
    except StreamBNError as error:
        if error.source is not None:
            raise
        raise type(error)(
            error.message,
            argument=error.argument,
            column=error.column,
            source=f"{name} {where}" if where else name,
        ) from error


# UnicodeDecodeError is for names. The errors of memory are for lengths that damaged data declare.
_READ_ERRORS = (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError)


@contextlib.contextmanager
def describe_read_errors(
    name: str, kind: Format, where: str | Callable[[], str] = ""
) -> Iterator[None]:
    """Replace Arrow's errors by a `StreamBNError` of one line.

    Parameters
    ----------
    name : str
        Name of the file in the message.
    kind : Format
    where : str or callable
        Place in the file, such as ``"in row group 3"``, or a function that returns it.
    """
    try:
        yield
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and (problem := store_problem(error)):
            raise StreamBNError(f"{name}: {problem}") from safe_cause(error)
        reason = str(error).strip().partition("\n")[0]
        where = where if isinstance(where, str) else where()
        where = where and f" {where}"
        if isinstance(error, pa.ArrowNotImplementedError):
            raise StreamBNError(
                f"Arrow cannot read all of this {kind.value.removeprefix('an ')}{where}: {reason}. "
                "Cast the column to another type, such as float64, and write the file again.",
                source=name,
            ) from safe_cause(error)
        if isinstance(error, MemoryError | OverflowError):
            reason = f"more memory is needed than there is{reason and ': '}{reason}"
        raise StreamBNError(
            f"damaged or truncated, not readable as {kind.value}{where}: {reason}", source=name
        ) from safe_cause(error)
