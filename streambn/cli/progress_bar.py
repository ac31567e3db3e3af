"""Progress of a job on stderr: a bar on a terminal, or lines in a log."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import streambn as sbn
from streambn.jobs.progress import Progress
from streambn.jobs.report import Report, Skipped

__all__ = ["bar_text", "fitted", "line", "list_skipped", "print_json", "show"]

# Between two lines of a log.
_LINE_SECONDS = 60.0
_BAR_WIDTH = 20
# A file's name in fewer characters than this tells nothing.
_NAME_LEAST = 8

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
def show(
    counted: Progress,
    *,
    form: str = "auto",
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Show the progress of a job on stderr while it runs.

    Parameters
    ----------
    counted : Progress
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
    if quiet or form == "off":
        yield
    elif form == "plain":
        counted.on_change = _Lines(clock)
        yield
        counted.on_change = None
        _print_line(line(counted, last=True))
    elif sys.stderr.isatty():
        with _bar(counted):
            yield
    else:
        yield


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


# --- at the end ---------


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
