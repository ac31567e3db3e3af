"""Learning from files: what a fit does between its start and its end.

Threads read and decode ahead while this thread learns, across files and row groups. Batches are
learned in the order of the inputs, so the result does not depend on the threads.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.arrow import LeftOut, SchemaCache
from streambn.errors import SchemaError, StreamBNError
from streambn.io import (
    InferenceError,
    Joined,
    Piece,
    Source,
    Stamp,
    after_row,
    join_none,
    join_small,
    located,
    prefetch,
)
from streambn.jobs.hints import number_hints
from streambn.jobs.plan import ReadOptions
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.policies import Policy
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
    while True:
        try:
            tasks = _read_all(learner.state, sources, options, workers)
            with contextlib.closing(tasks):
                for task, batches in tasks:
                    learner.take(task, batches)
                return _with_hints(learner.end(), sources, options)
        except InferenceError:
            options.settle([sources[learner.state.position.files]])
            if not learner.begin_file_again():
                raise


def _read_all(
    start: FitState, sources: Sequence[Source], options: ReadOptions, workers: int
) -> Generator[tuple[_Task, Iterator[Joined]], None, None]:
    """Read what follows a state, ahead of the consumer."""
    open_one = functools.partial(_open, start.statistics, options, SchemaCache())
    return prefetch(
        _tasks(sources, start.position, open_one),
        lambda task: task.read(start.statistics.policy),
        workers=workers,
        capacity=_BUFFER_BYTES,
        size=lambda joined: joined.nbytes,
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """A piece of a source to learn, or a source that has none or that cannot be opened.

    `number` is that of the first piece, or the first batch of a dependent piece, to learn.
    `schema` is that of the whole source, of which only some columns may be read.
    """

    index: int
    source: Source
    stamp: Stamp | None
    schema: Any = None
    piece: Piece | None = None
    number: int = 0
    is_last: bool = True
    error: StreamBNError | OSError | None = None

    @property
    def independent(self) -> bool:
        """Whether the rest of the source can be read without it."""
        return self.piece is None or self.piece.independent

    @property
    def size(self) -> int:
        """Bytes that it takes in the file; 0 if they are unknown."""
        if self.piece is None or self.stamp is None:
            return 0
        return round(self.piece.fraction * self.stamp.size)

    def read(self, policy: Policy) -> Iterator[Joined]:
        """Read the batches that are not learned yet, small ones joined where nothing forbids it."""
        if self.error is not None:
            raise self.error
        if self.piece is None:
            return iter(())
        # A dependent piece is read from its beginning, up to the batches to learn.
        learned = 0 if self.piece.independent else self.number
        batches = itertools.islice(self.piece.read(), learned, None)
        ready = self.piece.ready
        # Which batches of a pipe are joined depends on their arrival, and so may rounding.
        if policy.depends_on_batches or not (ready is None or policy.exact):
            return join_none(batches)
        return join_small(batches, ready)


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
        # Indices of the files with a column that the first one lacks, by the column.
        self._later: dict[str, set[int]] = {}
        files, rows = self._start.files, self._start.rows - self._start.rows_in_file
        progress.skip(files=files, rows=rows, bytes=self._size_of(files))

    def take(self, task: _Task, batches: Iterator[Any]) -> None:
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

    def _start_file(self, task: _Task) -> None:
        self._progress.start_file(task.source.name, task.stamp and task.stamp.size)
        if len(self._stamps) == task.index:
            self._stamps.append(task.stamp)
        else:  # an earlier run began it
            size = self._start.bytes - self._size_of(task.index)
            self._progress.skip(rows=self._start.rows_in_file, bytes=size)

    def _learn(self, task: _Task, batches: Iterator[Joined]) -> None:
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

    def _learned(self, task: _Task, batch: Any) -> Statistics:
        with located(task.source.name, after_row(self._progress.in_file)):
            if batch.num_rows:
                self._bind(task, batch)
            return self._statistics.learn(batch)

    def _accept(self, task: _Task, number: int, batch: Any, learned: Statistics) -> None:
        self._statistics = learned
        self._progress.add(batch.num_rows, 0 if task.independent else int(batch.nbytes))
        if not task.independent:
            self._reach(task.index, number)

    def _bind(self, task: _Task, batch: Any) -> None:
        """Bind the statistics to the columns of a source, of which a batch has the needed ones."""
        if task.schema is None or task.index == self._bound_to:
            return
        self._bound_to = task.index
        before = self._statistics
        self._statistics = before.bind(task.schema, batch)
        if before.binding is not None:
            for column in before.other_columns(task.schema):
                self._later.setdefault(column, set()).add(task.index)

    def _skip(self, task: _Task, error: Exception) -> None:
        where = task.piece.where if task.piece is not None else ""
        where = where or after_row(self._progress.in_file)
        if isinstance(error, SchemaError):  # concerns the whole file
            self._mismatch, where = task.index, ""
        self._record(task, where, error)

    def _record(self, task: _Task, where: str, error: Exception) -> None:
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


def _open(
    statistics: Statistics, options: ReadOptions, cache: SchemaCache, source: Source
) -> tuple[Any, Any]:
    """Open a source to read the columns that may be needed; return it and its whole schema."""
    whole: list[Any] = []

    def select(schema: Any) -> list[str] | None:
        own = schema.names
        for name in wanted:
            if name in source.keys and name not in own:
                schema = schema.append(pa.field(name, source.keys[name].type))
        whole.append(schema)
        try:  # most files have the same columns
            needed = cache.get(
                schema, None, lambda: {*statistics.bind(schema).columns_to_read(schema)}
            )
        except SchemaError:
            return None  # learning reports it, with its place
        if not needed.issubset(schema.names):
            return None  # so that the error can name the nearest column
        return [name for name in own if name in needed] or None

    wanted = statistics.named_columns
    opened = options.open(source, keys=wanted, select_columns=select)
    return opened, whole[0] if whole else opened.schema


def _tasks(
    sources: Sequence[Source], start: Position, open_one: Callable[[Source], Any]
) -> Iterator[_Task]:
    for index, source in enumerate(sources[start.files :], start.files):
        stamp = None
        try:
            stamp = source.stamp() if source.rereadable else None
            opened, schema = open_one(source)
        except (StreamBNError, OSError) as error:
            yield _Task(index, source, stamp, error=error)
            continue
        done = start.pieces if index == start.files else 0
        pieces = opened.pieces
        rest = [(n, p) for n, p in enumerate(pieces) if n >= done or not p.independent]
        if not rest:
            yield _Task(index, source, stamp, schema)
        for number, piece in rest:
            first = number if piece.independent else done
            yield _Task(index, source, stamp, schema, piece, first, is_last=piece is pieces[-1])
