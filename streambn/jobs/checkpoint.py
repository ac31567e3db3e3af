"""Checkpoints of a fit: statistics and the position that they reach to, in one file.

A checkpoint is a statistics file with a note, which holds the position and the stamps of the
inputs. Both are written in one step, so a fit that is resumed gives the same bits as one that
was not interrupted.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from streambn._messages import shown
from streambn.errors import InvalidValueError, SnapshotError, StreamBNError
from streambn.io import Location, Source, Stamp, original_path, type_named
from streambn.jobs.learn import FitState, Position
from streambn.jobs.plan import ReadOptions
from streambn.jobs.report import Skipped
from streambn.snapshot import Snapshot, decode, encode, fingerprint
from streambn.statistics import Statistics

__all__ = ["Checkpoint", "CheckpointWriter", "Interval"]

# Ten years. The system cannot wait for much longer.
_LONGEST_SECONDS = 3e8


class Interval(NamedTuple):
    """Seconds or rows between two checkpoints."""

    seconds: float | None
    rows: int | None


class Checkpoint(NamedTuple):
    """Where and how often a fit saves its state."""

    location: Location | None  # None: the fit saves nothing
    interval: Interval
    resume: bool = False  # whether to continue from an existing checkpoint

    @property
    def name(self) -> str:
        """The given path or URL without credentials."""
        return "" if self.location is None else self.location.label

    def load(
        self, initial: Statistics, sources: Sequence[Source], options: ReadOptions
    ) -> FitState | None:
        """Return the state in the checkpoint, or None if there is no checkpoint to resume.

        Parameters
        ----------
        initial : Statistics
            The statistics that the fit began with.
        sources : sequence of Source
            The inputs of the fit.
        options : ReadOptions

        Raises
        ------
        InvalidValueError
            The checkpoint is of another fit, or an input changed.
        SnapshotError
            The file is damaged, or is no checkpoint.
        """
        location = self.location
        if not self.resume or location is None or not location.exists():
            return None
        saved = decode(location.read_bytes(), location.label)
        # Other statistics may carry metadata of the user's.
        if saved.note is None or "job" not in saved.note:
            raise SnapshotError(
                f"{location.label} holds statistics without a position, so it is not a checkpoint. "
                "Continue from these statistics instead of resuming.",
                argument="resume",
            )
        try:
            note = msgspec.convert(saved.note, _Note)
        except msgspec.ValidationError as error:
            raise SnapshotError(f"{location.label} is damaged: {error}. Remove it.") from error
        if note.job != _identity(initial, options):
            raise InvalidValueError(
                f"{location.label} is the checkpoint of a job with other options. Give the same "
                "options, or start again.",
                argument="resume",
            )
        # The policy of the statistics is not part of the note, and must not be another one.
        now, then = initial, saved.statistics
        same = (then.policy, then.options) == (now.policy, now.options)
        settled = {
            path: {column: type_named(name) for column, name in types.items()}
            for path, types in note.types.items()
        }
        problem = None
        if not same:
            problem = f"its statistics are those of {then.policy!r}"
        elif any(None in types.values() for types in settled.values()):
            problem = "it names a type that does not exist"
        if problem is not None:
            raise SnapshotError(f"{location.label} is damaged: {problem}. Remove it.")
        for path, kinds in settled.items():
            options.settled[path] = kinds
        if not all(source.rereadable for source in sources):  # a pipe now holds new rows
            return FitState(saved.statistics, Position(rows=note.rows, bytes=note.bytes))
        position = note.position
        _check_inputs(location.label, note.inputs, position, sources)
        return FitState(saved.statistics, position)

    @contextlib.contextmanager
    def open_writer(
        self, initial: Statistics, sources: Sequence[Source], options: ReadOptions
    ) -> Iterator[CheckpointWriter]:
        """Save checkpoints while a fit runs; the parameters are those of `load`.

        A checkpoint is written at the interval, on SIGUSR1, and when a signal or an error ends
        the block. In the last case the exception gets a note that names the checkpoint.

        Yields
        ------
        CheckpointWriter
            To be called with each state that the fit reaches.
        """
        # Statistics whose columns a function chooses have no identity, and need none in memory.
        identity = "" if self.location is None else _identity(initial, options)
        rows = self.interval.rows
        writer = CheckpointWriter(self.location, sources, identity, rows, options.settled)
        if self.location is None:
            yield writer
            return
        from_pipe = not all(source.rereadable for source in sources)
        with _timer(writer, self.interval.seconds):
            try:
                yield writer
            except BaseException as error:
                interrupted = not isinstance(error, Exception)
                # An error before the first checkpoint would come again at once.
                if interrupted or from_pipe or writer.has_saved:
                    with contextlib.suppress(OSError, StreamBNError):
                        if writer.save() and writer.is_resumable():
                            error.add_note(f"resume to continue from {self.location.label}")
                raise

    def remove(self) -> None:
        """Remove the checkpoint, if there is one."""
        if self.location is not None:
            self.location.remove()


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    """The note of a checkpoint; the names of the fields are part of the file format."""

    job: str
    inputs: list[str]
    files: _Count
    parts: _Count
    rows: _Count
    bytes: _Count
    within: _Count
    stamps: list[Stamp | None]
    skipped: list[Skipped]
    # Of CSV columns, by the identity of the file, if they had to be settled.
    types: dict[str, dict[str, str]] = {}

    @property
    def position(self) -> Position:
        return Position(
            self.files,
            self.parts,
            self.rows,
            self.bytes,
            self.within,
            self.stamps,
            tuple(self.skipped),
        )


def _identity(initial: Statistics, options: ReadOptions) -> str:
    return "\n".join([fingerprint(initial), *options.identity])


def _check_inputs(
    name: str, inputs: Sequence[str], position: Position, sources: Sequence[Source]
) -> None:
    now = [source.identity for source in sources]
    problem = None
    if gone := [path for path in inputs if path not in now]:
        problem = f"{original_path(gone[0])} was an input and is no longer one"
    elif new := [path for path in now if path not in inputs]:
        problem = f"{original_path(new[0])} was not an input when the job began"
    elif list(inputs) != now or position.files_begun != len(position.stamps):
        problem = "the inputs are in another order than before"
    else:
        for source, stamp in zip(sources, position.stamps, strict=False):
            if stamp is not None and source.stamp() != stamp:
                problem = f"{source.name} has changed since it was read"
                break
    if problem is not None:
        raise InvalidValueError(
            f"{problem}, so {name} cannot be resumed. Start again.", argument="resume"
        )


class CheckpointWriter:
    """Saves the last state of a fit, from any thread; made by `Checkpoint.open_writer`."""

    def __init__(
        self,
        location: Location | None,
        sources: Sequence[Source],
        identity: str,
        rows: int | None,
        settled: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._location, self._sources, self._identity = location, sources, identity
        self._interval_rows, self._settled = rows, settled
        self._lock = threading.Lock()
        self._state: FitState | None = None
        self._saved: FitState | None = None
        self._rows = 0  # at the last attempt
        self._problem: str | None = None  # of the last attempt

    @property
    def has_saved(self) -> bool:
        """Whether it wrote a checkpoint."""
        return self._saved is not None

    def reach(self, state: FitState) -> None:
        """Take a new state, and save it if the interval of rows has passed."""
        self._state = state
        rows = state.position.rows
        if self._interval_rows is not None and rows - self._rows >= self._interval_rows:
            self._rows = rows
            self.try_to_save()

    def try_to_save(self) -> None:
        """Save the last state; a failure is reported on stderr and does not end the job."""
        try:
            self.save()
            self._problem = None
        except (OSError, StreamBNError) as error:
            problem = str(getattr(error, "strerror", None) or error)
            where = "" if self._location is None else f" at {self._location.label}"
            if problem != self._problem:  # a disk that stays full would fill the log
                print(shown(f"streambn: no checkpoint{where}: {problem}"), file=sys.stderr)
            self._problem = problem

    def save(self) -> bool:
        """Save the last state, unless it is saved already; return whether there is a checkpoint."""
        with self._lock:
            state = self._state
            if self._location is not None and state is not None and self._is_worth_saving(state):
                with self._location.open_output(fsync=True) as file:
                    file.write(self._content(state))
                self._saved = state
            return self.has_saved

    def is_resumable(self) -> bool:
        """Whether no local file has changed since it was read. To ask a store takes too long."""
        position = None if self._saved is None else self._saved.position
        stamps = () if position is None else position.stamps[: position.files_begun]
        return all(
            stamp is None or source.remote or source.stamp() == stamp
            for source, stamp in zip(self._sources, stamps, strict=False)
        )

    def _is_worth_saving(self, state: FitState) -> bool:
        position = state.position
        if state is self._saved or position.rows == 0:
            return False
        # Statistics of a file that changed while it was read are of no use.
        stamp = position.stamps[position.files] if position.pieces else None
        try:
            return stamp is None or self._sources[position.files].stamp() == stamp
        except (OSError, StreamBNError):
            return False

    def _content(self, state: FitState) -> bytes:
        position = state.position
        note = _Note(
            self._identity,
            [source.identity for source in self._sources],
            position.files,
            position.pieces,
            position.rows,
            position.bytes,
            position.rows_in_file,
            list(position.stamps[: position.files_begun]),
            list(position.skipped),
            {
                path: {column: str(kind) for column, kind in types.items()}
                for path, types in self._settled.items()
            },
        )
        return encode(Snapshot(state.statistics, frozen=False, note=msgspec.to_builtins(note)))


@contextlib.contextmanager
def _timer(writer: CheckpointWriter, seconds: float | None) -> Iterator[None]:
    """Save a checkpoint at each interval and on SIGUSR1, from another thread."""
    # Not an event: a signal handler that interrupts another one would wait for its lock.
    requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
    timeout = None if seconds is None else min(seconds, _LONGEST_SECONDS)

    def run() -> None:
        running = True
        while running:
            with contextlib.suppress(queue.Empty):
                running = requests.get(timeout=timeout)
            if running:
                writer.try_to_save()

    thread = threading.Thread(target=run, name="streambn-checkpoint", daemon=True)
    before = _handle_sigusr1(lambda *_: requests.put(True))
    thread.start()
    try:
        yield
    finally:
        requests.put(False)
        thread.join()
        if before is not None:
            signal.signal(signal.SIGUSR1, before)


def _handle_sigusr1(handler: Callable[..., None]) -> Any:
    """Install a handler where the system has the signal; return the one before."""
    if hasattr(signal, "SIGUSR1") and threading.current_thread() is threading.main_thread():
        return signal.signal(signal.SIGUSR1, handler)
    return None
