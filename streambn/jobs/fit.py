"""Fitting over files: read ahead on several threads, learned in the order of the inputs.

Decoding goes on while the kernels reduce what was decoded before, across files and
row groups. What is learned comes in one order, that of the inputs and of what is in them,
so the result does not depend on the threads.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streambn.arrow import row_columns
from streambn.errors import SchemaError, StreamBNError
from streambn.io import Stamp
from streambn.io import sources as files
from streambn.io.formats import after_row
from streambn.io.prefetch import prefetch
from streambn.io.readers import Piece
from streambn.io.sources import Source
from streambn.jobs.checkpoint import Place, Reached
from streambn.jobs.inputs import ReadOptions, check_unchanged, left_out, located
from streambn.jobs.progress import Progress
from streambn.statistics import Statistics

__all__ = ["Learn", "fit_files"]

# Decoded batches that wait to be learned.
_ROOM = 48 << 20

Learn = Callable[[Statistics, Any], Statistics]


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a source; or a source without any, or which could not be opened."""

    index: int
    source: Source
    stamp: Stamp | None
    piece: Piece | None = None
    number: int = 0
    ends: bool = True
    error: StreamBNError | OSError | None = None

    @property
    def apart(self) -> bool:
        return self.piece is None or self.piece.independent

    @property
    def size(self) -> int:
        """Its bytes in the file, as far as known."""
        if self.piece is None or self.stamp is None:
            return 0
        return round(self.piece.fraction * self.stamp.size)


def fit_files(
    reached: Reached,
    sources: Sequence[Source],
    names: Sequence[str] | None,
    how: ReadOptions,
    progress: Progress,
    tell: Callable[[Reached], None] = lambda _: None,
    learn: Learn = Statistics.learn,
) -> Reached:
    """Learn from files.

    Parameters
    ----------
    reached : Reached
        Statistics to go on from, and which part of the sources is in them.
    sources : sequence of Source
    names : sequence of str or None
        Columns to learn; None: every numeric one.
    how : ReadOptions
    progress : Progress
        Is told how it goes.
    tell : callable
        Is told of each place from which the job could be gone on.
    learn : callable
        Gives the statistics with one more batch in them.

    Returns
    -------
    Reached
        With all in it.

    Raises
    ------
    StreamBNError, OSError
        Something cannot be read or learned; the message says where.
    """
    start = reached.place
    run = _Run(reached, how, progress, tell, learn)
    under_way = prefetch(
        _parts(sources, start, functools.partial(_open, reached.statistics, names, how)),
        lambda part: _batches(part, start),
        # A pipe is read here and now: what comes slowly is learned when it comes, and a
        # thread that hangs in a read could not be ended.
        workers=how.threads if all(source.rereadable for source in sources) else 1,
        capacity=_ROOM,
        size=lambda batch: int(batch.nbytes),
    )
    with contextlib.closing(under_way):
        for part, batches in under_way:
            run.take(part, batches)
    return run.reached


class _Run:
    """Learns one part after the other, and knows how far it is."""

    def __init__(
        self,
        reached: Reached,
        how: ReadOptions,
        progress: Progress,
        tell: Callable[[Reached], None],
        learn: Learn,
    ) -> None:
        self.reached = reached
        self._statistics, self._start = reached
        self._how, self._progress, self._tell, self._learn = how, progress, tell, learn
        self._stamps, self._skipped = list(self._start.stamps), list(self._start.skipped)
        self._unfit = -1  # the source that has other columns
        done, rows = self._start.files, self._start.rows - self._start.within
        progress.skip_done(files=done, rows=rows, bytes=self._size_of(done))

    def take(self, part: _Part, batches: Iterator[Any]) -> None:
        """Learn a part; what cannot be, is left out if that is allowed."""
        if self._progress.name is None:
            self._begin(part)
        fitted, rows = self._statistics, self._progress.rows
        try:
            if part.index != self._unfit:
                self._learn_all(part, batches)
        except (StreamBNError, OSError) as error:
            if not self._how.skipping:
                raise
            if part.apart:  # then it is left out whole
                self._statistics = fitted
                self._progress.add(rows - self._progress.rows)
            self._leave_out(part, error)
        if part.apart:
            self._progress.add(0, part.size)
        if part.ends:
            check_unchanged(part.source, part.stamp)
            self._progress.end_file()
            self._reach(part.index + 1, 0)
        elif part.apart:
            self._reach(part.index, part.number + 1)

    def _begin(self, part: _Part) -> None:
        self._progress.start_file(part.source.name, part.stamp and part.stamp.size)
        if len(self._stamps) == part.index:
            self._stamps.append(part.stamp)
        else:  # it was begun by an earlier run
            size = self._start.bytes - self._size_of(part.index)
            self._progress.skip_done(rows=self._start.within, bytes=size)

    def _learn_all(self, part: _Part, batches: Iterator[Any]) -> None:
        for number, batch in enumerate(batches, part.number + 1):
            with located(part.source.name, after_row(self._progress.in_file)):
                self._statistics = self._learn(self._statistics, batch)
            self._progress.add(batch.num_rows, 0 if part.apart else int(batch.nbytes))
            if not part.apart:
                self._reach(part.index, number)

    def _leave_out(self, part: _Part, error: Exception) -> None:
        where = part.piece.where if part.piece is not None else ""
        where = where or after_row(self._progress.in_file)
        if isinstance(error, SchemaError):  # so it is in all pieces, and told once
            self._unfit, where = part.index, ""
        entry = left_out(part.source.name, where, error)
        if self._skipped[-1:] != [entry]:  # nor told again by the run that goes on
            self._skipped.append(entry)

    def _reach(self, files_done: int, parts: int) -> None:
        counted = self._progress
        within = counted.in_file if parts else 0
        skipped = tuple(self._skipped)
        place = Place(files_done, parts, counted.rows, counted.bytes, within, self._stamps, skipped)
        self.reached = Reached(self._statistics, place)
        self._tell(self.reached)

    def _size_of(self, files_done: int) -> int:
        return sum(stamp.size for stamp in self._stamps[:files_done] if stamp is not None)


def _open(fitted: Statistics, names: Sequence[str] | None, how: ReadOptions, source: Source) -> Any:
    """Open a source, so that no columns are read but those that can be needed."""
    others = row_columns(fitted.options.weights, fitted.policy.event_time)
    select = functools.partial(
        files.columns_to_fit, names=names, row_columns=others, keys=source.keys
    )
    keys = [*(names or ()), *others]
    return files.open_source(source, keys=keys, select_columns=select, csv_types=how.csv_types)


def _parts(
    sources: Sequence[Source], start: Place, opened: Callable[[Source], Any]
) -> Iterator[_Part]:
    for index, source in enumerate(sources[start.files :], start.files):
        stamp = None
        try:
            stamp = source.stamp() if source.rereadable else None
            pieces = opened(source).pieces
        except (StreamBNError, OSError) as error:
            yield _Part(index, source, stamp, error=error)
            continue
        done = start.parts if index == start.files else 0
        todo = [(n, p) for n, p in enumerate(pieces) if n >= done or not p.independent]
        if not todo:
            yield _Part(index, source, stamp)
        for number, piece in todo:
            begun = done if not piece.independent else number
            yield _Part(index, source, stamp, piece, begun, ends=piece is pieces[-1])


def _batches(part: _Part, start: Place) -> Iterator[Any]:
    if part.error is not None:
        raise part.error
    if part.piece is None:
        return
    # A piece that cannot be read apart is read from its beginning; what is known is skipped.
    known = 0 if part.piece.independent else part.number
    for number, batch in enumerate(part.piece.read()):
        if number >= known:
            yield batch
