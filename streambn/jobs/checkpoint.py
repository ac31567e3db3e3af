"""How far a fit has come, kept in one file: statistics, and the place that they reach to.

A checkpoint is a statistics file like any other, with a note beside the statistics: which
inputs were read, as they were then, and where the next part begins. The two are written
together, so a job that goes on from a checkpoint gives the result, to the last bit, that
it would have given without the interruption.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from streambn.errors import InvalidValueError, SnapshotError, StreamBNError
from streambn.io import Location, Stamp
from streambn.io.sources import Source
from streambn.jobs.report import Skipped
from streambn.snapshot import Snapshot, decode, encode, fingerprint
from streambn.statistics import Statistics

__all__ = ["Interval", "Keeper", "Place", "Reached", "keeping", "read"]


@dataclass(frozen=True, slots=True)
class Place:
    """How far the inputs were read.

    Attributes
    ----------
    files : int
        Inputs that were read whole.
    parts : int
        Pieces of the next one, or batches if it cannot be read in pieces.
    rows, bytes : int
        In all of these.
    within : int
        Rows of the input that was begun and not ended.
    stamps : sequence of Stamp or None
        Of the inputs that were begun, as they were then, and perhaps of later ones; None: of
        a pipe. It may grow at its end.
    skipped : tuple of Skipped
        What was damaged and left out.
    """

    files: int = 0
    parts: int = 0
    rows: int = 0
    bytes: int = 0
    within: int = 0
    stamps: Sequence[Stamp | None] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def begun(self) -> int:
        """How many inputs were begun."""
        return self.files + (self.parts > 0)


class Reached(NamedTuple):
    """Statistics, and the place that they reach to."""

    statistics: Statistics
    place: Place


class Interval(NamedTuple):
    """How often to write a checkpoint: after so many seconds or rows."""

    seconds: float | None
    rows: int | None


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    """What stands beside the statistics."""

    job: str
    inputs: list[str]
    files: int
    parts: int
    rows: int
    bytes: int
    within: int
    stamps: list[Stamp | None]
    skipped: list[Skipped]


def read(
    location: Location, sources: Sequence[Source], begun: Statistics, job: Sequence[str]
) -> Reached | None:
    """Read a checkpoint, if it is there.

    Parameters
    ----------
    location : Location
    sources : sequence of Source
        The inputs of the job that is to go on.
    begun : Statistics
        What the job began with.
    job : sequence of str
        What else its result depends on.

    Raises
    ------
    InvalidValueError
        It is of another job, or an input changed since.
    SnapshotError
        It is damaged, or no checkpoint.
    """
    if not location.exists():
        return None
    saved = decode(location.read_bytes(), location.text)
    if saved.note is None:
        raise SnapshotError(
            f"{location.text} holds statistics but no place to go on from, so it is no checkpoint; "
            "--continue-from learns on from statistics"
        )
    try:
        note = msgspec.convert(saved.note, _Note)
    except msgspec.ValidationError as error:
        raise SnapshotError(f"{location.text} is damaged: {error}. Remove it.") from error
    place = Place(
        note.files,
        note.parts,
        note.rows,
        note.bytes,
        note.within,
        note.stamps,
        tuple(note.skipped),
    )
    if note.job != _job(begun, job):
        raise InvalidValueError(
            f"{location.text} is the checkpoint of a job with other options: give the same ones, "
            "or begin anew without --resume"
        )
    if not all(source.rereadable for source in sources):  # what comes now is new
        return Reached(saved.statistics, Place(rows=note.rows, bytes=note.bytes))
    _check_inputs(location.text, note.inputs, place, sources)
    return Reached(saved.statistics, place)


def _check_inputs(
    name: str, inputs: Sequence[str], place: Place, sources: Sequence[Source]
) -> None:
    remedy = f"so {name} cannot be gone on from: begin anew without --resume"
    now = [source.path for source in sources]
    for path in inputs:
        if path not in now:
            raise InvalidValueError(f"{path} was an input and is none any more, {remedy}")
    for path in now:
        if path not in inputs:
            raise InvalidValueError(f"{path} was no input when the job began, {remedy}")
    if list(inputs) != now or place.begun != len(place.stamps):
        raise InvalidValueError(f"the inputs come in another order than before, {remedy}")
    for source, stamp in zip(sources, place.stamps, strict=False):
        if stamp is not None and source.stamp() != stamp:
            raise InvalidValueError(f"{source.name} has changed since it was read, {remedy}")


def _job(begun: Statistics, job: Sequence[str]) -> str:
    return "\n".join([fingerprint(begun), *job])


class Keeper:
    """Writes what was reached last, from whichever thread it is asked; made by `keeping`."""

    def __init__(
        self, location: Location | None, sources: Sequence[Source], job: str, rows: int | None
    ) -> None:
        self._location, self._job, self._rows = location, job, rows
        self._sources = sources
        self._writing = threading.Lock()
        self._written: Reached | None = None
        self._reached: Reached | None = None
        self._tried = 0  # rows, when it was last time by the rows
        self._told: str | None = None  # why none could be written, until one can again

    def reach(self, reached: Reached) -> None:
        """Take note of how far the job is; write it down if it is time by the rows."""
        self._reached = reached
        if self._rows is not None and reached.place.rows - self._tried >= self._rows:
            self._tried = reached.place.rows
            self.try_to_write()

    def try_to_write(self) -> None:
        """Write down what was reached last, or tell why not."""
        try:
            self.write()
            self._told = None
        except (OSError, StreamBNError) as error:
            # Not the end of the job, which may be days old; the next time may do.
            why = str(getattr(error, "strerror", None) or error)
            where = "" if self._location is None else f" at {self._location.text}"
            if why != self._told:  # or a disk that stays full would fill the log too
                print(f"streambn: no checkpoint{where}: {why}", file=sys.stderr)
            self._told = why

    def write(self) -> bool:
        """Write down what was reached last; say whether there is a checkpoint."""
        with self._writing:
            reached = self._reached  # the two belong together, so they are one value
            if self._location is not None and reached is not None and self._worth(reached):
                with self._location.open_output(fsync=True) as file:
                    file.write(self._content(reached))
                self._written = reached
            return self._written is not None

    def _worth(self, reached: Reached) -> bool:
        """Say whether there is something in it that was not written before, and is sound."""
        if reached is self._written or reached.place.rows == 0:
            return False
        return self._sound(reached.place)

    def _sound(self, place: Place) -> bool:
        """See that the input under way is still what it was: what is read of another is not."""
        stamp = place.stamps[place.files] if place.parts else None
        try:
            return stamp is None or self._sources[place.files].stamp() == stamp
        except (OSError, StreamBNError):
            return False

    @property
    def begun(self) -> bool:
        """Whether a checkpoint was written before."""
        return self._written is not None

    def _content(self, reached: Reached) -> bytes:
        place = reached.place
        note = _Note(
            self._job,
            [source.path for source in self._sources],
            place.files,
            place.parts,
            place.rows,
            place.bytes,
            place.within,
            list(place.stamps[: place.begun]),
            list(place.skipped),
        )
        return encode(Snapshot(reached.statistics, frozen=False, note=msgspec.to_builtins(note)))


@contextlib.contextmanager
def keeping(
    location: Location | None,
    sources: Sequence[Source],
    begun: Statistics,
    job: Sequence[str],
    interval: Interval,
) -> Iterator[Keeper]:
    """Keep a checkpoint while a job runs.

    It is written at the interval, on SIGUSR1, and when the job is stopped by a signal, or
    by an error after it ran for long; the exception then has a note that says so.

    Parameters
    ----------
    location : Location or None
        Where; None: nowhere.
    sources, begun, job
        As for `read`.
    interval : Interval
        How often.

    Yields
    ------
    Keeper
        To be told what was reached.
    """
    keeper = Keeper(location, sources, _job(begun, job), interval.rows)
    if location is None:
        yield keeper
        return
    # An event would not do: it takes a lock to be set, so that a second signal, which strikes
    # while the first is handled, would wait for that lock for ever.
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def run() -> None:
        goes_on = True
        while goes_on:
            with contextlib.suppress(queue.Empty):
                goes_on = asked.get(timeout=interval.seconds)
            if goes_on:
                keeper.try_to_write()

    thread = threading.Thread(target=run, name="streambn-checkpoint", daemon=True)
    before = _on_request(lambda *_: asked.put(True))
    thread.start()
    try:
        yield keeper
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        lost = not all(source.rereadable for source in sources)
        # What failed at once would fail again: there is nothing to go on with.
        if stopped or lost or keeper.begun:
            # What went wrong first is what is told.
            with contextlib.suppress(OSError, StreamBNError):
                if keeper.write():
                    error.add_note(f"--resume goes on from {location.text}")
        raise
    finally:
        asked.put(False)
        thread.join()
        if before is not None:
            signal.signal(signal.SIGUSR1, before)


def _on_request(handler: Callable[..., None]) -> Any:
    """Handle SIGUSR1, where there are signals; return what handled it before."""
    if hasattr(signal, "SIGUSR1") and threading.current_thread() is threading.main_thread():
        return signal.signal(signal.SIGUSR1, handler)
    return None
