"""scikit-learn and River as peers, and streambn as a part of them.

A row is a dict of Python floats, as in River. The arrays for scikit-learn lie row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import streambn as sbn
from benchmarks.jobs import (
    STREAMBN,
    Accuracy,
    Floats,
    Job,
    Peer,
    fold,
    optional,
    transform_each,
    weights_of,
    with_nan,
)
from benchmarks.workloads import ALPHA, IN_RIVER, Data

pd = optional("pandas")
river, sklearn = optional("river.preprocessing"), optional("sklearn.preprocessing")
SKLEARN = Peer("scikit-learn", "scikit-learn", sklearn, Accuracy(1e-13, float32=1e-13, far=2e-09))
RIVER = Peer("River", "river", river, Accuracy(float64=1e-12, float32=1e-12, far=10.0))

# ---------------------------------------------------------------------------- scikit-learn


def _partial_fit(make: Any, parts: Sequence[tuple[Any, ...]]) -> Job:
    # Each matrix is laid out row by row once, even if it occurs repeatedly.
    rows = {id(x): np.ascontiguousarray(x) for x, *_ in parts}
    laid_out = [(rows[id(x)], *others) for x, *others in parts]
    return Job(
        fold(make, lambda scaler, part: scaler.partial_fit(*part), laid_out),
        lambda scaler: np.stack([scaler.mean_, scaler.var_]),
    )


@SKLEARN.does("column", "batches", "lists", "partial-fit")
def sklearn_fit(data: Data) -> Job:
    return _partial_fit(sklearn.StandardScaler, [(x,) for x in data.matrices])


@SKLEARN.does("nulls")
def sklearn_nulls(data: Data) -> Job:
    return _partial_fit(sklearn.StandardScaler, [(x,) for x in with_nan(data)])


@SKLEARN.does("weights")
def sklearn_weights(data: Data) -> Job:
    triples = zip(data.matrices, [None] * len(data.matrices), weights_of(data), strict=True)
    return _partial_fit(sklearn.StandardScaler, list(triples))


@SKLEARN.does("transform")
def sklearn_transform(data: Data) -> Job:
    scaler = sklearn.StandardScaler().fit(data.matrices[0])
    return transform_each(scaler.transform, data.matrices, lambda out: out[:, 0])


if sklearn is not None:
    sklearn_adapter: Any = optional("streambn.adapters.sklearn")

    @STREAMBN.does("partial-fit")
    def streambn_partial_fit(data: Data) -> Job:
        return _partial_fit(sklearn_adapter.SklearnNormalizer, [(x,) for x in data.matrices])


# ----------------------------------------------------------------------------------- River


class Scaler(NamedTuple):
    """A transformer of River."""

    make: Callable[[], Any]
    read: Callable[[Any, str], tuple[float, float]]  # mean and variance of a feature

    def moments(self, scaler: Any, names: Sequence[str]) -> Floats:
        """Return means and variances, shape (2, features)."""
        return np.array([self.read(scaler, name) for name in names]).T


def frames_of(data: Data) -> list[Any]:
    """Return the matrices as pandas frames."""
    names = [f"x{i}" for i in range(data.matrices[0].shape[1])]
    return [pd.DataFrame(x, columns=names, copy=False) for x in data.matrices]


def _learn_frames(data: Data, scaler: Scaler) -> Job:
    frames = frames_of(data)
    run = fold(scaler.make, lambda one, frame: one.learn_many(frame), frames)
    return Job(run, lambda one: scaler.moments(one, list(frames[0])))


def _learn_rows(data: Data, scaler: Scaler) -> Job:
    """Learn each row, then normalize it."""
    rows = [row for batch in data.batches for row in batch.to_pylist()]

    def run() -> tuple[Any, dict[str, float]]:
        one = scaler.make()
        for row in rows:
            one.learn_one(row)
            out = one.transform_one(row)
        return one, out

    def read(result: tuple[Any, dict[str, float]]) -> Floats:
        one, out = result
        return np.vstack([scaler.moments(one, list(rows[0])), [out[name] for name in rows[0]]])

    return Job(run, read)


def _transform_rows(data: Data, scaler: Scaler) -> Job:
    """Normalize each row by the statistics of all."""
    rows = [row for batch in data.batches for row in batch.to_pylist()]
    one = scaler.make()
    for row in rows:
        one.learn_one(row)

    def read(out: dict[str, float]) -> Floats:
        return np.vstack([scaler.moments(one, list(out)), list(out.values())])

    return transform_each(one.transform_one, rows, read)


@RIVER.does("transform")
def river_transform(data: Data) -> Job:
    frames = frames_of(data)
    scaler = river.StandardScaler()
    scaler.learn_many(frames[0])
    return transform_each(scaler.transform_many, frames, lambda out: out["x0"].to_numpy())


def _register() -> None:
    adapter: Any = optional("streambn.adapters.river")

    def read(scaler: Any, name: str) -> tuple[float, float]:
        row = next(row for row in scaler.stats().to_pylist() if row["column"] == name)
        return row["mean"], row["var"]

    ours = Scaler(adapter.RiverNormalizer, read)
    policy = sbn.EMA(alpha=ALPHA, adjust=False)
    ours_ema = Scaler(partial(adapter.RiverNormalizer, policy), read)
    theirs = Scaler(river.StandardScaler, lambda scaler, n: (scaler.means[n], scaler.vars[n]))
    theirs_ema = Scaler(
        partial(river.AdaptiveStandardScaler, fading_factor=ALPHA),
        lambda scaler, n: (scaler.means[n].get(), scaler.vars[n].get()),
    )
    RIVER.does("rows-frozen")(partial(_transform_rows, scaler=theirs))
    STREAMBN.does(IN_RIVER)(partial(_transform_rows, scaler=ours))
    for peer, scaler, ema in ((STREAMBN, ours, ours_ema), (RIVER, theirs, theirs_ema)):
        peer.does("rows")(partial(_learn_rows, scaler=scaler))
        peer.does("rows-ema")(partial(_learn_rows, scaler=ema))
        peer.does("frames")(partial(_learn_frames, scaler=scaler))
    RIVER.does("column", "batches", "lists")(partial(_learn_frames, scaler=theirs))


if river is not None:
    _register()
