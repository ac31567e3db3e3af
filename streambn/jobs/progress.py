"""How far a job has come: files, rows, bytes, rates and the time that is left.

`Progress` only counts. A `Display` shows it while a job runs; the command line has several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

__all__ = ["Amount", "Display", "Progress"]

# After so many seconds, what was fast or slow before counts half in the recent rates.
_HALFLIFE = 15.0


class Amount(NamedTuple):
    """Rows and bytes that were done, or that are done in a second."""

    rows: float
    bytes: float


class Progress:
    """Counts files, bytes and rows, and says how fast they go and how long it will take.

    Fed by one thread; others may read.

    Parameters
    ----------
    verb : str
        What is being done, such as "fitting".
    files : int
        How many there are in all.
    total_bytes : int, optional
        What they hold together; None: nobody knows, as of a pipe.
    clock : callable
        Gives seconds since some moment.

    Attributes
    ----------
    verb : str
    files, total_bytes
        As given.
    files_done : int
        Files that were ended.
    rows : int
        Rows of all files.
    in_file : int
        Rows of the file under way, or of the last one.
    name : str or None
        The file under way.
    skipped : Amount
        Rows and bytes of an earlier run, which are in no rate.
    on_change : callable or None
        Called with this object each time that something is counted.

    Notes
    -----
    The bytes of a file are those that it takes where it is stored. Whoever reads it may know
    them only roughly: of a file of known size, no more than its size is counted, and at its
    end exactly that.
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
        self._clock = clock
        self._began = self._last = clock()
        self._bytes = self._bytes_in_file = 0  # of files that were ended; of the one under way
        self._size: int | None = None
        self.skipped = Amount(0, 0)
        # Seconds, and what was done in them, discounted by their age.
        self._seconds, self._recent = 0.0, Amount(0.0, 0.0)
        self.on_change: Callable[[Progress], None] | None = None

    # ---------------------------------------------------------------------- counting

    def start_file(self, name: str, size: int | None = None) -> None:
        """Begin a file; one that was not ended is."""
        if self.name is not None:
            self.end_file()
        self.name, self._size = name, size
        self.in_file = self._bytes_in_file = 0
        self._tell()

    def add(self, rows: int, bytes: int = 0) -> None:  # noqa: A002 - what else to call them
        """Count rows, and the bytes that they take in the file under way."""
        self.rows += rows
        self.in_file += rows
        self._count(rows, self._read(bytes))

    def end_file(self) -> None:
        """Count the file under way as done."""
        if self.name is None:
            return
        # What the reader had not told of yet.
        rest = 0 if self._size is None else max(self._size - self._bytes_in_file, 0)
        self._bytes += self._bytes_in_file + rest
        self.name, self._size, self._bytes_in_file = None, None, 0
        self.files_done += 1
        self._count(0, rest)

    def skip_done(self, files: int = 0, bytes: int = 0, rows: int = 0) -> None:  # noqa: A002
        """Count what an earlier run did, which says nothing of how fast this one is.

        Parameters
        ----------
        files, bytes : int
            Between two files: files that are done. In a file: the part of it that is.
        rows : int
            In either.
        """
        self.files_done += files
        self.rows += rows
        if self.name is None:
            self._bytes += bytes
        else:
            bytes = self._read(bytes)  # noqa: A001
            self.in_file += rows
        self.skipped = Amount(self.skipped.rows + rows, self.skipped.bytes + bytes)
        self._tell()

    def _read(self, count: int) -> int:
        """Count bytes of the file under way, but no more than it has; return how many."""
        if self._size is not None:
            count = min(count, max(self._size - self._bytes_in_file, 0))
        self._bytes_in_file += count
        return count

    def _count(self, rows: int, count: int) -> None:
        now = self._clock()
        self._seconds, self._recent = self._aged(now)
        self._recent = Amount(self._recent.rows + rows, self._recent.bytes + count)
        self._last = now
        self._tell()

    def _aged(self, now: float) -> tuple[float, Amount]:
        passed = now - self._last
        kept = 0.5 ** (passed / _HALFLIFE)
        recent = self._recent
        return self._seconds * kept + passed, Amount(recent.rows * kept, recent.bytes * kept)

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change(self)

    # ----------------------------------------------------------------------- reading

    @property
    def bytes(self) -> int:
        """Bytes done, an earlier run's included."""
        return self._bytes + self._bytes_in_file

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return self._clock() - self._began

    @property
    def rates(self) -> Amount:
        """Rows and bytes a second, over the whole run."""
        done = Amount(self.rows - self.skipped.rows, self.bytes - self.skipped.bytes)
        return _a_second(done, self.seconds)

    @property
    def recent_rates(self) -> Amount:
        """Rows and bytes a second of late: half of it is of the last quarter of a minute."""
        seconds, recent = self._aged(self._clock())
        return _a_second(recent, seconds)

    @property
    def fraction(self) -> float | None:
        """The part that is done, from 0 to 1, by bytes; None: nobody knows."""
        if self.total_bytes is None:
            return None
        return min(self.bytes / self.total_bytes, 1.0) if self.total_bytes else 1.0

    @property
    def eta(self) -> float | None:
        """Seconds that the rest will take, as fast as it goes of late; None: nobody knows."""
        if self.total_bytes is None:
            return None
        rest = max(self.total_bytes - self.bytes, 0)
        rate = self.recent_rates.bytes
        if not rest:
            return 0.0
        return rest / rate if rate > 0 else None


def _a_second(done: Amount, seconds: float) -> Amount:
    if seconds <= 0:
        return Amount(0.0, 0.0)
    return Amount(done.rows / seconds, done.bytes / seconds)


# Shows the progress of a job while the context that it returns is open.
Display = Callable[[Progress], AbstractContextManager[object]]
