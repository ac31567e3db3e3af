"""A fit on an executor: workers learn shares of the inputs, and the job merges what they learned.

A share is one or more slices of inputs. A worker opens an input, and learns the pieces of its
slice as a job without workers would: the same columns, the same batches. It returns a state for
each batch, because merging batch by batch is what learning does; `Exact`, whose bits depend on
nothing, needs one state for a piece only. The job merges the states in the order of the inputs.

Whatever a worker could not learn, the job reads and learns itself. So damage, other columns and
bad values have the effect and the message that they have in a job without workers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from streambn.arrow import Binding, SchemaCache
from streambn.errors import InvalidValueError, SchemaError, StreamBNError
from streambn.io import InferenceError, Joined, Piece, Source, Stamp
from streambn.jobs.executors import Executor, group, map_in_order, share_bytes
from streambn.jobs.plan import ReadOptions
from streambn.jobs.stamps import read_stamps
from streambn.jobs.tasks import Task, open_needed, tasks_of
from streambn.policies import BatchEMA, Policy
from streambn.snapshot import can_hold, from_bytes, to_bytes
from streambn.statistics import Statistics

__all__ = ["LearnedPiece", "check_policy", "learn_shares"]

# Opens a source; returns it and its whole schema.
_Open = Callable[[Source], Any]


class LearnedPiece(NamedTuple):
    """What a worker learned of a piece.

    Attributes
    ----------
    number, where, fraction, independent, is_last
        Of the `Task` and its `Piece`.
    rows, size : int
        Rows, and bytes in memory, of its batches.
    states : sequence of bytes
        The statistics of the batches that have rows, each alone, or all of them merged if the
        policy is exact.
    error : Exception or None
        Why the piece was not learned.
    binding : Binding or None
        The columns that the job expected before anything was learned; None: it expected none.
    """

    number: int = 0
    where: str = ""
    fraction: float = 0.0
    independent: bool = True
    is_last: bool = True
    rows: int = 0
    size: int = 0
    states: Sequence[bytes] = ()
    error: StreamBNError | OSError | None = None
    binding: Binding | None = None

    def check_columns(self, statistics: Statistics, bound: Statistics, schema: Any) -> None:
        """Check that the worker learned the columns that the job learns.

        Parameters
        ----------
        statistics : Statistics
            The statistics before the piece.
        bound : Statistics
            The same, bound to the columns of the source.
        schema : pyarrow.Schema
            Of the source.

        Raises
        ------
        SchemaError
            They are others.
        """
        binding = bound.require_binding()
        if statistics.binding is None and self.binding not in (None, binding):
            raise SchemaError("the first input has other columns than the first one with rows")
        binding.resolve(schema)

    def merge_into(self, statistics: Statistics) -> Statistics:
        """Return statistics followed by those of the piece."""
        for state in self.states:
            statistics = statistics.merge(from_bytes(state).statistics)
        return statistics


def check_policy(policy: Policy) -> None:
    """Refuse a policy whose states cannot be learned apart and merged.

    Raises
    ------
    InvalidValueError
        It counts rows from the beginning of the first input, or no file can hold it.
    """
    if isinstance(policy, BatchEMA) and policy.batch_rows is not None:
        raise InvalidValueError(
            f"batch_rows={policy.batch_rows} divides the rows of all inputs, counted from the "
            "first one, so workers cannot learn parts of them. Omit batch_rows, or fit on one "
            "machine.",
            argument="batch_rows",
        )
    if not can_hold(policy):
        raise InvalidValueError(
            f"{policy!r:.60} is not one of streambn's own policies, so its states cannot be sent. "
            "Choose one of those, or fit on one machine.",
            argument="policy",
        )


def learn_shares(
    executor: Executor,
    statistics: Statistics,
    sources: Sequence[Source],
    first: int,
    done: int,
    options: ReadOptions,
) -> Generator[tuple[Task, LearnedPiece | Iterator[Joined]], None, None]:
    """Let an executor learn inputs, and yield the tasks that these consist of, in order.

    Parameters
    ----------
    executor : Executor
    statistics : Statistics
        What was learned before. They tell the columns to learn.
    sources : sequence of Source
    first : int
        The index of the first source to learn.
    done : int
        Pieces of that source that are learned; batches, if its pieces depend on each other.
    options : ReadOptions
        It takes the types that workers settle.

    Yields
    ------
    (task, learned)
        What a worker learned of a task, or the batches of one that no worker can learn. `task.read`
        reads it on this machine.
    """
    open_one = functools.partial(open_needed, statistics, options, SchemaCache())
    stamps = read_stamps(sources[first:])
    work = _Work(statistics, _bind_empty(statistics, sources[first:], open_one), options)
    slices = _divide(sources, first, done, stamps)
    learn = functools.partial(_learn_share, work)
    unusable = -1  # index of a source that cannot be opened
    with contextlib.closing(map_in_order(executor, learn, slices)) as learned_shares:
        for share, results in learned_shares:
            for piece, result in zip(share, results, strict=True):
                if piece.place == unusable:
                    continue
                if result.settled is not None:
                    options.settled[piece.source.identity] = result.settled
                stamp = stamps[piece.place - first]
                for task, learned in _learned_tasks(piece, stamp, result, work, open_one):
                    if task.error is not None:
                        unusable = piece.place
                    yield task, learned


def _learned_tasks(
    piece: _Slice, stamp: Stamp | None, result: _LearnedSlice, work: _Work, open_one: _Open
) -> Iterator[tuple[Task, LearnedPiece | Iterator[Joined]]]:
    """Yield the tasks of a slice, each with what a worker learned of it."""
    if stamp is None or result.error is not None:  # tell here why it cannot be opened
        for task in piece.tasks(open_one):
            if stamp is None:
                yield task, _delayed(task, work.empty.policy)
            else:
                yield task, LearnedPiece(error=result.error)
        return
    if result.empty:
        yield Task(piece.place, piece.source, stamp, result.schema), LearnedPiece()
    for learned in result.pieces:
        read = functools.partial(piece.read, open_one, learned.number)
        part = Piece(learned.where, read, learned.fraction, learned.independent)
        own = (result.schema, part, learned.number, learned.is_last)
        task = Task(piece.place, piece.source, stamp, *own)
        yield task, learned._replace(binding=work.empty.binding)


def _delayed(task: Task, policy: Policy) -> Iterator[Joined]:
    yield from task.read(policy)


def _bind_empty(statistics: Statistics, sources: Sequence[Source], open_one: _Open) -> Statistics:
    """Return empty statistics for workers, bound to the columns that the job is or will be.

    If these cannot be known, each worker binds them to its own columns, and the job refuses to
    merge what does not fit.
    """
    union = statistics.options.schema == "union"
    policy, binding = statistics.policy, statistics.binding
    if binding is not None and not union:
        return replace(statistics, state=policy.init(binding.width), left_out=())
    empty = Statistics(policy, statistics.options, statistics.columns, exclude=statistics.exclude)
    if union or not sources:
        return empty
    try:
        _, schema = open_one(sources[0])
        return replace(empty.bind(schema), left_out=())
    except (StreamBNError, OSError):
        return empty


# --- shares ---------------------------------------------------------------------------


class _Slice(NamedTuple):
    """Some pieces of a source: the k-th of n parts of them, without those that are done."""

    place: int  # of the source among the inputs
    source: Source
    k: int
    n: int
    done: int

    def tasks(self, open_one: _Open) -> list[Task]:
        """Open the source, and return the tasks of the slice; one of no piece if there is none."""
        tasks = list(tasks_of(self.source, self.place, self.done, open_one))
        if tasks[0].piece is None:
            return tasks if tasks[0].error is not None or self.k == self.n - 1 else []
        if not tasks[0].independent:
            return tasks if self.k == self.n - 1 else []
        total = tasks[-1].number + 1
        start, stop = total * self.k // self.n, total * (self.k + 1) // self.n
        return [task for task in tasks if start <= task.number < stop]

    def read(self, open_one: _Open, number: int) -> Iterator[Any]:
        """Read a piece by the number of its task."""
        for task in self.tasks(open_one):
            if task.error is not None:
                raise task.error
            if task.number == number and task.piece is not None:
                return task.piece.read()
        return iter(())  # the file has changed, and the job is about to notice it


def _divide(
    sources: Sequence[Source], first: int, done: int, stamps: Sequence[Stamp | None]
) -> list[list[_Slice]]:
    """Divide sources into shares."""
    sizes = [0 if stamp is None else stamp.size for stamp in stamps]
    most = share_bytes(sum(sizes))

    def slices() -> Iterator[tuple[_Slice, int]]:
        for index, size in enumerate(sizes, first):
            n = max(round(size / most), 1)
            for k in range(n):
                yield _Slice(index, sources[index], k, n, done if index == first else 0), size // n

    return group(slices(), most)


# --- on a worker ----------------------------------------------------------------------


class _Work(NamedTuple):
    """What all shares have in common.

    Attributes
    ----------
    opening : Statistics
        They tell the columns to read.
    empty : Statistics
        They learn.
    options : ReadOptions
    """

    opening: Statistics
    empty: Statistics
    options: ReadOptions


class _LearnedSlice(NamedTuple):
    """What a worker learned of a slice.

    Attributes
    ----------
    schema : pyarrow.Schema or None
        Of the whole source.
    pieces : sequence of LearnedPiece
    empty : bool
        Whether the slice is the last one of a source without pieces.
    settled : mapping or None
        Types of CSV columns that all values fit, if they had to be settled.
    error : Exception or None
        Why the source could not be opened.
    """

    schema: Any = None
    pieces: Sequence[LearnedPiece] = ()
    empty: bool = False
    settled: Mapping[str, Any] | None = None
    error: StreamBNError | OSError | None = None


def _learn_share(work: _Work, share: Sequence[_Slice]) -> list[_LearnedSlice]:
    """Learn a share, on a worker."""
    options = work.options._replace(threads=1, settled={**work.options.settled})
    open_one = functools.partial(open_needed, work.opening, options, SchemaCache())
    return [_learn_slice(work.empty, piece, options, open_one) for piece in share]


def _learn_slice(
    empty: Statistics, piece: _Slice, options: ReadOptions, open_one: _Open
) -> _LearnedSlice:
    try:
        return _learn_tasks(empty, piece.tasks(open_one))
    except InferenceError as error:
        if piece.done:  # what was learned before has other types
            return _LearnedSlice(error=error)
    try:
        options.settle([piece.source])
        learned = _learn_tasks(empty, piece.tasks(open_one))
    except (StreamBNError, OSError) as error:
        return _LearnedSlice(error=error)
    return learned._replace(settled=options.settled[piece.source.identity])


def _learn_tasks(empty: Statistics, tasks: Sequence[Task]) -> _LearnedSlice:
    if not tasks:
        return _LearnedSlice()
    first = tasks[0]
    if first.error is not None:
        return _LearnedSlice(error=first.error)
    if first.piece is None:
        return _LearnedSlice(first.schema, empty=True)
    return _LearnedSlice(first.schema, [_learn_task(empty, task) for task in tasks])


def _learn_task(empty: Statistics, task: Task) -> LearnedPiece:
    """Learn a piece; an `InferenceError` is for the caller."""
    piece = task.piece
    assert piece is not None
    policy = empty.policy
    rows = size = 0
    states: list[bytes] = []
    merged: Statistics | None = None
    base = LearnedPiece(task.number, piece.where, piece.fraction, piece.independent, task.is_last)
    try:
        for joined in task.read(policy):
            if joined.damaged is not None:
                return base._replace(error=joined.damaged.error)
            batch = joined.batch
            rows += batch.num_rows
            size += int(batch.nbytes)
            if batch.num_rows:
                if merged is None or not policy.exact:
                    merged = empty.bind(task.schema, batch)
                merged = merged.learn(batch)
                if not policy.exact:
                    states.append(_encode(merged))
            del joined, batch  # releases it before the next one is read
        if policy.exact and merged is not None:
            states.append(_encode(merged))
    except InferenceError:
        raise
    except (StreamBNError, OSError) as error:
        return base._replace(error=error)
    return base._replace(rows=rows, size=size, states=states)


def _encode(statistics: Statistics) -> bytes:
    # The job knows itself which columns are left out.
    return to_bytes(replace(statistics, left_out=()), frozen=False)
