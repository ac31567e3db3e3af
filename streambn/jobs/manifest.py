"""The record of completed outputs in the folder that a job writes to.

A manifest is a file of JSON lines. The first line holds the statistics' fingerprint and the
options that the outputs depend on. Each further line is an `Entry`, written when an output is
complete. Every line has a checksum. A last line that a crash cut short is ignored, and its
output is made again. An entry without fsync counts only until the machine restarts, because a
crash of the machine may lose the output and keep the entry.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import Location, Source, Stamp, original_path, remove_leftovers, unicode_text
from streambn.jobs.report import Skipped
from streambn.jobs.stamps import stamps_of

__all__ = ["NAME", "Entry", "Manifest"]

NAME = "_streambn.manifest"
_FORMAT = "streambn manifest"
_VERSION = 2
# Version 1 has no `skipped`.
_READABLE = (1, _VERSION)
# Linux gives every boot of the machine another id.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    fingerprint: str
    options: list[str]


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A completed output."""

    output: str  # path relative to the folder, as `unicode_text`
    stamp: Stamp  # of the output
    rows: Annotated[int, msgspec.Meta(ge=0, le=2**62)]  # that were read for it
    inputs: list[tuple[str, Stamp | None]]  # identity of each, and its stamp from before the read
    boot: str | None  # of the machine that the entry is valid in; None: the output is on disk
    skipped: list[Skipped] = []  # damaged parts of the inputs that were left out


class Manifest:
    """The completed outputs of a job that writes into a folder.

    Parameters
    ----------
    folder : Location
    fingerprint : str
        Fingerprint of the statistics.
    options : list of str
        Other options that the outputs depend on.
    overwrite : bool
        Whether to replace outputs of other statistics or options.
    learned : sequence of Source
        The sources that the job learned the statistics from.

    Raises
    ------
    InvalidValueError
        The folder holds outputs of other statistics or options.
    StreamBNError
        The manifest is damaged.
    """

    def __init__(
        self,
        folder: Location,
        fingerprint: str,
        options: list[str],
        *,
        overwrite: bool,
        learned: Sequence[Source] = (),
    ) -> None:
        self._location = folder.child(NAME)
        self._head = _Head(_FORMAT, _VERSION, fingerprint, options)
        self._lines: list[bytes] = []
        self._entries: dict[str, Entry] = {}
        if not overwrite and self._location.exists():
            self._read(self._location.read_bytes(), learned)

    def begin(self, *, resume: bool) -> None:
        """Begin to record outputs, and keep earlier entries if the job is resumed."""
        if resume:
            remove_leftovers(self._location)
        else:
            self._entries.clear()
        self._lines = [_encode(self._head), *map(_encode, self._entries.values())]
        if self._location.exists():
            # With fsync: after a power cut, the old entries must not come back.
            self._location.write_bytes(b"".join(self._lines))

    def find(self, output: str, target: Location, sources: Sequence[Source]) -> Entry | None:
        """Return the entry of an output; None if it is not complete, or an input changed."""
        entry = self._entries.get(unicode_text(output))
        if entry is None or entry.boot not in (None, _boot_id()):
            return None
        try:
            inputs = [(s.identity, s.stamp() if s.rereadable else None) for s in sources]
            unchanged = target.stamp() == entry.stamp and entry.inputs == inputs
        except (OSError, StreamBNError):
            return None
        return entry if unchanged else None

    def add(
        self,
        output: str,
        target: Location,
        inputs: Sequence[tuple[str, Stamp | None]],
        rows: int,
        skipped: Sequence[Skipped] = (),
        *,
        fsync: bool,
    ) -> None:
        """Record a completed output as an `Entry`, with fsync if the output was written so."""
        boot = None if fsync else _boot_id()
        line = _encode(
            Entry(unicode_text(output), target.stamp(), rows, list(inputs), boot, list(skipped))
        )
        self._lines.append(line)
        path = self._location.local
        if path is None or not self._location.exists():  # stores cannot append
            with self._location.open_output(fsync=fsync) as file:
                file.write(b"".join(self._lines))
            return
        with open(path, "ab") as file:
            file.write(line)
            file.flush()
            if fsync:
                os.fsync(file.fileno())

    def _read(self, content: bytes, learned: Sequence[Source]) -> None:
        name = self._location.label
        *lines, rest = content.split(b"\n")
        head = _decode(lines[0], _Head) if lines else None
        if head is None or head.format != _FORMAT or head.version not in _READABLE:
            raise StreamBNError(
                f"{name} is damaged, or another version of streambn wrote it. Overwrite the "
                "outputs to start again.",
                argument="overwrite",
            )
        entries = [_decode(line, Entry) for line in lines[1:]]
        if (head.fingerprint, head.options) != (self._head.fingerprint, self._head.options):
            problem = f"{name}: this folder holds outputs of other options"
            if head.fingerprint != self._head.fingerprint:
                problem = f"{name}: this folder holds outputs of other statistics"
                if head.options == self._head.options and learned:
                    unknown = f"{problem}, because an input or an option has changed since"
                    problem = _change(filter(None, entries), learned) or unknown
            raise InvalidValueError(
                f"{problem}. Write to another folder, or overwrite them.", argument="overwrite"
            )
        for number, entry in enumerate(entries, 2):
            if entry is not None:
                self._entries[entry.output] = entry
            elif number < len(lines) or rest:  # a crash damages the last line at most
                raise StreamBNError(
                    f"{name} is damaged in line {number}. Overwrite the outputs to start again.",
                    argument="overwrite",
                )


def _change(entries: Iterable[Entry], sources: Sequence[Source]) -> str | None:
    """Return what changed about the inputs since outputs were made of them, if it is known."""
    now = {source.identity: source for source in sources}
    before = {identity: stamp for entry in entries for identity, stamp in entry.inputs}
    for identity, stamp in before.items():
        name = original_path(identity)
        if identity not in now:
            return f"{name} is no longer an input, so the outputs are of other statistics"
        if stamps_of([now[identity]]) != (stamp,):
            return f"{name} has changed since its output was made, which has other statistics"
    return None


@functools.cache
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _encode(content: msgspec.Struct) -> bytes:
    text = msgspec.json.encode(content, order="deterministic")
    return _checksum(text) + b" " + text + b"\n"


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:32].encode()


def _decode(line: bytes, kind: type[Any]) -> Any:
    """Return the content of a line; None if it is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != _checksum(text):
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
