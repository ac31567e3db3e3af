"""The envelope of a statistics file: format, version, checksum, fingerprint and note.

A file holds state and hyperparameters, and nothing that can be computed from them. Floats have
the fewest digits that read back to the same bits. The checksum is the SHA-256 of the canonical
JSON of the file with an empty checksum, so a file may be indented without becoming invalid. The
fingerprint of a frozen file is the SHA-256 of its body.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import msgspec

from streambn.arrow import LeftOut
from streambn.errors import SnapshotError, StreamBNError
from streambn.snapshot.base import OutdatedError, Stored
from streambn.snapshot.body import Body
from streambn.statistics import Statistics

__all__ = [
    "FORMAT",
    "VERSION",
    "Snapshot",
    "StoredFile",
    "decode",
    "encode",
    "fingerprint",
    "shorten",
]

FORMAT: Final = "streambn statistics"
VERSION: Final = 6
# A file gets the lowest version that can express it, because older programs can read that one.
# Version 2 added Σw², sample weights, event times and gaps of a recursion; 3 notes; 4 exact
# sums; 5 gaps of an EMA with adjust=True, whether times have a zone, columns without a type yet,
# excluded columns, unions of columns, and columns that are left out; 6 min_count.
_NOTE_VERSION: Final = 3
_LEFT_OUT_VERSION: Final = 5
_SHOWN: Final = 400  # characters of a message, which may quote the file


class Snapshot(NamedTuple):
    """The content of a statistics file.

    Attributes
    ----------
    statistics : Statistics
    frozen : bool
        Whether the file is of a `FrozenNormalizer`.
    note : dict, optional
        Data of JSON types that the writer added, such as the progress of a job. It is not part
        of the statistics.
    """

    statistics: Statistics
    frozen: bool
    note: dict[str, Any] | None = None


class StoredFile(Stored):
    """A statistics file."""

    format: str
    version: int
    kind: Literal["normalizer", "frozen"]
    fingerprint: str | None
    checksum: str
    body: Body
    note: dict[str, Any] | None = None
    # Not part of the body: the same statistics have one fingerprint, whatever stood beside them.
    left_out: tuple[tuple[str, str], ...] = ()


class _Header(msgspec.Struct):
    """The fields that every version has and that a foreign file lacks."""

    format: str
    version: int


def encode(snapshot: Snapshot) -> bytes:
    """Return the bytes of a statistics file.

    Raises
    ------
    SnapshotError
        The policy is not one of streambn's own.
    """
    body = Body.of(snapshot.statistics)
    left_out = tuple((each.column, each.reason) for each in snapshot.statistics.left_out)
    since = [body.since, *([_NOTE_VERSION] if snapshot.note is not None else [])]
    file = StoredFile(
        format=FORMAT,
        version=max([*since, *([_LEFT_OUT_VERSION] if left_out else [])]),
        kind="frozen" if snapshot.frozen else "normalizer",
        fingerprint=_sha256(body) if snapshot.frozen else None,
        checksum="",
        body=body,
        note=snapshot.note,
        left_out=left_out,
    )
    file = msgspec.structs.replace(file, checksum=_sha256(file))
    return _canonical(file) + b"\n"


def fingerprint(statistics: Statistics) -> str:
    """Return the SHA-256 of statistics and hyperparameters, in hexadecimal.

    Raises
    ------
    SnapshotError
        The policy is not one of streambn's own.
    """
    return _sha256(Body.of(statistics))


def decode(content: bytes, name: str = "the statistics") -> Snapshot:
    """Return the content of a statistics file.

    Parameters
    ----------
    content : bytes
        Bytes that `encode` returned, possibly with other white space between JSON tokens. The
        beginning of a foreign file is enough to tell that it is foreign.
    name : str
        The name of the file in messages.

    Raises
    ------
    SnapshotError
        The file is empty, foreign, damaged, outdated or from a newer version; the message says
        which.
    """
    if not content:
        raise SnapshotError(f"{name} is empty, so it is not a statistics file.")
    header = _header(content, name)
    if header.version < 1:
        raise SnapshotError(
            f"{name} is damaged: there is no format version {header.version!r:.20}."
        )
    if header.version > VERSION:
        raise SnapshotError(
            f"{name} has format version {header.version!r:.20} of a newer streambn; this one reads "
            f"versions up to {VERSION}. Upgrade streambn."
        )
    try:
        file = msgspec.json.decode(content, type=StoredFile)
        unsigned = msgspec.structs.replace(file, checksum="")
        if _sha256(unsigned) != file.checksum:
            problem = "its content does not match its checksum"
        elif file.fingerprint != (_sha256(file.body) if file.kind == "frozen" else None):
            problem = "its statistics do not match its fingerprint"
        elif file.kind == "frozen" and file.body.leaves is None:
            problem = "it is frozen, but no data was seen"
        else:
            left_out = tuple(LeftOut(*each) for each in file.left_out)
            statistics = replace(file.body.restore(len(content)), left_out=left_out)
            return Snapshot(statistics, file.kind == "frozen", file.note)
    except OutdatedError as error:
        raise SnapshotError(f"{name} {error}") from error
    except RecursionError:
        problem = "it is nested too deeply"
    except (msgspec.MsgspecError, StreamBNError, OverflowError, UnicodeDecodeError) as error:
        problem = str(error)
    raise SnapshotError(
        f"{name} is damaged: {shorten(problem)}. Restore it from a copy, or fit again."
    )


def shorten(problem: str) -> str:
    """Return a message that may quote the content, cut to what people can read."""
    return problem if len(problem) <= _SHOWN else f"{problem[:_SHOWN]}…"


def _header(content: bytes, name: str) -> _Header:
    foreign = f"{name} is not a statistics file of streambn"
    if not content.startswith(b"{"):
        raise SnapshotError(f"{foreign}: it is not a JSON object.")
    try:
        header = msgspec.json.decode(content, type=_Header)
    except msgspec.ValidationError as error:
        raise SnapshotError(f"{foreign}: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(
            f"{name} is damaged: it is not valid JSON ({error}). Restore it from a copy, or fit "
            "again."
        ) from error
    if header.format != FORMAT:
        raise SnapshotError(f"{foreign}: its format is {header.format[:40]!r}.")
    return header


def _canonical(content: msgspec.Struct) -> bytes:
    return msgspec.json.encode(content, order="deterministic")


def _sha256(content: msgspec.Struct) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()
