"""Timing: everything that does one task, in turn, round after round.

The speed of a machine drifts, so two times are compared within a round only, where they were taken
one after the other: a ratio is the median of the ratios of all rounds.
"""

from __future__ import annotations

import math
import statistics
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.jobs import Job
from benchmarks.peers import PEERS, limit_threads
from benchmarks.references import REFERENCES
from benchmarks.workloads import Data, Workload

SAMPLE = 0.02  # seconds that a sample takes at least: it repeats a quick pass
SLOW, EVERY = 0.1, 3  # a pass that takes longer runs in every third round only

Samples = tuple[float | None, ...]  # per round; None where a slow job did not run


@dataclass(frozen=True)
class Comparison:
    """The samples of every peer and reference that did the same work, by name."""

    name: str  # of the workload or file job
    title: str
    unit: str  # of `figure`: "GB/s", "µs per batch", "µs per row", "s", "CPU s" or "MB"
    amount: float  # gigabytes, batches or rows of one pass; 1 for seconds and megabytes
    samples: Mapping[str, Samples]  # seconds, or megabytes
    limits: tuple[str, ...] = ()  # the names in `samples` that bound the speed
    peaks: Mapping[str, float] = field(default_factory=dict)  # megabytes of each process

    def figure(self, who: str) -> float:
        """Return the median in `unit`."""
        median = statistics.median(x for x in self.samples[who] if x is not None)
        if self.unit == "GB/s":
            return self.amount / median
        return median / self.amount * (1e6 if self.unit.startswith("µs") else 1)

    def ratio(self, one: str, other: str) -> float:
        """Return how many times as much time, or memory, `one` takes as `other`."""
        pairs = zip(self.samples[one], self.samples[other], strict=True)
        return statistics.median(a / b for a, b in pairs if a is not None and b is not None)

    def of_limit(self, who: str) -> float | None:
        """Return the speed as a fraction of the fastest limit, or None without a limit."""
        return min((self.ratio(limit, who) for limit in self.limits), default=None)


def measure_workload(workload: Workload, rounds: int) -> Comparison:
    """Make the data of a workload, and time all that can do its task."""
    data = workload.make(workload.shape)
    jobs = {name: job.run for name, job in prepare(workload, data).items()}
    limit_threads(workload.threads)
    try:
        samples = take_turns(jobs, rounds)
    finally:
        limit_threads(1)
    rows, _, batches = workload.shape
    amounts = {"GB/s": data.nbytes / 1e9, "µs per batch": batches, "µs per row": batches * rows}
    amount = amounts[workload.unit]
    return Comparison(
        workload.name, workload.title, workload.unit, amount, samples, workload.limits
    )


def prepare(workload: Workload, data: Data) -> dict[str, Job]:
    """Prepare every job. The limits and references run next to streambn in each round."""
    peers = {p.name: p.tasks[workload.task] for p in PEERS if p.module and workload.task in p.tasks}
    others = [name for name in peers if name != "streambn"]
    names = [*workload.limits, "streambn", *workload.references, *others]
    return {name: {**REFERENCES, **peers}[name](data) for name in names}


def take_turns(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Samples]:
    """Time some functions in turn: A, B, C, A, B, C, and so on."""
    first = {name: _warm_up(run) for name, run in jobs.items()}
    passes = {name: max(1, math.ceil(SAMPLE / seconds)) for name, seconds in first.items()}
    every = {name: EVERY if seconds > SLOW else 1 for name, seconds in first.items()}
    samples: dict[str, list[float | None]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name, run in jobs.items():
            due = number % every[name] == 0
            samples[name].append(_seconds(run, passes[name]) if due else None)
    return {name: tuple(taken) for name, taken in samples.items()}


def _seconds(run: Callable[[], object], passes: int) -> float:
    # timeit switches the garbage collector off.
    return timeit.timeit(run, number=passes) / passes


def _warm_up(run: Callable[[], object]) -> float:
    """Return the seconds of the second pass, or of the first if that is slow."""
    first = _seconds(run, 1)
    return first if first > SLOW else _seconds(run, 1)
