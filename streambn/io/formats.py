"""The file formats: their names, told by content, and what Arrow says of a damaged one."""

from __future__ import annotations

import codecs
import contextlib
import enum
import re
from collections.abc import Iterator

import pyarrow as pa

from streambn.errors import StreamBNError

__all__ = ["HEAD", "SUFFIXES", "Format", "after", "compression_of", "explained", "sniff"]

# Enough to tell a format, and to see that a text is one.
HEAD = 8192


class Format(enum.Enum):
    """A file format, by the name that messages give it."""

    PARQUET = "Parquet"
    IPC_FILE = "an Arrow IPC file"
    IPC_STREAM = "an Arrow IPC stream"
    CSV = "CSV"


SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.IPC_FILE,
    ".feather": Format.IPC_FILE,
    ".ipc": Format.IPC_FILE,
    ".arrows": Format.IPC_STREAM,
    ".csv": Format.CSV,
}

_MAGIC = {
    b"PAR1": Format.PARQUET,
    b"ARROW1": Format.IPC_FILE,
    b"\xff\xff\xff\xff": Format.IPC_STREAM,
}
# How files that are compressed as a whole begin, and what Arrow calls the way they are.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\x04\x22\x4d\x18": "lz4",
}


def sniff(head: bytes, name: str) -> Format:
    """Tell the format by a file's first bytes.

    Raises
    ------
    StreamBNError
        There are none, or they are of no format that can be read.
    """
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if _is_csv(head):
        return Format.CSV
    what = "is in a format unknown here" if head else "is empty"
    raise StreamBNError(
        f"{name} {what}; what can be read is Parquet, an Arrow IPC file, an Arrow IPC stream, "
        "and CSV in UTF-8, the last three also compressed by gzip, zstd, lz4 or bz2"
    )


def compression_of(head: bytes) -> str | None:
    """Tell by a file's first bytes how it is compressed as a whole; None: it is not."""
    for magic, codec in _COMPRESSED.items():
        if head.startswith(magic):
            return codec
    return None


def _is_csv(head: bytes) -> bool:
    """Whether this may be CSV: UTF-8 without control characters, and not JSON."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    control = re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)
    return control is None and re.match(r"\s*[^\s{\[]", text) is not None


def after(rows: int) -> str:
    """Name a place in a file by the rows before it."""
    return f"after row {rows:,}" if rows else ""


@contextlib.contextmanager
def explained(
    name: str, kind: Format, where: str = "", columns: list[str] | None = None
) -> Iterator[None]:
    """Turn what Arrow says of a file into one line that names it, the place and what helps."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: of names
        said = str(error).strip().partition("\n")[0]
        where = where and f" {where}"
        misfit = re.match(r"In CSV column #(\d+): (.*conversion error.*)", said)
        if misfit is None:
            raise StreamBNError(
                f"{name}: damaged or truncated, not readable as {kind.value}{where}: {said}"
            ) from error
        number = int(misfit[1])
        column = columns[number] if columns else f"#{number}"
        likely = "timestamp[us]" if re.search(r"to (date|timestamp)", misfit[2]) else "double"
        raise StreamBNError(
            f"{name}: column {column!r}: a value{where} does not fit the type that the first rows "
            f"suggest ({misfit[2]}); name the type: --csv-type {column}={likely}, or string"
        ) from error
