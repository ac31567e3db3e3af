"""How the progress of a job is shown on stderr: as a bar, as lines in a log, or not at all."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from streambn._lazy import lazy_module
from streambn.cli.messages import plural, say
from streambn.jobs import Progress

# Importing rich takes as long as fitting a small file.
logging = lazy_module("logging")
filesize = lazy_module("rich.filesize")
progress_bar = lazy_module("streambn.cli.progress_bar")

__all__ = ["line", "show"]

_LINE_SECONDS = 60.0


def show(
    progress: Progress,
    *,
    form: str = "auto",
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> AbstractContextManager[None]:
    """Show the progress of a job on stderr while the block runs.

    Parameters
    ----------
    progress : Progress
    form : {"auto", "plain", "off"}
        auto: a bar if stderr is a terminal, else nothing. plain: a line a minute and one at the
        end of a job that does not fail. off: nothing.
    quiet : bool
        Show nothing, whatever the form, and no warnings.
    clock : callable
        Returns seconds.

    Notes
    -----
    Lines are written when something is counted: there are none while a stream stands still.
    """
    if quiet:
        return _without_warnings()
    if form == "off":
        return contextlib.nullcontext()
    if form == "plain":
        return _lines(progress, clock)
    if sys.stderr.isatty():
        bar: AbstractContextManager[None] = progress_bar.progress_bar(progress, clock)
        return bar
    return contextlib.nullcontext()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    logger = logging.getLogger("streambn")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _lines(progress: Progress, clock: Callable[[], float]) -> Iterator[None]:
    due = clock() + _LINE_SECONDS

    def update(_: Progress) -> None:
        nonlocal due
        if clock() >= due:
            due = clock() + _LINE_SECONDS
            say(line(progress))

    progress.on_change = update
    yield
    progress.on_change = None
    say(line(progress, last=True))


def line(progress: Progress, *, last: bool = False) -> str:
    """Describe the progress of a job in one line.

    The rates are recent ones. In the last line they are those of the whole run.
    """
    rates = progress.rates if last else progress.recent_rates
    parts = [f"{progress.verb} {progress.files_done:,} of {plural(progress.files, 'file')}"]
    parts.append(plural(progress.rows, "row"))
    if progress.bytes or progress.total_bytes:
        total = progress.total_bytes
        parts.append(_size(progress.bytes) + ("" if total is None else f" of {_size(total)}"))
    parts.append(f"{rates.rows:,.0f} rows/s")
    if progress.bytes or progress.total_bytes:
        parts.append(f"{_size(rates.bytes)}/s")
    if last:
        parts.append(f"in {_duration(progress.seconds)}")
    else:
        # A stream that stands still would take years, which is no forecast.
        if progress.eta is not None and progress.eta < 1e8:
            parts.append(f"ETA {_duration(progress.eta)}")
        if progress.name is not None:
            parts.append(progress.name)
    return ", ".join(parts)


def _size(count: float) -> str:
    size: str = filesize.decimal(int(count))
    return size


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
