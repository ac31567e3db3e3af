"""How streambn works inside of other libraries, and how those do the same themselves.

Both do the very work; only how the statistics are read from them differs. A row is a dict of
Python's own floats, as River has it; scikit-learn's arrays lie row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import streambn as sbn
from benchmarks import jobs
from benchmarks.jobs import Floats, Job, optional
from benchmarks.workloads import ALPHA, MEAN, Data

river_linear = optional("river.linear_model")
# An adapter needs its host, and says so itself.
river_adapter: Any = optional("streambn.adapters.river") if jobs.river else None
sklearn_adapter: Any = optional("streambn.adapters.sklearn") if jobs.sklearn else None


# -------------------------------------------------------------------------- River

Row = dict[str, float]


class Scaler(NamedTuple):
    """A transformer of River, and how to see what it learned.

    Attributes
    ----------
    make : callable
    read : callable
        Gives means and variances of the named features, shape (2, features).
    """

    make: Callable[[], Any]
    read: Callable[[Any, Sequence[str]], Floats]


def _of_streambn(policy: sbn.Welford | sbn.EMA | None) -> Scaler:
    def read(scaler: Any, names: Sequence[str]) -> Floats:
        of = {row["column"]: (row["mean"], row["var"]) for row in scaler.stats().to_pylist()}
        return np.array([of[name] for name in names]).T

    return Scaler(lambda: river_adapter.RiverNormalizer(policy), read)


def _of_river() -> Scaler:
    def read(scaler: Any, names: Sequence[str]) -> Floats:
        return np.array([[of[name] for name in names] for of in (scaler.means, scaler.vars)])

    return Scaler(jobs.river.StandardScaler, read)


def _of_river_ema() -> Scaler:
    def read(scaler: Any, names: Sequence[str]) -> Floats:
        both = (scaler.means, scaler.vars)
        return np.array([[of[name].get() for name in names] for of in both])

    return Scaler(lambda: jobs.river.AdaptiveStandardScaler(fading_factor=ALPHA), read)


def streambn_rows(data: Data) -> Job:
    return _rows(data, _of_streambn(None))


def streambn_rows_ema(data: Data) -> Job:
    return _rows(data, _of_streambn(sbn.EMA(alpha=ALPHA, adjust=False)))


def river_rows(data: Data) -> Job:
    return _rows(data, _of_river())


def river_rows_ema(data: Data) -> Job:
    return _rows(data, _of_river_ema())


def _rows(data: Data, scaler: Scaler) -> Job:
    """Learn every row, then normalize it."""
    rows = _as_rows(data)

    def run() -> tuple[Any, Row]:
        one = scaler.make()
        for row in rows:
            one.learn_one(row)
            out = one.transform_one(row)
        return one, out

    def read(result: tuple[Any, Row]) -> Floats:
        one, out = result
        names = list(rows[0])
        return np.vstack([scaler.read(one, names), [out[name] for name in names]])

    return Job(run, read)


def _as_rows(data: Data) -> list[Row]:
    return [row for batch in data.batches for row in batch.to_pylist()]


def streambn_frames(data: Data) -> Job:
    return _learn_frames(data, _of_streambn(None))


def river_frames(data: Data) -> Job:
    return _learn_frames(data, _of_river())


def _learn_frames(data: Data, scaler: Scaler) -> Job:
    frames = jobs.frames_of(data)

    def run() -> Any:
        one = scaler.make()
        for frame in frames:
            one.learn_many(frame)
        return one

    return Job(run, lambda one: scaler.read(one, list(frames[0])))


def streambn_pipeline(data: Data) -> Job:
    return _pipeline(data, _of_streambn(None))


def river_pipeline(data: Data) -> Job:
    return _pipeline(data, _of_river())


def _pipeline(data: Data, scaler: Scaler) -> Job:
    """Predict of every row if its first two values are above the mean together, and learn it."""
    rows = _as_rows(data)
    first, second = list(rows[0])[:2]
    pairs = [(row, row[first] + row[second] > 2 * MEAN) for row in rows]

    def run() -> tuple[Any, Any]:
        one, model = scaler.make(), river_linear.LogisticRegression()
        pipeline = one | model
        for row, label in pairs:
            pipeline.predict_proba_one(row)
            pipeline.learn_one(row, label)
        return one, model

    return Job(run, lambda result: scaler.read(result[0], list(rows[0])))


# ------------------------------------------------------------------- scikit-learn


def streambn_partial_fit(data: Data) -> Job:
    return _partial_fit(data, sklearn_adapter.SklearnNormalizer)


def sklearn_partial_fit(data: Data) -> Job:
    return _partial_fit(data, jobs.sklearn.StandardScaler)


def _partial_fit(data: Data, make: Callable[[], Any]) -> Job:
    def run() -> Any:
        scaler = make()
        for matrix in data.matrices:
            scaler.partial_fit(matrix)
        return scaler

    return Job(run, lambda scaler: np.stack([scaler.mean_, scaler.var_]))
