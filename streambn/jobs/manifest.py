"""Which files of a folder job are done: a manifest in the folder that it writes to.

A manifest is lines of JSON: first what the outputs are made by, then a line for each that
has got its name. Each line has a checksum. One that a crash has cut short or taken away is
as if it had never been: its output is made again. One that outlived its output is known by
the run of the machine that it is from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import Location, Stamp, remove_leftovers
from streambn.io.sources import Source
from streambn.jobs.report import Skipped

__all__ = ["NAME", "Manifest", "Outcome"]

NAME = "_streambn.manifest"
_FORMAT = "streambn manifest"
_VERSION = 2
# Those of version 1 do not say what was left out.
_READABLE = (1, _VERSION)
# What a process wrote outlives it, but not the machine, unless it was waited for.
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    fingerprint: str
    options: list[str]


class _Done(msgspec.Struct, forbid_unknown_fields=True):
    """One output: its path below the folder, what it was then, the rows read for it, its inputs.

    `boot` is which run of the machine it was written in; None: it is on the disk. `skipped` is
    what of the inputs was damaged and left out.
    """

    output: str
    stamp: Stamp
    rows: int
    inputs: list[tuple[str, Stamp | None]]
    boot: str | None
    skipped: list[Skipped] = []


class Outcome(NamedTuple):
    """What came of the inputs of an output: rows that were read, and what was left out."""

    rows: int
    skipped: Sequence[Skipped] = ()


class Manifest:
    """The outputs that are done, of a job that writes into a folder.

    Parameters
    ----------
    folder : Location
    fingerprint : str
        Of the statistics.
    options : list of str
        What else the outputs depend on.
    fresh : bool
        Whether outputs of other statistics or options may be replaced.

    Raises
    ------
    InvalidValueError
        The folder holds outputs of other statistics or options.
    StreamBNError
        The manifest is damaged.
    """

    def __init__(
        self, folder: Location, fingerprint: str, options: list[str], *, fresh: bool
    ) -> None:
        self._location = folder.child(NAME)
        self._head = _Head(_FORMAT, _VERSION, fingerprint, options)
        self._lines: list[bytes] = []
        self._done: dict[str, _Done] = {}
        if not fresh and self._location.exists():
            self._read(self._location.read_bytes())

    def begin(self, *, resume: bool) -> None:
        """Begin to take notes, with what was done before or without."""
        if resume:
            remove_leftovers(self._location)
        else:
            self._done.clear()
        self._lines = [_line(self._head), *map(_line, self._done.values())]
        if self._location.exists():  # and to the disk, or a power cut could bring the old one back
            self._location.write_bytes(b"".join(self._lines))

    def done(self, output: str, target: Location, sources: Sequence[Source]) -> Outcome | None:
        """Say what came of an output's inputs; None: it is not done, or of other inputs."""
        done = self._done.get(output)
        if done is None or done.boot not in (None, _boot()):
            return None
        try:
            whole = target.stamp() == done.stamp and done.inputs == _inputs(sources)
        except (OSError, StreamBNError):
            return None
        return Outcome(done.rows, done.skipped) if whole else None

    def add(
        self,
        output: str,
        target: Location,
        outcome: Outcome,
        inputs: Sequence[tuple[str, Stamp | None]],
        *,
        durable: bool,
    ) -> None:
        """Take note of an output that has got its name.

        Parameters
        ----------
        output : str
            Its path below the folder.
        target : Location
            Where it is.
        outcome : Outcome
            What came of its inputs.
        inputs : sequence of (str, Stamp or None)
            What it is made of: paths, and what was there when they were read.
        durable : bool
            Whether it is on the disk, and not only on its way there.
        """
        boot = None if durable else _boot()
        rows, skipped = outcome
        line = _line(_Done(output, target.stamp(), rows, list(inputs), boot, list(skipped)))
        self._lines.append(line)
        path = self._location.local
        # Of an output that is not waited for, neither is the line: lost, it costs no more than
        # the output made again.
        if path is None or not self._location.exists():  # elsewhere nothing can be appended
            with self._location.open_output(fsync=durable) as file:
                file.write(b"".join(self._lines))
            return
        with open(path, "ab") as file:
            file.write(line)
            file.flush()
            if durable:
                os.fsync(file.fileno())

    def _read(self, content: bytes) -> None:
        name = self._location.text
        *lines, rest = content.split(b"\n")
        heads = [_parsed(lines[0], _Head)] if lines else []
        head = heads[0] if heads else None
        if head is None or head.format != _FORMAT or head.version not in _READABLE:
            raise StreamBNError(
                f"{name} is damaged, or from another version of streambn: with --overwrite the "
                "job begins anew"
            )
        if (head.fingerprint, head.options) != (self._head.fingerprint, self._head.options):
            what = "statistics" if head.fingerprint != self._head.fingerprint else "options"
            raise InvalidValueError(
                f"{name}: this folder holds outputs of other {what}, which are not mixed: write "
                "to another folder, or begin anew with --overwrite"
            )
        for number, line in enumerate(lines[1:], 2):
            done = _parsed(line, _Done)
            if done is None and (number < len(lines) or rest):
                raise StreamBNError(
                    f"{name} is damaged in line {number}: with --overwrite the job begins anew"
                )
            if done is not None:
                self._done[done.output] = done


def _inputs(sources: Sequence[Source]) -> list[tuple[str, Stamp | None]]:
    return [(s.path, s.stamp() if s.rereadable else None) for s in sources]


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _line(content: msgspec.Struct) -> bytes:
    text = msgspec.json.encode(content, order="deterministic")
    return _check(text) + b" " + text + b"\n"


def _check(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:32].encode()


def _parsed(line: bytes, kind: type[Any]) -> Any:
    """Read a line; None: it is not as it was written."""
    check, _, text = line.partition(b" ")
    if check != _check(text):
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError:
        return None
