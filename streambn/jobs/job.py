"""File jobs as the commands run them: safe to stop, and told of while they run.

How files are learned from is for `streambn.jobs.fit`; here that meets checkpoints and
progress. Jobs that write data are in `streambn.jobs.folder`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from streambn.errors import InvalidValueError, NotFittedError
from streambn.io import Location
from streambn.io.sources import Source
from streambn.jobs import checkpoint as checkpoints
from streambn.jobs.checkpoint import Interval, Keeper, Place, Reached
from streambn.jobs.fit import Learn, fit_files
from streambn.jobs.inputs import ReadOptions
from streambn.jobs.progress import Display, Progress
from streambn.jobs.report import Skipped
from streambn.statistics import Statistics

__all__ = [
    "Checkpointing",
    "Done",
    "Fit",
    "check_resumable",
    "done",
    "fit_job",
    "total_size",
    "use_threads",
]


class Done(NamedTuple):
    """What a job did: counts, and what was left out."""

    rows: int
    bytes: int
    seconds: float
    files: int
    skipped: Sequence[Skipped]
    resumed: bool


def use_threads(count: int) -> None:
    """Let Arrow and the kernels use so many threads."""
    import pyarrow as pa  # noqa: PLC0415

    from streambn import kernels  # noqa: PLC0415

    pa.set_cpu_count(count)
    kernels.set_threads(count)


class Checkpointing(NamedTuple):
    """How a fit is kept from being lost.

    Attributes
    ----------
    location : Location or None
        Of the checkpoint. None: there is none.
    interval : Interval
        How often it is written.
    options : list of str
        What the result depends on, besides the inputs and the statistics begun with.
    resume : bool
        Whether to go on from a checkpoint that is there.
    """

    location: Location | None
    interval: Interval
    options: list[str]
    resume: bool


class Fit(NamedTuple):
    """A fit that has come to its end.

    Attributes
    ----------
    statistics : Statistics
        The statistics.
    done : Done
    keeper : Keeper
        Of the checkpoint, as long as what follows from the fit is not safe.
    """

    statistics: Statistics
    done: Done
    keeper: Keeper


@contextlib.contextmanager
def fit_job(
    begun: Statistics,
    sources: Sequence[Source],
    names: Sequence[str] | None,
    how: ReadOptions,
    display: Display,
    checkpointing: Checkpointing,
    learn: Learn = Statistics.learn,
) -> Iterator[Fit]:
    """Learn from files, and keep a checkpoint until the block has ended.

    Parameters
    ----------
    begun : Statistics
        Statistics to begin with.
    sources, names, how, learn
        As for `streambn.jobs.fit.fit_files`.
    display : Display
    checkpointing : Checkpointing

    Yields
    ------
    Fit

    Raises
    ------
    NotFittedError
        All that there was had to be skipped.
    """
    location, interval, options, resume = checkpointing
    start = None
    if resume and location is not None:
        start = checkpoints.read(location, sources, begun, options)
    start = start or Reached(begun, Place())
    with checkpoints.keeping(location, sources, begun, options, interval) as keeper:
        counted = Progress("fitting", len(sources), total_size(sources))
        with display(counted):
            end = fit_files(start, sources, names, how, counted, keeper.reach, learn)
        keeper.reach(end)
        if end.place.skipped and end.statistics.binding is None:
            raise NotFittedError("nothing is left to learn: all inputs were skipped")
        resumed = start.place.rows > 0
        skipped = end.place.skipped
        yield Fit(end.statistics, done(counted, len(sources), skipped, resumed=resumed), keeper)


def done(counted: Progress, files: int, skipped: Sequence[Skipped], *, resumed: bool) -> Done:
    """Say what a job did, when it has ended."""
    return Done(counted.rows, counted.bytes, counted.seconds, files, skipped, resumed)


def total_size(sources: Sequence[Source]) -> int | None:
    """Add up the sizes of files; None: one is a pipe, or far away, where asking takes long."""
    if any(source.remote or not source.rereadable for source in sources):
        return None
    with contextlib.suppress(OSError):
        return sum(source.stamp().size for source in sources)
    return None


def check_resumable(sources: Sequence[Source]) -> None:
    """Refuse to go on with a job that reads a pipe among other inputs."""
    pipes = [source.name for source in sources if not source.rereadable]
    if pipes and len(sources) > 1:
        raise InvalidValueError(
            f"--resume: {pipes[0]} cannot be read again, so that nobody knows what of it is in the "
            "statistics: give it as the only input"
        )
