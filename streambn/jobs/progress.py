"""Progress of a job: files, rows, bytes, rates and the time that remains.

`Progress` only counts. A `Display` shows it while a job runs; the command line has several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

__all__ = ["Amount", "Display", "Progress"]

# Half-life of the recent rates, in seconds.
_HALFLIFE = 15.0


class Amount(NamedTuple):
    """Rows and bytes, or rows and bytes per second."""

    rows: float
    bytes: float


class Progress:
    """Counts files, bytes and rows, and computes rates and the remaining time.

    One thread counts. Other threads may read.

    Parameters
    ----------
    verb : str
        The kind of work, such as "fitting".
    files : int
        Number of all files.
    total_bytes : int, optional
        Size of all files; None if it is unknown, as that of a pipe.
    clock : callable
        Returns seconds.

    Attributes
    ----------
    verb, files, total_bytes
        As given.
    files_done : int
    rows : int
        Rows of all files.
    in_file : int
        Rows of the current file, or of the last one.
    name : str or None
        Name of the current file.
    skipped : Amount
        Rows and bytes of an earlier run, which count in no rate.
    on_change : callable or None
        Called with this object after each count.

    Notes
    -----
    Bytes are those of the files on disk, which a reader may know only roughly. For a file of
    known size, the count never exceeds the size, and reaches it at the end of the file.
    """

    def __init__(
        self,
        verb: str,
        files: int,
        total_bytes: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.verb, self.files, self.total_bytes = verb, files, total_bytes
        self.files_done = self.rows = self.in_file = 0
        self.name: str | None = None
        self.skipped = Amount(0, 0)
        self.on_change: Callable[[Progress], None] | None = None
        self._clock = clock
        self._start = self._last = clock()
        self._bytes = 0  # of the files before the current one
        self._bytes_in_file = 0
        self._size: int | None = None
        # Seconds and counts that decay with their age.
        self._recent_seconds, self._recent = 0.0, Amount(0.0, 0.0)

    # ---------------------------------------------------------------------- counting

    def start_file(self, name: str, size: int | None = None) -> None:
        """Start a file, and end the one before it."""
        self.end_file()
        self.name, self._size = name, size
        self.in_file = self._bytes_in_file = 0
        self._notify()

    def add(self, rows: int, bytes: int = 0) -> None:  # noqa: A002
        """Count rows, and the bytes that they take in the current file."""
        self.rows += rows
        self.in_file += rows
        self._count(rows, self._add_bytes(bytes))

    def end_file(self) -> None:
        """End the current file, if there is one."""
        if self.name is None:
            return
        rest = 0 if self._size is None else max(self._size - self._bytes_in_file, 0)
        self._bytes += self._bytes_in_file + rest
        self.name, self._size, self._bytes_in_file = None, None, 0
        self.files_done += 1
        self._count(0, rest)

    def begin_file_again(self) -> None:
        """Take back the counts of the current file, which will be started once more."""
        rows, count = self.in_file, self._bytes_in_file
        self.rows -= rows
        self.name, self._size = None, None
        self.in_file = self._bytes_in_file = 0
        self._count(-rows, -count)

    def begin_again(self) -> None:
        """Take back all counts."""
        self.begin_file_again()
        self.files_done = self.rows = self._bytes = 0
        self.skipped = Amount(0, 0)

    def skip(self, files: int = 0, bytes: int = 0, rows: int = 0) -> None:  # noqa: A002
        """Count the work of an earlier run.

        Parameters
        ----------
        files, bytes, rows : int
            Complete files if there is no current file, else a part of the current file.
        """
        self.files_done += files
        self.rows += rows
        if self.name is None:
            self._bytes += bytes
        else:
            bytes = self._add_bytes(bytes)  # noqa: A001
            self.in_file += rows
        self.skipped = Amount(self.skipped.rows + rows, self.skipped.bytes + bytes)
        self._notify()

    def _add_bytes(self, count: int) -> int:
        """Count bytes of the current file up to its size; return how many."""
        if self._size is not None:
            count = min(count, max(self._size - self._bytes_in_file, 0))
        self._bytes_in_file += count
        return count

    def _count(self, rows: int, count: int) -> None:
        now = self._clock()
        self._recent_seconds, recent = self._decayed(now)
        self._recent = Amount(recent.rows + rows, recent.bytes + count)
        self._last = now
        self._notify()

    def _decayed(self, now: float) -> tuple[float, Amount]:
        passed = max(now - self._last, 0.0)  # whatever the clock does
        kept = 0.5 ** (passed / _HALFLIFE)
        recent = Amount(self._recent.rows * kept, self._recent.bytes * kept)
        return self._recent_seconds * kept + passed, recent

    def _notify(self) -> None:
        if self.on_change is not None:
            self.on_change(self)

    # ----------------------------------------------------------------------- reading

    @property
    def bytes(self) -> int:
        """Bytes that were read, by an earlier run too."""
        return self._bytes + self._bytes_in_file

    @property
    def seconds(self) -> float:
        """Seconds since this run began."""
        return self._clock() - self._start

    @property
    def rates(self) -> Amount:
        """Rows and bytes per second of this run."""
        done = Amount(self.rows - self.skipped.rows, self.bytes - self.skipped.bytes)
        return _per_second(done, self.seconds)

    @property
    def recent_rates(self) -> Amount:
        """Rows and bytes per second, averaged with a half-life of 15 seconds."""
        seconds, recent = self._decayed(self._clock())
        return _per_second(recent, seconds)

    @property
    def fraction(self) -> float | None:
        """The fraction of all bytes that were read; None if their number is unknown."""
        if self.total_bytes is None:
            return None
        return min(self.bytes / self.total_bytes, 1.0) if self.total_bytes else 1.0

    @property
    def eta(self) -> float | None:
        """Remaining seconds at the recent rate; None if they are unknown."""
        if self.total_bytes is None:
            return None
        rest = max(self.total_bytes - self.bytes, 0)
        rate = self.recent_rates.bytes
        if not rest:
            return 0.0
        return rest / rate if rate > 0 else None


def _per_second(done: Amount, seconds: float) -> Amount:
    if seconds <= 0:
        return Amount(0.0, 0.0)
    return Amount(done.rows / seconds, done.bytes / seconds)


# Shows the progress of a job while the context that it returns is open.
Display = Callable[[Progress], AbstractContextManager[object]]
