"""Learning from files: what a fit does between its start and its end.

Threads read and decode ahead while this thread learns, across files and row groups. Batches are
learned in the order of the inputs, so the result does not depend on the threads. With an executor,
its workers read and learn, and this thread merges what they learned in the same order.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from streambn.arrow import LeftOut, SchemaCache
from streambn.errors import SchemaError, StreamBNError
from streambn.io import InferenceError, Joined, Source, Stamp, after_row, located, prefetch
from streambn.jobs.executors import Executor
from streambn.jobs.hints import number_hints
from streambn.jobs.plan import ReadOptions
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.jobs.shares import LearnedPiece, learn_shares
from streambn.jobs.tasks import Task, open_needed, tasks_of
from streambn.statistics import Statistics

__all__ = ["FitState", "Position", "fit_files"]

# Decoded bytes that may wait to be learned. With 16 MB, threads that read large row groups wait.
_BUFFER_BYTES = 48 << 20


class Position(NamedTuple):
    """How far a fit has read its inputs.

    Attributes
    ----------
    files : int
        Inputs that were read completely.
    pieces : int
        Pieces of the next input that were read; batches, if its pieces depend on each other.
    rows, bytes : int
        Rows and bytes of all of these.
    rows_in_file : int
        Rows of the input that was read in part.
    stamps : sequence of Stamp or None
        Stamp of each input from before it was read; None for a pipe. The list may have more
        elements, which appear while the fit goes on.
    skipped : tuple of Skipped
        Damaged parts that were left out.
    """

    files: int = 0
    pieces: int = 0
    rows: int = 0
    bytes: int = 0
    rows_in_file: int = 0
    stamps: Sequence[Stamp | None] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def files_begun(self) -> int:
        """Inputs that were read completely or in part."""
        return self.files + (self.pieces > 0)


class FitState(NamedTuple):
    """Statistics, and the position up to which they include the inputs."""

    statistics: Statistics
    position: Position


def fit_files(
    start: FitState,
    sources: Sequence[Source],
    options: ReadOptions,
    progress: Progress,
    on_state: Callable[[FitState], None] = lambda _: None,
    executor: Executor | None = None,
) -> FitState:
    """Learn from files.

    Parameters
    ----------
    start : FitState
        The state to continue from.
    sources : sequence of Source
    options : ReadOptions
    progress : Progress
    on_state : callable
        Called with each state that a later run could continue from.
    executor : Executor, optional
        Its workers read and learn. Default: this process.

    Returns
    -------
    FitState
        The state after all sources.

    Raises
    ------
    InferenceError
        The types of the source that the start is in the middle of are other than those that an
        earlier run learned. They are settled now. Learn from the beginning.
    StreamBNError, OSError
        A source cannot be read or learned. The message names it.
    """
    learner = _Learner(start, options, progress, on_state)
    # A pipe is read in this thread: a thread that is blocked in a read cannot be stopped.
    rereadable = all(source.rereadable for source in sources)
    workers = options.threads_for(len(sources), progress.total_bytes) if rereadable else 1
    was_repeated = False
    while True:
        if executor is None:
            tasks = _read_all(learner.state, sources, options, workers)
        else:
            tasks = _share_all(learner.state, sources, options, executor)
        try:
            with contextlib.closing(tasks):
                if learner.take_all(tasks, may_repeat=not was_repeated):
                    return _with_hints(learner.end(), sources, options)
                was_repeated = True
        except InferenceError:
            options.settle([sources[learner.state.position.files]])
            if not learner.begin_file_again():
                raise


_Tasks = Generator[tuple[Task, LearnedPiece | Iterator[Joined]], None, None]


def _read_all(
    start: FitState, sources: Sequence[Source], options: ReadOptions, workers: int
) -> _Tasks:
    """Read what follows a state, ahead of the consumer."""
    open_one = functools.partial(open_needed, start.statistics, options, SchemaCache())
    first, done = start.position.files, start.position.pieces
    tasks = (
        tasks_of(source, index, done if index == first else 0, open_one)
        for index, source in enumerate(sources[first:], first)
    )
    yield from prefetch(
        itertools.chain.from_iterable(tasks),
        lambda task: task.read(start.statistics.policy),
        workers=workers,
        capacity=_BUFFER_BYTES,
        size=lambda joined: joined.nbytes,
    )


def _share_all(
    start: FitState, sources: Sequence[Source], options: ReadOptions, executor: Executor
) -> _Tasks:
    """Let an executor learn what follows a state."""
    first, done = start.position.files, start.position.pieces
    return learn_shares(executor, start.statistics, sources, first, done, options)


class _Learner:
    """Learns one task after the other, and keeps the state."""

    def __init__(
        self,
        start: FitState,
        options: ReadOptions,
        progress: Progress,
        on_state: Callable[[FitState], None],
    ) -> None:
        self.state = start
        self._statistics, self._start = start
        self._options, self._progress, self._on_state = options, progress, on_state
        self._stamps, self._skipped = list(self._start.stamps), list(self._start.skipped)
        self._mismatch = -1  # index of the source whose columns do not match
        # The state before the current file; None: an earlier run began it.
        self._before_file = start if not start.position.pieces else None
        self._bound_to = -1  # index of the source whose columns were looked at last
        # Why a worker could not learn the last task, which was learned here.
        self._worker_error: Exception | None = None
        # Indices of the files with a column that the first one lacks, by the column.
        self._later: dict[str, set[int]] = {}
        files, rows = self._start.files, self._start.rows - self._start.rows_in_file
        progress.skip(files=files, rows=rows, bytes=self._size_of(files))

    def take_all(self, tasks: _Tasks, *, may_repeat: bool) -> bool:
        """Learn tasks; return whether these were all.

        Workers bind the statistics to columns before the first task is learned. If those turn out
        to be others, a task that a worker could not learn is learned here, and workers begin again
        with the next one. If that happens again at once, the columns are not the reason.

        Raises
        ------
        StreamBNError
            A worker could not learn what was learned here, and it may not be repeated.
        """
        for task, learned in tasks:
            self._worker_error = None
            self.take(task, learned)
            if self._worker_error is not None:
                if may_repeat:
                    return False
                raise StreamBNError(
                    f"a worker could not learn it, and this machine can: {self._worker_error}. "
                    "Workers need the same paths to the inputs and the same packages.",
                    source=task.source.name,
                ) from self._worker_error
            may_repeat = True
        return True

    def take(self, task: Task, batches: LearnedPiece | Iterator[Joined]) -> None:
        """Learn a task, or skip it if it is damaged."""
        if self._progress.name is None:
            self._start_file(task)
        before, rows = self._statistics, self._progress.rows
        try:
            if task.index != self._mismatch:
                self._learn(task, batches)
        except InferenceError:
            raise
        except (StreamBNError, OSError) as error:
            if not self._options.skip_damaged:
                raise
            if task.independent:  # skip all of it
                self._statistics = before
                self._progress.add(rows - self._progress.rows)
            self._skip(task, error)
        if task.independent:
            self._progress.add(0, task.size)
        if task.is_last:
            task.source.check_unchanged(task.stamp)
            self._progress.end_file()
            self._reach(task.index + 1, 0)
            self._before_file = self.state
        elif task.independent:
            self._reach(task.index, task.number + 1)

    def begin_file_again(self) -> bool:
        """Return to the state before the current file, unless an earlier run began it."""
        if self._before_file is None:
            return False
        self.state = self._before_file
        self._statistics, position = self.state
        self._stamps, self._skipped = list(position.stamps[: position.files]), [*position.skipped]
        self._bound_to = -1
        self._progress.begin_file_again()
        return True

    def end(self) -> FitState:
        """Return the state after all tasks, which tells the columns that were left out."""
        statistics = self.state.statistics.leave_out(
            LeftOut(column, f"only in {_later_files(len(files))}; --union-by-name includes it")
            for column, files in self._later.items()
        )
        return self.state._replace(statistics=statistics)

    def _start_file(self, task: Task) -> None:
        self._progress.start_file(task.source.name, task.stamp and task.stamp.size)
        if len(self._stamps) == task.index:
            self._stamps.append(task.stamp)
        else:  # an earlier run began it
            size = self._start.bytes - self._size_of(task.index)
            self._progress.skip(rows=self._start.rows_in_file, bytes=size)

    def _learn(self, task: Task, batches: LearnedPiece | Iterator[Joined]) -> None:
        if isinstance(batches, LearnedPiece):
            error = batches.error or self._merge(task, batches)
            if error is not None:  # what went wrong is told as if there were no workers
                self._learn(task, task.read(self._statistics.policy))
                self._worker_error = error
            return
        number = task.number
        for joined in batches:
            if joined.damaged is not None:
                number += 1
                self._record(task, joined.damaged.where, joined.damaged.error)
                self._reach(task.index, number)
                continue
            count = len(joined.cuts)
            try:
                learned = self._learned(task, joined.batch)
            except StreamBNError:
                if count == 1:
                    raise
                # One of the joined batches is at fault. Those before it are learned.
                for batch in joined.parts():
                    number += 1
                    self._accept(task, number, batch, self._learned(task, batch))
            else:
                number += count
                self._accept(task, number, joined.batch, learned)

    def _merge(self, task: Task, learned: LearnedPiece) -> StreamBNError | None:
        """Merge what a worker learned; return why that is impossible, if it is."""
        before = self._statistics
        try:
            if learned.rows:
                self._bind(task, None)
                learned.check_columns(before, self._statistics, task.schema)
            self._statistics = learned.merge_into(self._statistics)
        except StreamBNError as error:
            self._statistics, self._bound_to = before, -1
            return error
        self._progress.add(learned.rows, 0 if task.independent else learned.size)
        return None

    def _learned(self, task: Task, batch: Any) -> Statistics:
        with located(task.source.name, after_row(self._progress.in_file)):
            if batch.num_rows:
                self._bind(task, batch)
            return self._statistics.learn(batch)

    def _accept(self, task: Task, number: int, batch: Any, learned: Statistics) -> None:
        self._statistics = learned
        self._progress.add(batch.num_rows, 0 if task.independent else int(batch.nbytes))
        if not task.independent:
            self._reach(task.index, number)

    def _bind(self, task: Task, batch: Any) -> None:
        """Bind the statistics to the columns of a source, of which a batch has the needed ones."""
        if task.schema is None or task.index == self._bound_to:
            return
        self._bound_to = task.index
        before = self._statistics
        self._statistics = before.bind(task.schema, batch)
        if before.binding is not None:
            for column in before.other_columns(task.schema):
                self._later.setdefault(column, set()).add(task.index)

    def _skip(self, task: Task, error: Exception) -> None:
        where = task.piece.where if task.piece is not None else ""
        where = where or after_row(self._progress.in_file)
        if isinstance(error, SchemaError):  # concerns the whole file
            self._mismatch, where = task.index, ""
        self._record(task, where, error)

    def _record(self, task: Task, where: str, error: Exception) -> None:
        entry = Skipped.of(task.source.name, where, error)
        if self._skipped[-1:] != [entry]:  # an earlier run may have recorded it
            self._skipped.append(entry)

    def _reach(self, files: int, pieces: int) -> None:
        progress = self._progress
        rows_in_file = progress.in_file if pieces else 0
        position = Position(
            files,
            pieces,
            progress.rows,
            progress.bytes,
            rows_in_file,
            self._stamps,
            tuple(self._skipped),
        )
        self.state = FitState(self._statistics, position)
        self._on_state(self.state)

    def _size_of(self, files: int) -> int:
        return sum(stamp.size for stamp in self._stamps[:files] if stamp is not None)


def _with_hints(end: FitState, sources: Sequence[Source], options: ReadOptions) -> FitState:
    """Say of each text column that is left out how it can be read as numbers, if it can."""
    left_out = end.statistics.left_out
    if not sources or not any(each.reason == "string" for each in left_out):
        return end
    hints = number_hints(sources[0], options)
    said = tuple(
        each._replace(reason=f"{each.reason}; {hints[each.column]}")
        if each.reason == "string" and each.column in hints
        else each
        for each in left_out
    )
    return end._replace(statistics=replace(end.statistics, left_out=said))


def _later_files(count: int) -> str:
    return f"{count:,} later file{'s' * (count > 1)}"
