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

from streambn import files
from streambn.ahead import ahead
from streambn.checkpoints import Place, Reached
from streambn.errors import SchemaError, StreamBNError
from streambn.files import Source
from streambn.fitted import Fitted
from streambn.inputs import Reading, after, check_unchanged, left_out, located
from streambn.locations import Stamp
from streambn.policies import event_time_of
from streambn.progress import Progress
from streambn.reading import Piece
from streambn.weighing import beside

__all__ = ["Learn", "fit_files"]

# Decoded batches that wait to be learned.
_ROOM = 48 << 20

Learn = Callable[[Fitted, Any], Fitted]


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
        return self.piece is None or self.piece.apart


def fit_files(
    reached: Reached,
    sources: Sequence[Source],
    names: Sequence[str] | None,
    how: Reading,
    progress: Progress,
    tell: Callable[[Reached], None] = lambda _: None,
    learn: Learn = Fitted.learned,
) -> Reached:
    """Learn from files.

    Parameters
    ----------
    reached : Reached
        Statistics to go on from, and which part of the sources is in them.
    sources : sequence of Source
    names : sequence of str or None
        Columns to learn; None: every numeric one.
    how : Reading
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
    fitted, start = reached
    stamps, skipped = list(start.stamps), list(start.skipped)
    _count_done(progress, start)

    def reach(files_done: int, parts: int) -> Reached:
        place = Place(
            files_done,
            parts,
            progress.rows,
            progress.bytes,
            progress.in_file if parts else 0,
            stamps,
            tuple(skipped),
        )
        now = Reached(fitted, place)
        tell(now)
        return now

    last, unfit = reached, -1
    under_way = ahead(
        _parts(sources, start, functools.partial(_open, fitted, names, how)),
        lambda part: _batches(part, start),
        # A pipe is read here and now: what comes slowly is learned when it comes, and a
        # thread that hangs in a read could not be ended.
        workers=how.threads if all(source.rereadable for source in sources) else 1,
        room=_ROOM,
        size=lambda batch: int(batch.nbytes),
    )
    with contextlib.closing(under_way):
        for part, batches in under_way:
            source, stamp, number = part.source, part.stamp, part.number
            if progress.name is None:
                progress.start_file(source.name, stamp and stamp.size)
                if len(stamps) == part.index:
                    stamps.append(stamp)
                else:  # what an earlier run did of this file
                    done = sum(s.size for s in stamps[: part.index] if s is not None)
                    progress.skip_done(rows=start.within, bytes=start.bytes - done)
            fitted_before, rows_before = fitted, progress.rows
            try:
                for batch in batches if part.index != unfit else ():
                    with located(source.name, after(progress.in_file)):
                        fitted = learn(fitted, batch)
                    progress.add(batch.num_rows, 0 if part.apart else int(batch.nbytes))
                    if not part.apart:
                        number += 1
                        last = reach(part.index, number)
            except (StreamBNError, OSError) as error:
                if not how.skipping:
                    raise
                if part.apart:
                    fitted = fitted_before
                    progress.add(rows_before - progress.rows)
                where = part.piece.where if part.piece is not None else ""
                where = where or after(progress.in_file)
                if isinstance(error, SchemaError):  # so it is in all pieces, and told once
                    unfit, where = part.index, ""
                entry = left_out(source.name, where, error)
                if skipped[-1:] != [entry]:  # nor told again by the run that goes on
                    skipped.append(entry)
            if part.apart and part.piece is not None and stamp is not None:
                progress.add(0, round(part.piece.share * stamp.size))
            if part.ends:
                check_unchanged(source, stamp)
                progress.end_file()
                last = reach(part.index + 1, 0)
            elif part.apart:
                last = reach(part.index, number + 1)
    return last


def _count_done(progress: Progress, start: Place) -> None:
    size = sum(stamp.size for stamp in start.stamps[: start.files] if stamp is not None)
    progress.skip_done(files=start.files, rows=start.rows - start.within, bytes=size)


def _open(fitted: Fitted, names: Sequence[str] | None, how: Reading, source: Source) -> Any:
    """Open a source, so that no columns are read but those that can be needed."""
    others = beside(fitted.options.weights, event_time_of(fitted.policy))
    choose = functools.partial(files.fitting_columns, names=names, beside=others, keys=source.keys)
    keys = [*(names or ()), *others]
    return files.open_source(source, keys=keys, choose=choose, csv_types=how.csv_types)


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
        todo = [(n, p) for n, p in enumerate(pieces) if n >= done or not p.apart]
        if not todo:
            yield _Part(index, source, stamp)
        for number, piece in todo:
            begun = done if not piece.apart else number
            yield _Part(index, source, stamp, piece, begun, ends=piece is pieces[-1])


def _batches(part: _Part, start: Place) -> Iterator[Any]:
    if part.error is not None:
        raise part.error
    if part.piece is None:
        return
    # A piece that cannot be read apart is read from its beginning; what is known is skipped.
    known = 0 if part.piece.apart else part.number
    for number, batch in enumerate(part.piece.read()):
        if number >= known:
            yield batch
