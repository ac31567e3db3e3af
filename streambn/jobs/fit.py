"""Jobs that learn statistics from files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from streambn import kernels
from streambn.errors import InvalidValueError, NotFittedError
from streambn.io import InferenceError, Source, locate, lock, remove_leftovers
from streambn.jobs.checkpoint import Checkpoint, CheckpointWriter
from streambn.jobs.executors import Executor, check_shareable
from streambn.jobs.hints import number_hints_in_errors
from streambn.jobs.learn import FitState, Position, fit_files
from streambn.jobs.plan import ReadOptions
from streambn.jobs.progress import Display, Progress
from streambn.jobs.report import Report
from streambn.jobs.shares import check_policy
from streambn.normalizer import Normalizer
from streambn.statistics import Statistics

__all__ = [
    "CompletedFit",
    "check_resumable",
    "configure_process",
    "fit_job",
    "run_fit",
    "total_size",
]


def fit_job(
    initial: Statistics,
    sources: Sequence[Source],
    output: str | None,
    checkpoint: Checkpoint,
    *,
    frozen: bool = False,
    options: ReadOptions,
    display: Display,
    executor: Executor | None = None,
) -> Report:
    """Learn from files and write a statistics file.

    Parameters
    ----------
    initial : Statistics
        Statistics to learn on from.
    sources : sequence of Source
    output : str or None
        Path or URL of the statistics file. None: the checkpoint is the result.
    checkpoint : Checkpoint
        It is removed when the output is complete.
    frozen : bool
        Whether to write frozen statistics.
    options : ReadOptions
    display : Display
    executor : Executor, optional
        Its workers read and learn the inputs. The result is the same. Default: this process.

    Raises
    ------
    InvalidValueError
        An executor cannot share the inputs, or learn by the policy.
    NotFittedError
        All inputs were skipped.
    StreamBNError, OSError
        An input cannot be read or learned, the output cannot be written, or another job is
        writing it.
    """
    options = options.for_new_job()
    locations = [] if checkpoint.location is None else [checkpoint.location]
    with lock(*locations):
        if checkpoint.resume:
            remove_leftovers(*locations, *([] if output is None else [locate(output)]))
        with run_fit(initial, sources, checkpoint, options, display, executor) as fit:
            normalizer = Normalizer.from_statistics(fit.state.statistics)
            if output is None:
                fit.writer.save()
            else:
                (normalizer.freeze() if frozen else normalizer).save(output)
        if output is not None:
            checkpoint.remove()
    return Report.of(
        output or checkpoint.name,
        fit.state.statistics,
        fit.progress,
        fit.state.position.skipped,
        resumed=fit.progress.skipped.rows > 0,
    )


class CompletedFit(NamedTuple):
    """A fit that has read all inputs, while its checkpoint is still needed."""

    state: FitState
    progress: Progress
    writer: CheckpointWriter


@contextlib.contextmanager
def run_fit(
    initial: Statistics,
    sources: Sequence[Source],
    checkpoint: Checkpoint,
    options: ReadOptions,
    display: Display,
    executor: Executor | None = None,
) -> Iterator[CompletedFit]:
    """Learn from files, and save a checkpoint if the block fails or is interrupted.

    The parameters are those of `fit_job`.
    """
    if executor is None:
        configure_process(options.threads)
    else:  # this process does little, and belongs to the caller
        check_policy(initial.policy)
        check_shareable(sources)
    start = checkpoint.load(initial, sources, options) or FitState(initial, Position())
    with checkpoint.open_writer(initial, sources, options) as writer:
        progress = Progress("fitting", len(sources), total_size(sources))
        with display(progress), number_hints_in_errors(sources, options):
            try:
                end = fit_files(start, sources, options, progress, writer.reach, executor)
            except InferenceError:
                if start.position.rows == 0:
                    raise
                progress.begin_again()
                start = FitState(initial, Position())
                end = fit_files(start, sources, options, progress, writer.reach, executor)
        writer.reach(end)
        _check_learned(end, sources)
        yield CompletedFit(end, progress, writer)


def _check_learned(end: FitState, sources: Sequence[Source]) -> None:
    """Refuse the end of a fit that learned nothing from files. A stream may go on later."""
    if end.statistics.binding is not None or not all(source.rereadable for source in sources):
        return
    if end.position.skipped:
        raise NotFittedError("nothing is left to learn: all inputs were skipped")
    if len(sources) == 1:
        raise NotFittedError("no rows, so there is nothing to learn", source=sources[0].name)
    raise NotFittedError(f"none of the {len(sources):,} inputs has rows: there is nothing to learn")


def configure_process(threads: int) -> None:
    """Set the number of threads of Arrow and of the kernels, and Arrow's memory pool."""
    kernels.set_threads(threads)  # refuses a number that Arrow could not take
    pa.set_cpu_count(threads)
    if pa.default_memory_pool().backend_name == "jemalloc":
        # The command chose it for encoding. Decoding is faster with mimalloc.
        with contextlib.suppress(NotImplementedError):
            pa.set_memory_pool(pa.mimalloc_memory_pool())


def total_size(sources: Sequence[Source]) -> int | None:
    """Return the size of all files; None if one is a pipe, or remote, where it takes too long."""
    if any(source.remote or not source.rereadable for source in sources):
        return None
    with contextlib.suppress(OSError):
        return sum(source.stamp().size for source in sources)
    return None


def check_resumable(sources: Sequence[Source]) -> None:
    """Refuse to resume a fit that reads a pipe and other inputs.

    Raises
    ------
    InvalidValueError
        There are several inputs, and one is a pipe.
    """
    pipes = [source.name for source in sources if not source.rereadable]
    if pipes and len(sources) > 1:
        raise InvalidValueError(
            f"{pipes[0]} cannot be read again, so the checkpoint cannot tell which part of it was "
            "learned. Give it as the only input.",
            argument="resume",
        )
