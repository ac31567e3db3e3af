"""Timing: everything that does one workload, in turn, round after round.

The speed of a machine drifts, so two times are compared only within a round, where they
were taken next to each other: a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import math
import statistics
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.jobs import Job
from benchmarks.peers import PEERS, Peer, use_threads
from benchmarks.references import REFERENCES
from benchmarks.workloads import Data, Workload

# A sample repeats its pass until it takes about so long, in seconds.
SAMPLE = 0.02
# Whatever takes longer than this for one pass is timed in every third round only.
SLOW, SELDOM = 0.1, 3


class Timing(NamedTuple):
    """The samples of one job.

    Attributes
    ----------
    passes : int
        In each sample.
    seconds : tuple of float or None
        Of one pass, round by round; None where the job was left out.
    """

    passes: int
    seconds: tuple[float | None, ...]

    @property
    def taken(self) -> list[float]:
        """The samples that there are."""
        return [s for s in self.seconds if s is not None]

    @property
    def median(self) -> float:
        """Seconds of one pass."""
        return statistics.median(self.taken)


class Compared:
    """The samples of all that did the same, in turn.

    Attributes
    ----------
    timings : mapping of str to Timing
        By who did it.
    """

    timings: Mapping[str, Timing]

    @property
    def name(self) -> str:
        """Of what they did."""
        raise NotImplementedError

    def ratio(self, slow: str, fast: str) -> float:
        """Say how many times as long as `fast` `slow` takes."""
        pairs = zip(self.timings[slow].seconds, self.timings[fast].seconds, strict=True)
        return statistics.median(a / b for a, b in pairs if a is not None and b is not None)


@dataclass(frozen=True)
class Measured(Compared):
    """A workload and the times of all that did it."""

    workload: Workload
    nbytes: int
    timings: Mapping[str, Timing]

    @property
    def name(self) -> str:
        """That of the workload."""
        return self.workload.name

    def figure(self, who: str) -> float:
        """Give the speed, or the time of a batch or a row, in the workload's unit."""
        seconds, shape = self.timings[who].median, self.workload.shape
        if self.workload.unit == "GB/s":
            return self.nbytes / seconds / 1e9
        rows = shape.rows if self.workload.unit == "µs per row" else 1
        return seconds / (shape.batches * rows) * 1e6

    def of_limit(self, who: str) -> float | None:
        """Give the speed as a fraction of the hardest limit; None: there is none."""
        if not self.workload.limits:
            return None
        return min(self.ratio(limit, who) for limit in self.workload.limits)


def available(workload: Workload) -> list[Peer]:
    """Give the peers that can do a workload and are installed."""
    return [p for p in PEERS if workload.task in p.tasks and p.module is not None]


def prepared(workload: Workload, data: Data) -> dict[str, Job]:
    """Prepare all that is timed; what is compared most stands side by side."""
    against = [*workload.limits, "streambn", *workload.beside]
    prepare = {p.name: p.tasks[workload.task] for p in available(workload)}
    names = [*against, *(name for name in prepare if name not in against)]
    return {name: {**REFERENCES, **prepare}[name](data) for name in names}


def measured(workload: Workload, rounds: int, after_round: Callable[[], None]) -> Measured:
    """Make a workload's data and time all that can do it.

    Parameters
    ----------
    workload : Workload
    rounds : int
    after_round : callable
        Is called after each.
    """
    data = workload.make(workload.shape)
    todo = {name: job.run for name, job in prepared(workload, data).items()}
    use_threads(workload.threads)
    try:
        return Measured(workload, data.nbytes, timed(todo, rounds, after_round))
    finally:
        use_threads(1)


def timed(
    todo: Mapping[str, Callable[[], object]], rounds: int, after_round: Callable[[], None]
) -> dict[str, Timing]:
    """Time some functions in turn: A, B, C, A, B, C, ..."""
    first = {name: _warm(run) for name, run in todo.items()}
    passes = {name: max(1, math.ceil(SAMPLE / seconds)) for name, seconds in first.items()}
    every = {name: SELDOM if seconds > SLOW else 1 for name, seconds in first.items()}
    samples: dict[str, list[float | None]] = {name: [] for name in todo}
    for number in range(rounds):
        for name, run in todo.items():
            due = number % every[name] == 0
            samples[name].append(_seconds(run, passes[name]) if due else None)
        after_round()
    return {name: Timing(passes[name], tuple(samples[name])) for name in todo}


def _seconds(run: Callable[[], object], passes: int) -> float:
    # timeit switches the garbage collector off.
    return timeit.timeit(run, number=passes) / passes


def _warm(run: Callable[[], object]) -> float:
    """Take the seconds of a pass, not of the first unless that is long."""
    first = _seconds(run, 1)
    return first if first > SLOW else _seconds(run, 1)
