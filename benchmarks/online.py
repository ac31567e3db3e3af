"""The loop of a streaming job: learn a batch, normalize it, pass it on."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import streambn as sbn
from benchmarks import report
from benchmarks.bounds import Bound, bound_table
from benchmarks.measure import Samples, take_turns

BEGIN, END = "<!-- online: begin -->", "<!-- online: end -->"
_LOOKS = 20  # at the statistics in a second, by a live view

Array = NDArray[Any]
Measured = dict[str, Mapping[str, Samples]]  # by shape


class Shape(NamedTuple):
    """Rows and features of a batch, and the type of the values."""

    rows: int
    features: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.rows:,} × {self.features}"


SHAPES = (
    Shape(8, 17, "float32"),
    Shape(1, 10, "float64"),
    Shape(1000, 50, "float64"),
    Shape(1_000_000, 1, "float64"),
)
# The observations of eight environments with 17 sensors each, as reinforcement learning has them.
ENVIRONMENTS = SHAPES[0]


class NumPyStep:
    """The running mean and variance that people write by hand, with Chan's merge."""

    def __init__(self, features: int) -> None:
        self.mean, self.var, self.count = np.zeros(features), np.ones(features), 1e-4

    def array(self, x: Array) -> Array:
        """Learn an array, and normalize it."""
        mean, var, rows = np.mean(x, axis=0), np.var(x, axis=0), x.shape[0]
        delta, total = mean - self.mean, self.count + rows
        m2 = self.var * self.count + var * rows
        m2 += np.square(delta) * self.count * rows / total
        self.mean = self.mean + delta * rows / total
        self.var, self.count = m2 / total, total
        z: Array = np.clip((x - self.mean) / np.sqrt(self.var + 1e-8), -10, 10)
        return z

    def batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Learn a record batch, and normalize it."""
        z = self.array(np.column_stack([column.to_numpy() for column in batch.columns]))
        return pa.RecordBatch.from_arrays(list(map(pa.array, z.T)), names=batch.schema.names)


def jobs(shape: Shape) -> dict[str, Callable[[], object]]:
    """Return the functions to time with batches of a shape, by name."""
    x = np.random.default_rng(0).normal(3, 2, (shape.rows, shape.features)).astype(shape.dtype)
    batch = pa.record_batch({f"x{i}": x[:, i].copy() for i in range(shape.features)})

    def normalizer() -> sbn.Normalizer:
        return sbn.Normalizer(eps=1e-8, clip=10).update(batch)

    norm, frozen, both = normalizer(), normalizer().freeze(), normalizer()

    def apart() -> None:
        both.update(batch)
        both.transform(batch)

    timed: dict[str, Callable[[], object]] = {
        "update": lambda: norm.update(batch),
        "frozen.transform": lambda: frozen.transform(batch),
        "update, transform": apart,
    }
    for using in ("running", "before", "batch"):
        timed[f"update_transform, {using}"] = _update_transform(normalizer(), batch, using)
    if shape == ENVIRONMENTS:
        step, other, arrays = NumPyStep(shape.features), NumPyStep(shape.features), normalizer()
        timed["NumPy, batch"] = lambda: step.batch(batch)
        timed["NumPy, array"] = lambda: other.array(x)
        timed["update_transform, array"] = lambda: arrays.update_transform(x)
    return timed


def _update_transform(
    norm: sbn.Normalizer, batch: pa.RecordBatch, using: Any
) -> Callable[[], object]:
    return lambda: norm.update_transform(batch, using)


def measure(rounds: int) -> Measured:
    """Time every job of every shape in turn."""
    return {str(shape): take_turns(jobs(shape), rounds) for shape in SHAPES}


def watched(rounds: int, seconds: float) -> float:
    """Return how much longer updates take while another thread reads the statistics."""
    x = np.random.default_rng(0).normal(size=(1000, 50))
    batch = pa.record_batch({f"x{i}": x[:, i].copy() for i in range(50)})
    norm = sbn.Normalizer().update(batch)

    def updates() -> float:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            norm.update(batch)
            count += 1
        return (time.perf_counter() - start) / count

    def look(stop: threading.Event) -> None:
        while not stop.wait(1 / _LOOKS):
            norm.stats()

    ratios = []
    for _ in range(rounds):
        alone = updates()
        stop = threading.Event()
        viewer = threading.Thread(target=look, args=(stop,))
        viewer.start()
        ratios.append(updates() / alone)
        stop.set()
        viewer.join()
    return statistics.median(ratios)


def bounds(measured: Measured, viewed: float) -> list[Bound]:
    """Compare the measurements with their bounds."""
    judged = []
    for shape, samples in measured.items():
        update, frozen = samples["update"], samples["frozen.transform"]
        together = _median(samples["update_transform, running"], update, frozen, _of_sum)
        after = _median(samples["update, transform"], update, frozen, _of_rest)
        judged += [
            Bound(f"{shape}: update_transform against update + frozen.transform", 1.4, together),
            Bound(f"{shape}: transform after an update against frozen.transform", 1.3, after),
        ]
    samples = measured[str(ENVIRONMENTS)]
    ours = {"batch": "update_transform, running", "array": "update_transform, array"}
    for form, name in ours.items():
        title = f"{ENVIRONMENTS}, {form}: update_transform against NumPy"
        numpy = samples[f"NumPy, {form}"]
        judged.append(Bound(title, 1.0, _median(samples[name], numpy, numpy, _of_one)))
    title = f"update, with stats() {_LOOKS} times a second in another thread, against without"
    return [*judged, Bound(title, 1.03, viewed)]


def _of_sum(both: float, update: float, frozen: float) -> float:
    return both / (update + frozen)


def _of_rest(both: float, update: float, frozen: float) -> float:
    return (both - update) / frozen


def _of_one(ours: float, other: float, _: float) -> float:
    return ours / other


def _median(
    one: Samples, two: Samples, three: Samples, ratio: Callable[[Any, Any, Any], float]
) -> float:
    """Return the median of the ratios within rounds."""
    return statistics.median(map(ratio, one, two, three))


def full(measured: Measured, viewed: float, rounds: int) -> str:
    """Return the part of benchmarks/README.md."""
    names = list(measured[str(ENVIRONMENTS)])
    rows = [
        [name, *(_microseconds(samples.get(name)) for samples in measured.values())]
        for name in names
    ]
    return "\n\n".join(
        [
            f"{report.machine()}; one thread; medians of {rounds} rounds, in µs; "
            "`python -m benchmarks --online`.",
            report.table(["rows × features", *measured], rows, texts=1),
            bound_table(bounds(measured, viewed)),
        ]
    )


def _microseconds(samples: Samples | None) -> str:
    taken = [x for x in samples or () if x is not None]
    return f"{statistics.median(taken) * 1e6:,.1f}" if taken else ""


def main(root: Path | None, *, rounds: int, quick: bool) -> int:
    """Measure, print, write the documentation of a checkout, and return 1 if a bound is missed."""
    if root is not None:  # fail now rather than after the measurements
        report.split(root / "benchmarks/README.md", BEGIN, END)
    rounds = 1 if quick else rounds
    measured, viewed = measure(rounds), watched(rounds, 0.01 if quick else 0.5)
    text = full(measured, viewed, rounds)
    print(text)
    if root is not None:
        report.insert(root / "benchmarks/README.md", text, BEGIN, END)
    return 0 if quick or all(bound.holds for bound in bounds(measured, viewed)) else 1
