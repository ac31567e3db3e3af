"""How far a file job has come: counted once, told to people in three ways and to programs in one.

`Progress` only counts. `progress` shows it while the job runs, and a `Report` says at the
end what was done.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import streambn as sbn

__all__ = [
    "Amount",
    "Progress",
    "Report",
    "Skipped",
    "bar_text",
    "fitted",
    "line",
    "list_skipped",
    "print_json",
    "progress",
]

# After so many seconds, what was fast or slow before counts half in the recent rates.
_HALFLIFE = 15.0
# Between two lines of a log.
_LINE_SECONDS = 60.0
_BAR_WIDTH = 20
# A file's name in fewer characters than this tells nothing.
_NAME_LEAST = 8


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
        self._skipped = Amount(0, 0)
        # Seconds, and what was done in them, discounted by their age.
        self._seconds, self._recent = 0.0, Amount(0.0, 0.0)
        self._listener: Callable[[Progress], None] | None = None

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
        self._skipped = Amount(self._skipped.rows + rows, self._skipped.bytes + bytes)
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
        if self._listener is not None:
            self._listener(self)

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
        done = Amount(self.rows - self._skipped.rows, self.bytes - self._skipped.bytes)
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


# --- in words -------------------------------------------------------------------------


def _scaled(number: float, unit: str) -> str:
    """Write a number with one digit behind the point and as large a prefix as it fills."""
    for prefix in ("", "k", "M", "G", "T"):
        if number < (999.5 if not prefix else 999.95):
            break
        number /= 1000
    else:
        number, prefix = number * 1000, "T"
    digits = f"{number:,.1f}" if prefix else f"{number:.0f}"
    # 12.3 M rows/s, but 12.3 MB/s.
    between = "" if not prefix or unit.startswith("B") else " "
    return f"{digits} {prefix}{between}{unit}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _files(counted: Progress) -> str:
    return f"{counted.files_done:,} of {counted.files:,} file{'s' * (counted.files != 1)}"


def _eta(counted: Progress) -> str | None:
    eta = counted.eta
    # A stream that stands still would take years; that is no forecast.
    return None if eta is None or not math.isfinite(eta) or eta > 1e8 else f"ETA {_duration(eta)}"


def line(counted: Progress, *, last: bool = False) -> str:
    """Say in one line how far a job is, or at its end how far it came.

    The rates are those of late; at the end, those of the whole run.
    """
    rates = counted.rates if last else counted.recent_rates
    parts: list[str | None] = [f"streambn: {counted.verb} {_files(counted)}"]
    parts += [f"{counted.rows:,} rows"]
    done = _scaled(counted.bytes, "B") if counted.bytes or counted.total_bytes else None
    if done is not None and counted.total_bytes is not None:
        done += f" of {_scaled(counted.total_bytes, 'B')}"
    parts += [done, _scaled(rates.rows, "rows/s")]
    parts += [None if done is None else _scaled(rates.bytes, "B/s")]
    parts += [f"in {_duration(counted.seconds)}"] if last else [_eta(counted), counted.name]
    return ", ".join(part for part in parts if part)


def bar_text(counted: Progress, width: int, *, plain: bool = False) -> str:
    """Say beside a bar how far a job is, in no more than so many characters.

    Parameters
    ----------
    counted : Progress
    width : int
        What does not fit is left out: the file's name first, which is shortened before.
    plain : bool
        Only ASCII.
    """
    rates = counted.recent_rates
    # What is worth the least stands last.
    parts = [
        _files(counted),
        _eta(counted),
        _scaled(rates.rows, "rows/s"),
        _scaled(rates.bytes, "B/s") if counted.bytes else None,
    ]
    told = ""
    for part in filter(None, parts):
        longer = f"{told}  {part}" if told else part
        if len(longer) > width:
            return told
        told = longer
    room = width - len(told) - 2
    if counted.name is None or room < min(_NAME_LEAST, len(counted.name)):
        return told
    return f"{told}  {_shortened(counted.name, room, '...' if plain else '…')}"


def _shortened(name: str, width: int, mark: str) -> str:
    """Cut a path's beginning off, which many files share."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= width else mark + name[len(name) - width + len(mark) :]


# --- while it runs --------------------------------------------------------------------


@contextlib.contextmanager
def progress(
    verb: str,
    files: int,
    total_bytes: int | None = None,
    *,
    form: str = "auto",
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Count, and show it on stderr while it goes on.

    Parameters
    ----------
    verb, files, total_bytes, clock
        As for `Progress`.
    form : {"auto", "plain", "off"}
        auto: a bar if stderr is a terminal, else nothing. plain: one line a minute, the first
        after a minute, and one at the end, if the job did not fail. off: nothing.
    quiet : bool
        Nothing, whatever the form.

    Notes
    -----
    Lines are written when something is counted: while a stream stands still there are none.
    A bar moves on by itself, and its rates sink.
    """
    counted = Progress(verb, files, total_bytes, clock=clock)
    if quiet or form == "off":
        yield counted
    elif form == "plain":
        counted._listener = _Lines(clock)
        yield counted
        counted._listener = None
        _print_line(line(counted, last=True))
    elif sys.stderr.isatty():
        with _bar(counted):
            yield counted
    else:
        yield counted


class _Lines:
    """Writes a line when a minute has passed since the last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due = clock() + _LINE_SECONDS

    def __call__(self, counted: Progress) -> None:
        now = self._clock()
        if now >= self._due:
            self._due = now + _LINE_SECONDS
            _print_line(line(counted))


def _print_line(text: str) -> None:
    print("".join(c if c.isprintable() else "?" for c in text), file=sys.stderr, flush=True)


def _bar(counted: Progress) -> Any:
    """Make a bar that reads the counts whenever it is drawn: counting waits for nothing."""
    from rich.console import Console  # noqa: PLC0415  (slow to import, and only for people)
    from rich.progress import BarColumn, ProgressColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True)
    plain = not console.encoding.lower().startswith("utf")

    class Told(ProgressColumn):  # type: ignore[misc, unused-ignore]
        def render(self, task: Any) -> Text:
            fraction = counted.fraction
            if fraction is None and counted.files > 1:
                fraction = min(counted.files_done / counted.files, 1.0)
            # Of one file of unknown length nobody knows how far it is, so the bar pulses.
            task.total, task.completed = (None, 0) if fraction is None else (1.0, fraction)
            width = console.width - _BAR_WIDTH - len(counted.verb) - 3
            return Text(bar_text(counted, width, plain=plain), no_wrap=True, overflow="crop")

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(_BAR_WIDTH),
        Told(),
        console=console,
        transient=True,
        redirect_stdout=False,  # which may be a pipe that carries the result
        redirect_stderr=False,
    )
    bar.add_task(counted.verb, total=None)
    return bar


# --- at the end -----------------------------------------------------------------------


class Skipped(NamedTuple):
    """A part of an input that was damaged and left out: which file, where in it, and why."""

    file: str
    where: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a job did, for programs.

    Attributes
    ----------
    command : str
    rows, bytes, files : int
        What was read, an earlier run's included if this one went on from it.
    seconds : float
        This run's.
    fingerprint : str or None
        Of the statistics.
    output : str
        ``"-"``: standard output.
    skipped : sequence of Skipped
    resumed : bool
        Whether this run went on from an earlier one.
    """

    command: str
    rows: int
    bytes: int
    seconds: float
    files: int
    fingerprint: str | None
    output: str
    skipped: Sequence[Skipped] = ()
    resumed: bool = False

    def to_json(self) -> str:
        """Give one line of JSON, in ASCII."""
        document = {
            "command": self.command,
            "rows": self.rows,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "files": self.files,
            "fingerprint": self.fingerprint,
            "output": self.output,
            "skipped": [skipped._asdict() for skipped in self.skipped],
            "resumed": self.resumed,
        }
        return json.dumps(document, allow_nan=False)


def print_json(report: Report) -> None:
    """Print a report's line on stdout, or on stderr if the output goes to stdout."""
    print(report.to_json(), file=sys.stderr if report.output == "-" else sys.stdout, flush=True)


def list_skipped(skipped: Sequence[Skipped]) -> None:
    """Say on stderr what was left out, a line each."""
    for file, where, why in skipped:
        _print_line(f"streambn: skipped {file}{f', {where}' if where else ''}: {why}")


def fitted(normalizer: sbn.Normalizer, rows: int, path: str) -> None:
    """Say on stderr what a fit did."""
    lanes = len(normalizer.lanes)
    print(
        f"streambn: {rows:,} rows, statistics of {lanes:,} column{'s' * (lanes != 1)} in {path}",
        file=sys.stderr,
    )
