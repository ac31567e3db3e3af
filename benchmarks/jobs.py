"""How each peer does each task, as well as it can.

A peer is given its data in the form that suits it, ready made; what is timed begins
there. Means and variances are over everything, the variances with divisor n. A peer
that keeps no running state (NumPy, pyarrow, Polars, torch) computes the moments of every
batch by itself, and putting those together is not timed, which is in its favour.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import streambn as sbn
from benchmarks.workloads import HALFLIFE, HALFLIFE_HOURS, TIME, WEIGHT, Data, Matrix

Floats = NDArray[np.float64]
Result = TypeVar("Result")


def optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


duckdb = optional("duckdb")
pd = optional("pandas")
pl = optional("polars")
river = optional("river.preprocessing")
sklearn = optional("sklearn.preprocessing")
torch = optional("torch")


class Job(NamedTuple):
    """One pass over the data, and how to see what it gave.

    Attributes
    ----------
    run : callable
        What is timed.
    read : callable
        Makes of what `run` returned the numbers to compare: means and variances, shape
        (2, columns), or where there are none, means alone; or the last batch's normalized
        values. Of rows learned and normalized one by one: means, variances and the last row's
        normalized values.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Floats]


# ------------------------------------------------------------------------ moments


def _by_batch(
    batches: Sequence[Any], moments: Callable[[Any], Result], read: Callable[[Result], Any]
) -> Job:
    """Do every batch by itself; `read` makes of its result weights, means and variances."""
    return Job(
        lambda: [moments(batch) for batch in batches],
        lambda results: merged(np.stack([np.asarray(read(r), np.float64) for r in results])),
    )


def merged(parts: Floats) -> Floats:
    """Put together weights, means and variances of parts, shape (parts, 3, columns)."""
    weights, means, variances = parts.swapaxes(0, 1)
    mean = np.average(means, axis=0, weights=weights)
    return np.stack([mean, np.average(variances + (means - mean) ** 2, axis=0, weights=weights)])


def _equally(means: Any, variances: Any) -> Floats:
    """Give a part the weight 1: all batches are of one size."""
    return np.stack([np.ones(len(means)), means, variances])


def _column(pair: Sequence[float]) -> Floats:
    return np.array(pair, np.float64).reshape(2, 1)


# ----------------------------------------------------------------------- streambn


def streambn_fit(data: Data) -> Job:
    return _streambn(data, sbn.Welford())


def streambn_exact(data: Data) -> Job:
    return _streambn(data, sbn.Exact())


def streambn_ema(data: Data) -> Job:
    return _streambn(data, sbn.EMA(halflife=HALFLIFE))


def streambn_ema_time(data: Data) -> Job:
    return _streambn(data, sbn.EMA(halflife=f"{HALFLIFE_HOURS}h", time=TIME))


def streambn_weights(data: Data) -> Job:
    return _streambn(data, sbn.Welford(), weights=WEIGHT)


def _streambn(
    data: Data, policy: sbn.Welford | sbn.Exact | sbn.EMA, weights: str | None = None
) -> Job:
    def run() -> sbn.Normalizer:
        norm = sbn.Normalizer(policy, weights=weights)
        for batch in data.batches:
            norm.update(batch)
        return norm

    def read(norm: sbn.Normalizer) -> Floats:
        stats = norm.stats()
        return np.stack([stats[name].to_numpy() for name in ("mean", "var")])

    return Job(run, read)


def streambn_transform(data: Data) -> Job:
    frozen = sbn.Normalizer().update(data.batches[0]).freeze()
    return _each(frozen.transform, data.batches, lambda out: out.column(0).to_numpy())


def _each(
    transform: Callable[[Any], Result],
    batches: Sequence[Any],
    read: Callable[[Result], Floats],
) -> Job:
    """Transform every batch, and keep of the outputs the last."""

    def run() -> Result:
        for batch in batches:
            out = transform(batch)
        return out

    return Job(run, read)


def _mean_and_std(data: Data) -> tuple[float, float]:
    """Give what all transforms go by: the statistics of the first batch."""
    return float(data.matrices[0].mean()), float(data.matrices[0].std())


# -------------------------------------------------------------------------- NumPy


def numpy_fit(data: Data) -> Job:
    def moments(x: Matrix) -> tuple[Matrix, Matrix]:
        mean = x.mean(axis=0, keepdims=True)
        return mean, x.var(axis=0, mean=mean)

    return _by_batch(data.matrices, moments, lambda pair: _equally(pair[0][0], pair[1]))


def numpy_mean_and_var(data: Data) -> Job:
    """Call both, as people write it: the variance takes the mean again."""
    return _by_batch(
        data.matrices,
        lambda x: (x.mean(axis=0), x.var(axis=0)),
        lambda pair: _equally(*pair),
    )


def numpy_nulls(data: Data) -> Job:
    """NumPy has no nulls: as everywhere without them, they are NaN."""

    def moments(x: Floats) -> tuple[int, float, float]:
        x = x[~np.isnan(x)]  # three times as fast as nanmean and nanvar
        mean = x.mean(keepdims=True)
        return len(x), mean[0], x.var(mean=mean)

    columns = [x[:, 0] for x in _with_nan(data)]
    return _by_batch(columns, moments, lambda part: np.reshape(part, (3, 1)))


def _with_nan(data: Data) -> list[Matrix]:
    return [b.column(0).to_numpy(zero_copy_only=False).reshape(-1, 1) for b in data.batches]


def numpy_weights(data: Data) -> Job:
    def moments(pair: tuple[Matrix, Floats]) -> tuple[float, Matrix, Matrix]:
        x, w = pair
        mean, weight = np.average(x, axis=0, weights=w, returned=True)
        return weight[0], mean, np.average((x - mean) ** 2, axis=0, weights=w)

    def read(part: tuple[float, Matrix, Matrix]) -> Floats:
        weight, mean, var = part
        return np.stack([np.full(len(mean), weight), mean, var])

    return _by_batch(list(zip(data.matrices, _weights(data), strict=True)), moments, read)


def _weights(data: Data) -> list[Floats]:
    return [batch[WEIGHT].to_numpy() for batch in data.batches]


def numpy_transform(data: Data) -> Job:
    mean, std = _mean_and_std(data)
    out = np.empty(len(data.matrices[0]))

    def transform(x: Floats) -> Floats:
        np.subtract(x, mean, out=out)
        return np.multiply(out, 1 / std, out=out)

    return _each(transform, [x[:, 0] for x in data.matrices], lambda out: out)


# ------------------------------------------------------------------------ pyarrow


def pyarrow_column(data: Data) -> Job:
    column = pa.Table.from_batches(data.batches).column(0)
    return Job(
        lambda: (pc.mean(column), pc.variance(column)),
        lambda pair: _column([scalar.as_py() for scalar in pair]),
    )


def pyarrow_batches(data: Data) -> Job:
    def moments(batch: pa.RecordBatch) -> list[tuple[pa.Scalar, pa.Scalar]]:
        return [(pc.mean(column), pc.variance(column)) for column in batch.columns]

    def read(pairs: list[tuple[pa.Scalar, pa.Scalar]]) -> Floats:
        return _equally(*zip(*((m.as_py(), v.as_py()) for m, v in pairs), strict=True))

    return _by_batch(data.batches, moments, read)


def pyarrow_transform(data: Data) -> Job:
    mean, std = _mean_and_std(data)
    return _each(
        lambda x: pc.divide(pc.subtract(x, mean), std),
        [batch.column(0) for batch in data.batches],
        lambda out: out.to_numpy(),
    )


# ------------------------------------------------------------------------- Polars


def polars_column(data: Data) -> Job:
    # As it comes, in chunks: gathering them is no part of the work.
    frame = pl.from_arrow(pa.Table.from_batches(data.batches), rechunk=False)
    return Job(lambda: _polars_moments(frame), lambda out: out.to_numpy().reshape(2, 1))


def polars_batches(data: Data) -> Job:
    frames = [pl.from_arrow(batch) for batch in data.batches]
    return _by_batch(frames, _polars_moments, lambda out: _equally(*out.to_numpy().reshape(2, -1)))


def _polars_moments(frame: Any) -> Any:
    return frame.select(pl.all().mean(), pl.all().var(ddof=0).name.prefix("var_"))


def polars_ema(data: Data) -> Job:
    column = pl.from_arrow(pa.Table.from_batches(data.batches)).to_series()

    def run() -> tuple[Any, Any]:
        return column.ewm_mean(half_life=HALFLIFE), column.ewm_var(half_life=HALFLIFE, bias=True)

    return Job(run, lambda pair: _column([series[-1] for series in pair]))


def polars_ema_time(data: Data) -> Job:
    """Take its own definition: a recursion, α being by the time since the row before."""
    frame = pl.from_arrow(pa.Table.from_batches(data.batches))
    by_time = pl.col("x0").ewm_mean_by(TIME, half_life=f"{HALFLIFE_HOURS}h")
    return Job(lambda: frame.select(by_time), lambda out: np.array([[out.to_series()[-1]]]))


def polars_transform(data: Data) -> Job:
    mean, std = _mean_and_std(data)
    return _each(
        lambda frame: frame.select((pl.all() - mean) / std),
        [pl.from_arrow(batch) for batch in data.batches],
        lambda out: out.to_series().to_numpy(),
    )


# ------------------------------------------------------------------------- DuckDB


def duckdb_column(data: Data) -> Job:
    connection = duckdb.connect(config={"threads": 1})
    connection.register("data", pa.Table.from_batches(data.batches))
    query = "SELECT avg(x0), var_pop(x0) FROM data"
    return Job(lambda: connection.execute(query).fetchone(), _column)


# ------------------------------------------------------------------- scikit-learn


def sklearn_fit(data: Data) -> Job:
    return _sklearn(data.matrices)


def sklearn_weights(data: Data) -> Job:
    pairs = list(zip(_rowwise(data.matrices), _weights(data), strict=True))

    def run() -> Any:
        scaler = sklearn.StandardScaler()
        for x, w in pairs:
            scaler.partial_fit(x, sample_weight=w)
        return scaler

    return Job(run, lambda scaler: np.stack([scaler.mean_, scaler.var_]))


def sklearn_nulls(data: Data) -> Job:
    return _sklearn(_with_nan(data))


def _sklearn(matrices: Sequence[Matrix]) -> Job:
    rows = _rowwise(matrices)

    def run() -> Any:
        scaler = sklearn.StandardScaler()
        for x in rows:
            scaler.partial_fit(x)
        return scaler

    return Job(run, lambda scaler: np.stack([scaler.mean_, scaler.var_]))


def _rowwise(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Lay matrices out row by row in memory; one that comes again is laid out once."""
    laid = {id(x): np.ascontiguousarray(x) for x in matrices}
    return [laid[id(x)] for x in matrices]


def sklearn_transform(data: Data) -> Job:
    scaler = sklearn.StandardScaler().fit(data.matrices[0])
    return _each(scaler.transform, data.matrices, lambda out: out[:, 0])


# -------------------------------------------------------------------------- River


def river_fit(data: Data) -> Job:
    frames = frames_of(data)

    def run() -> Any:
        scaler = river.StandardScaler()
        for frame in frames:
            scaler.learn_many(frame)
        return scaler

    def read(scaler: Any) -> Floats:
        return np.array([[of[name] for name in frames[0]] for of in (scaler.means, scaler.vars)])

    return Job(run, read)


def frames_of(data: Data) -> list[Any]:
    names = [f"x{i}" for i in range(data.matrices[0].shape[1])]
    return [pd.DataFrame(x, columns=names, copy=False) for x in data.matrices]


def river_transform(data: Data) -> Job:
    frames = frames_of(data)
    scaler = river.StandardScaler()
    scaler.learn_many(frames[0])
    return _each(scaler.transform_many, frames, lambda out: out["x0"].to_numpy())


# -------------------------------------------------------------------------- torch


def torch_fit(data: Data) -> Job:
    def moments(x: Any) -> Any:
        return torch.var_mean(x if x.is_floating_point() else x.double(), 0, correction=0)

    tensors = [torch.from_numpy(x) for x in data.matrices]
    return _by_batch(tensors, moments, lambda pair: _equally(pair[1].numpy(), pair[0].numpy()))


def torch_transform(data: Data) -> Job:
    mean, std = _mean_and_std(data)
    layer = torch.nn.BatchNorm1d(1, eps=0.0, affine=False, dtype=torch.float64).eval()
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(std**2)
    tensors = [torch.from_numpy(x) for x in data.matrices]
    each = _each(layer, tensors, lambda out: out[:, 0].numpy())
    return each._replace(run=torch.inference_mode()(each.run))


# ------------------------------------------------------------------------- pandas


def pandas_ema(data: Data) -> Job:
    column = pd.Series(np.concatenate(data.matrices)[:, 0], copy=False)

    def run() -> tuple[Any, Any]:
        window = column.ewm(halflife=HALFLIFE)
        return window.mean(), window.var(bias=True)

    return Job(run, lambda pair: _column([series.iloc[-1] for series in pair]))


def pandas_ema_time(data: Data) -> Job:
    """Take the mean alone: by time there is no variance."""
    column = pd.Series(np.concatenate(data.matrices)[:, 0], copy=False)
    times = pd.Series(pa.Table.from_batches(data.batches)[TIME].to_numpy())

    def run() -> Any:
        return column.ewm(halflife=f"{HALFLIFE_HOURS}h", times=times).mean()

    return Job(run, lambda series: np.array([[series.iloc[-1]]]))
