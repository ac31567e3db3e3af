"""A peer, a job of a peer, and the forms that most jobs have."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

import streambn as sbn
from benchmarks.workloads import WEIGHT, Data, Matrix

Floats = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., "Job"])


class Job(NamedTuple):
    """One pass over the data, and how to read its result.

    `read` turns the result of `run` into numbers: means and variances, shape (2, columns); means
    alone, shape (1, columns); or the normalized values of the last batch, or of the last row alone
    if each row is normalized by the statistics as of that row. Tasks on rows append the last row,
    normalized.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Floats]


class Accuracy(NamedTuple):
    """The largest relative error of a peer's variance.

    The same bound holds for the error of a mean and of a normalized value, in standard deviations.
    """

    float64: float  # of float64 and integers whose mean is a few standard deviations from zero
    float32: float  # of float32 of that kind
    far: float  # of float64 whose mean is 1e8 standard deviations from zero


@dataclass(frozen=True)
class Peer:
    """A library, and the tasks that it can do."""

    name: str
    package: str  # the name to install
    module: Any  # None if it is not installed
    accuracy: Accuracy
    tasks: dict[str, Callable[[Data], Job]] = field(default_factory=dict)

    def does(self, *tasks: str) -> Callable[[F], F]:
        """Register a function as the way in which this peer does some tasks."""

        def register(function: F) -> F:
            self.tasks.update(dict.fromkeys(tasks, function))
            return function

        return register


def optional(module: str) -> Any:
    """Import a module; return None if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


# All others stand in `benchmarks.peers` and `benchmarks.hosts`.
STREAMBN = Peer("streambn", "streambn", sbn, Accuracy(float64=1e-14, float32=1e-14, far=1e-14))


def fold(make: Callable[[], Any], learn: Callable[[Any, Any], Any], parts: Sequence[Any]) -> Any:
    """Return a function that makes an object and lets it learn every part."""

    def run() -> Any:
        learner = make()
        for part in parts:
            learn(learner, part)
        return learner

    return run


def by_batch(batches: Sequence[Any], moments: Callable[[Any], Any], read: Any = np.stack) -> Job:
    """Take the moments of each batch; `read` returns its means and variances, or weights first."""

    def combine(results: list[Any]) -> Floats:
        parts = [np.asarray(read(result), np.float64) for result in results]
        parts = [np.stack([np.ones(p.shape[1]), *p]) if len(p) == 2 else p for p in parts]
        weights, means, variances = np.stack(parts, axis=1)
        mean = np.average(means, axis=0, weights=weights)
        variance = np.average(variances + (means - mean) ** 2, axis=0, weights=weights)
        return np.stack([mean, variance])

    return Job(lambda: [moments(batch) for batch in batches], combine)


def transform_each(
    transform: Callable[[Any], Any], batches: Sequence[Any], read: Callable[[Any], Floats]
) -> Job:
    """Transform every batch, and keep the last output."""

    def run() -> Any:
        for batch in batches:
            out = transform(batch)
        return out

    return Job(run, read)


def weights_of(data: Data) -> list[Floats]:
    """Return the weights of the rows, batch by batch."""
    return [batch[WEIGHT].to_numpy() for batch in data.batches]


def with_nan(data: Data) -> list[Matrix]:
    """Return the first column of each batch as a matrix, with NaN for null."""
    return [b.column(0).to_numpy(zero_copy_only=False).reshape(-1, 1) for b in data.batches]
