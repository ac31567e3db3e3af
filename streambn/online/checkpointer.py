"""Checkpoints of a loop over a stream: statistics, and how far into the stream they reach."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

from streambn._lazy import lazy_module
from streambn.errors import InvalidValueError, SnapshotError, StreamBNError
from streambn.normalizer import FrozenNormalizer, Normalizer
from streambn.policies import nanoseconds
from streambn.statistics import Statistics
from streambn.stored import load

asyncio = lazy_module("asyncio")
io = lazy_module("streambn.io")
snapshot = lazy_module("streambn.snapshot")

__all__ = ["Checkpointer"]

# Ten years. The system cannot wait for much longer.
_LONGEST_SECONDS = 3e8


class _Commit(NamedTuple):
    """What one checkpoint holds."""

    statistics: Statistics
    metadata: dict[str, Any]
    rows: int


class Checkpointer:
    """Keeps statistics and their place in a stream in one file, while a loop goes on.

    Parameters
    ----------
    path : str or path object
        The file, which need not exist. A string may also be a URL, such as
        ``"s3://bucket/stats.json"``.
    every : str, timedelta or int
        How often to write the file: a duration, such as ``"30s"`` or ``"1min"``, or a number of
        rows that were learned since the last write.

    Raises
    ------
    InvalidValueError
        `every` is neither a positive duration nor a number of rows.
    StreamBNError
        Another checkpointer, in this process or in another one, holds the file.
    OSError
        The file cannot be written there.

    Notes
    -----
    A thread writes the file when a write is due, also while the loop waits for data. It writes the
    newest commit, never an older one after a newer one, and each file whole: a process that is
    killed leaves the last file that was written. The statistics and the metadata in a file belong
    together, so a loop that resumes learns each row once.

    From its creation to `close`, a checkpointer holds a lock of the system, which ends with the
    process. Locks hold between processes of one machine, and between machines whose shared file
    system has locks. Object stores have none: there, see to it that one process writes.

    Examples
    --------
    >>> import os, tempfile
    >>> import pyarrow as pa
    >>> import streambn as sbn
    >>> path = os.path.join(tempfile.mkdtemp(), "stats.json")
    >>> stream = [pa.record_batch({"x": x}) for x in ([1.0, 2.0], [3.0], [6.0, 8.0])]
    >>> for end in (2, 3):  # the loop ends after two batches, and later goes on
    ...     with sbn.Checkpointer(path, every="30s") as checkpoint:
    ...         norm, place = checkpoint.resume(sbn.Normalizer())
    ...         for number in range(place.get("next", 0), end):
    ...             norm.update(stream[number])
    ...             checkpoint.commit(norm, {"next": number + 1})
    Normalizer(Welford()) of 1 feature
      x  n=2  mean=1.5  std=0.5
    Normalizer(Welford()) of 1 feature
      x  n=3  mean=2  std=0.8164966
    Normalizer(Welford()) of 1 feature
      x  n=5  mean=4  std=2.607681
    >>> sbn.load(path).metadata
    {'next': 3}
    """

    def __init__(
        self, path: str | os.PathLike[str], *, every: str | timedelta | int = "30s"
    ) -> None:
        self._seconds, self._rows = _interval(every)
        self._path, self._location = path, io.locate(path)
        self._label = self._location.label
        self._location.check_writable()
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(io.lock(self._location))
        io.remove_leftovers(self._location)
        # The condition guards what follows, and tells the thread about a change of it.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._newest: _Commit | None = None
        self._written: _Commit | None = None
        self._error: BaseException | None = None  # of the last write
        self._due = time.monotonic() + self._seconds
        self._due_rows = self._rows
        self._closed = False

    def resume(self, normalizer: Normalizer) -> tuple[Normalizer, dict[str, Any]]:
        """Return the normalizer to go on with, and the metadata that were committed with it.

        Parameters
        ----------
        normalizer : Normalizer
            What to begin with if there is no file yet.

        Returns
        -------
        normalizer : Normalizer
            The one in the file; the argument itself if there is no file.
        metadata : dict
            Those beside it; {} if there are none.

        Raises
        ------
        InvalidValueError
            The policy, the options or the columns in the file are others than those of
            `normalizer`, or one of the two is frozen.
        SnapshotError
            The file is damaged, foreign or from a newer version of streambn, or a file cannot hold
            the policy of `normalizer`.
        OSError
            The file cannot be read.
        """
        self._check_open()
        ours = _statistics_of(normalizer, "resume")
        if not snapshot.can_hold(ours.policy):
            raise SnapshotError(
                f"a file cannot hold statistics of {ours.policy!r}, only those of streambn's own "
                "policies.",
                argument="normalizer",
            )
        saved = load(self._path) if self._location.exists() else normalizer
        if isinstance(saved, FrozenNormalizer):
            raise InvalidValueError(
                f"{self._label} holds frozen statistics, which learn no more. Choose another "
                "path=; to go on from these, pass streambn.load(path).thaw() to resume.",
                argument="path",
            )
        self._check_same(ours, saved.statistics)
        rows = self._count(saved.statistics)
        with self._changed:
            self._due_rows = self._rows + rows
            if saved is not normalizer and self._newest is None:
                self._newest = self._written = _Commit(saved.statistics, saved.metadata, rows)
        return saved, saved.metadata

    def commit(self, normalizer: Normalizer, metadata: Mapping[str, Any] | None = None) -> None:
        """Take the statistics as they are now, and write them when a write is due.

        It does not wait for a write, so an event loop may call it. Commit as often as there is a
        place to go on from, such as after each batch.

        Parameters
        ----------
        normalizer : Normalizer
        metadata : dict, optional
            Data of JSON types, such as the offsets up to which rows were learned. Default: those
            of the normalizer, see `Normalizer.metadata`.

        Raises
        ------
        InvalidValueError
            The normalizer is frozen, or a value in `metadata` is not of a JSON type. Nothing is
            committed.
        OSError, StreamBNError
            The last write failed. The file did not change. This commit is kept, and is written
            when the next write is due, or by `close`.
        """
        self._check_open()
        statistics = _statistics_of(normalizer, "commit")
        metadata = normalizer.metadata if metadata is None else snapshot.check_metadata(metadata)
        commit = _Commit(statistics, metadata, self._count(statistics))
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="streambn-checkpointer", daemon=True
                )
                self._thread.start()
            newest = self._newest
            # A loop without new data commits the same again, which need not be written.
            if newest is None or newest.statistics is not statistics or newest[1:] != commit[1:]:
                self._newest = commit
                if newest is self._written or commit.rows >= self._due_rows:
                    self._changed.notify()
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Write the last commit, unless the file holds it already, and release the file.

        The end of a ``with`` block calls it, also when an exception ends the block: statistics and
        place of the last commit belong together whatever came after.

        Raises
        ------
        OSError, StreamBNError
            The last commit cannot be written. The file did not change.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify()
        with self._lock:
            if self._thread is not None:
                self._thread.join()
            if self._newest is not None and self._newest is not self._written:
                self._write(self._newest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except (OSError, StreamBNError) as problem:
            if error is None:
                raise
            error.add_note(f"the last commit is not in {self._label}: {problem}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: Any) -> None:
        # The last write may take long, and other tasks of the event loop go on meanwhile.
        await asyncio.to_thread(self.__exit__, *raised)

    def _run(self) -> None:
        """Write commits when they are due, until `close`."""
        while (commit := self._wait_for_one()) is not None:
            error: BaseException | None = None
            try:
                self._write(commit)
            except BaseException as raised:  # the next commit raises it
                error = raised
            with self._changed:
                self._error = error
                if error is None:
                    self._written = commit
                self._due = time.monotonic() + self._seconds
                self._due_rows = commit.rows + self._rows

    def _wait_for_one(self) -> _Commit | None:
        """Wait until a commit is due and return it; return None at the end."""
        with self._changed:
            while not self._closed:
                commit, wait = self._newest, None
                if commit is not None and commit is not self._written:
                    wait = self._due - time.monotonic()
                    if wait <= 0 or commit.rows >= self._due_rows:
                        return commit
                self._changed.wait(None if wait is None else min(wait, _LONGEST_SECONDS))
        return None

    def _write(self, commit: _Commit) -> None:
        Normalizer.from_statistics(commit.statistics).save(self._path, metadata=commit.metadata)

    def _count(self, statistics: Statistics) -> int:
        """Return the number of rows that were learned; 0 if it does not matter."""
        if self._rows == math.inf or not statistics.features:
            return 0
        tally = statistics.tally
        # Each row is in one of four counts of a feature.
        return int((tally.count + tally.nulls + tally.nans + tally.infs).max())

    def _check_open(self) -> None:
        if self._closed:
            raise StreamBNError(
                f"the checkpointer of {self._label} is closed. Use it inside its with block."
            )

    def _check_same(self, ours: Statistics, saved: Statistics) -> None:
        """Raise an InvalidValueError unless the file has the hyperparameters of the argument."""
        names = ["policy", "options", "exclude"]
        if not callable(ours.columns):  # a file holds the names that a function chose
            names.append("columns")
        for name in names:
            mine, theirs = getattr(ours, name), getattr(saved, name)
            if mine != theirs:
                raise InvalidValueError(
                    f"the {name} of the statistics in {self._label} and of the normalizer differ: "
                    f"{theirs!r} and {mine!r}. Choose another path=, or the same {name}.",
                    argument=name,
                )


def _interval(every: Any) -> tuple[float, float]:
    """Return the seconds and the rows between two writes; infinity if they do not matter."""
    if isinstance(every, numbers.Integral) and not isinstance(every, bool) and int(every) > 0:
        return math.inf, int(every)
    length = nanoseconds(every)
    if length is None or length <= 0:
        raise InvalidValueError(
            "every must be a duration above 0, such as '30s' or '5min', or a number of rows, got "
            f"{every!r}.",
            argument="every",
        )
    return length / 1e9, math.inf


def _statistics_of(normalizer: object, method: str) -> Statistics:
    if isinstance(normalizer, Normalizer):
        return normalizer.statistics
    kind = type(normalizer).__name__
    convert = {"FrozenNormalizer": "thaw", "RowNormalizer": "to_normalizer"}.get(kind)
    remedy = "" if convert is None else f" Call {convert}() on it."
    raise InvalidValueError(
        f"{method} takes a Normalizer, got {kind}.{remedy}", argument="normalizer"
    )
