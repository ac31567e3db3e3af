"""The table of peers: the libraries, their accuracy, and how each does each task.

Each peer does a task as well as it can, on data in the form that suits it; the time to bring the
data into that form does not count. Statistics are those of all batches; variances have the
divisor n. NumPy, pyarrow, Polars and torch keep no running state. They compute the moments of each
batch, and the time to combine them does not count either, in their favour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import streambn as sbn
from benchmarks.hosts import RIVER, SKLEARN
from benchmarks.jobs import (
    STREAMBN,
    Accuracy,
    Floats,
    Job,
    Peer,
    by_batch,
    fold,
    optional,
    transform_each,
    weights_of,
    with_nan,
)
from benchmarks.workloads import HALFLIFE, HALFLIFE_HOURS, TIME, WEIGHT, Data, Matrix
from streambn import kernels

duckdb, pd, pl, torch = map(optional, ("duckdb", "pandas", "polars", "torch"))

NUMPY = Peer("NumPy", "numpy", np, Accuracy(float64=1e-13, float32=1e-05, far=2e-09))
PYARROW = Peer("pyarrow", "pyarrow", pa, Accuracy(float64=1e-13, float32=1e-13, far=2e-09))
POLARS = Peer("Polars", "polars", pl, Accuracy(float64=1e-13, float32=1e-06, far=5e-07))
DUCKDB = Peer("DuckDB", "duckdb", duckdb, Accuracy(float64=1e-13, float32=1e-13, far=5e-07))
TORCH = Peer("torch", "torch", torch, Accuracy(float64=1e-12, float32=1e-06, far=5e-07))
PANDAS = Peer("pandas", "pandas", pd, Accuracy(float64=1e-13, float32=1e-13, far=1e-07))
PEERS = (STREAMBN, NUMPY, PYARROW, POLARS, DUCKDB, SKLEARN, RIVER, TORCH, PANDAS)


def limit_threads(count: int) -> None:
    """Let streambn use some threads, and each peer one."""
    kernels.set_threads(count)
    pa.set_cpu_count(1)
    if torch is not None:
        torch.set_num_threads(1)


def _pair(values: Sequence[float]) -> Floats:
    return np.array(values, np.float64).reshape(2, 1)


def _first_moments(data: Data) -> tuple[float, float]:
    """Return mean and deviation of the first batch, by which every peer transforms."""
    return float(data.matrices[0].mean()), float(data.matrices[0].std())


def _table(data: Data) -> Any:
    return pa.Table.from_batches(data.batches)


# ------------------------------------------------------------------------------- streambn


@STREAMBN.does("column", "threads", "nulls", "batches", "lists")
def streambn_fit(data: Data, policy: Any = None, weights: str | None = None) -> Job:
    def read(norm: sbn.Normalizer) -> Floats:
        return np.stack([norm.stats()[name].to_numpy() for name in ("mean", "var")])

    make = partial(sbn.Normalizer, policy, weights=weights)
    return Job(fold(make, sbn.Normalizer.update, data.batches), read)


_BY_TIME = sbn.EMA(halflife=f"{HALFLIFE_HOURS}h", time=TIME)
STREAMBN.does("exact")(partial(streambn_fit, policy=sbn.Exact()))
STREAMBN.does("ema")(partial(streambn_fit, policy=sbn.EMA(halflife=HALFLIFE)))
STREAMBN.does("ema-time")(partial(streambn_fit, policy=_BY_TIME))
STREAMBN.does("weights")(partial(streambn_fit, weights=WEIGHT))


@STREAMBN.does("transform")
def streambn_transform(data: Data) -> Job:
    frozen = sbn.Normalizer().update(data.batches[0]).freeze()
    return transform_each(frozen.transform, data.batches, lambda out: out.column(0).to_numpy())


@STREAMBN.does("by-row")
def streambn_by_row(data: Data, policy: Any = None) -> Job:
    def run() -> Any:
        norm = sbn.Normalizer(policy)
        for batch in data.batches:
            out = norm.update_transform(batch, by_row=True)
        return out

    return Job(run, lambda out: np.array([column[-1].as_py() for column in out.columns]))


STREAMBN.does("by-row-ema")(partial(streambn_by_row, policy=sbn.EMA(halflife=HALFLIFE)))


def _frozen(data: Data) -> tuple[sbn.FrozenNormalizer, Floats]:
    """Return the statistics of all batches, frozen, and their means and variances."""
    job = streambn_fit(data)
    norm = job.run()
    return norm.freeze(), job.read(norm)


@STREAMBN.does("rows-frozen")
def streambn_rows(data: Data) -> Job:
    frozen, moments = _frozen(data)
    rows = [row for batch in data.batches for row in batch.to_pylist()]
    return transform_each(
        frozen.transform_one, rows, lambda out: np.vstack([moments, list(out.values())])
    )


@STREAMBN.does("rows-as-batches")
def streambn_one_row_batches(data: Data) -> Job:
    frozen, moments = _frozen(data)
    return transform_each(
        frozen.transform, data.batches, lambda out: np.vstack([moments, np.ravel(out.columns)])
    )


# ---------------------------------------------------------------------------------- NumPy


@NUMPY.does("column", "batches", "lists")
def numpy_fit(data: Data) -> Job:
    def moments(x: Matrix) -> tuple[Matrix, Matrix]:
        mean = x.mean(axis=0, keepdims=True)
        return mean[0], x.var(axis=0, mean=mean)

    return by_batch(data.matrices, moments)


@NUMPY.does("exact")
def numpy_mean_and_var(data: Data) -> Job:
    """Call both functions, as most people do: `var` computes the mean again."""
    return by_batch(data.matrices, lambda x: (x.mean(axis=0), x.var(axis=0)))


@NUMPY.does("nulls")
def numpy_nulls(data: Data) -> Job:
    """Drop NaN, which takes a third of the time of `nanmean` and `nanvar`."""

    def moments(x: Floats) -> Floats:
        x = x[~np.isnan(x)]
        mean = x.mean(keepdims=True)
        return np.array([[len(x)], mean, [x.var(mean=mean)]])

    return by_batch([x[:, 0] for x in with_nan(data)], moments)


@NUMPY.does("weights")
def numpy_weights(data: Data) -> Job:
    def moments(pair: tuple[Matrix, Floats]) -> tuple[Matrix, Matrix, Matrix]:
        x, w = pair
        mean, weight = np.average(x, axis=0, weights=w, returned=True)
        return weight, mean, np.average((x - mean) ** 2, axis=0, weights=w)

    return by_batch(list(zip(data.matrices, weights_of(data), strict=True)), moments)


@NUMPY.does("transform")
def numpy_transform(data: Data) -> Job:
    mean, std = _first_moments(data)
    out = np.empty(len(data.matrices[0]))

    def transform(x: Floats) -> Floats:
        np.subtract(x, mean, out=out)
        return np.multiply(out, 1 / std, out=out)

    return transform_each(transform, [x[:, 0] for x in data.matrices], lambda out: out)


# -------------------------------------------------------------------------------- pyarrow


@PYARROW.does("column", "nulls")
def pyarrow_column(data: Data) -> Job:
    column = _table(data).column(0)
    return Job(
        lambda: (pc.mean(column), pc.variance(column)),
        lambda scalars: _pair([scalar.as_py() for scalar in scalars]),
    )


@PYARROW.does("batches")
def pyarrow_batches(data: Data) -> Job:
    def moments(batch: Any) -> tuple[list[Any], list[Any]]:
        return [pc.mean(x) for x in batch], [pc.variance(x) for x in batch]

    return by_batch(data.batches, moments, lambda out: [[x.as_py() for x in row] for row in out])


@PYARROW.does("transform")
def pyarrow_transform(data: Data) -> Job:
    mean, std = _first_moments(data)
    return transform_each(
        lambda x: pc.divide(pc.subtract(x, mean), std),
        [batch.column(0) for batch in data.batches],
        lambda out: out.to_numpy(),
    )


# --------------------------------------------------------------------------------- Polars


def _polars_moments(frame: Any) -> Any:
    return frame.select(pl.all().mean(), pl.all().var(ddof=0).name.prefix("var_"))


def _polars_read(frame: Any) -> Floats:
    moments: Floats = frame.to_numpy().reshape(2, -1)
    return moments


@POLARS.does("column", "nulls")
def polars_column(data: Data) -> Job:
    # The column keeps its chunks. To concatenate them is not part of the task.
    frame = pl.from_arrow(_table(data), rechunk=False)
    return Job(partial(_polars_moments, frame), _polars_read)


@POLARS.does("batches")
def polars_batches(data: Data) -> Job:
    return by_batch([pl.from_arrow(b) for b in data.batches], _polars_moments, _polars_read)


@POLARS.does("ema")
def polars_ema(data: Data) -> Job:
    x = pl.from_arrow(_table(data)).to_series()
    return Job(
        lambda: (x.ewm_mean(half_life=HALFLIFE), x.ewm_var(half_life=HALFLIFE, bias=True)),
        lambda pair: _pair([series[-1] for series in pair]),
    )


@POLARS.does("by-row-ema")
def polars_by_row_ema(data: Data) -> Job:
    frame, x = pl.from_arrow(_table(data)), pl.all()
    std = x.ewm_std(half_life=HALFLIFE, bias=True)
    return Job(
        lambda: frame.select((x - x.ewm_mean(half_life=HALFLIFE)) / std),
        lambda out: np.array(out.row(-1)),
    )


@POLARS.does("ema-time")
def polars_ema_time(data: Data) -> Job:
    """Use Polars' own definition, a recursion whose α depends on the time since the last row."""
    frame = pl.from_arrow(_table(data))
    mean = pl.col("x0").ewm_mean_by(TIME, half_life=f"{HALFLIFE_HOURS}h")
    return Job(lambda: frame.select(mean), lambda out: np.array([[out.to_series()[-1]]]))


@POLARS.does("transform")
def polars_transform(data: Data) -> Job:
    mean, std = _first_moments(data)
    return transform_each(
        lambda frame: frame.select((pl.all() - mean) / std),
        [pl.from_arrow(batch) for batch in data.batches],
        lambda out: out.to_series().to_numpy(),
    )


# ------------------------------------------------------------------- DuckDB, pandas, torch


@DUCKDB.does("column", "exact", "nulls")
def duckdb_column(data: Data) -> Job:
    connection = duckdb.connect(config={"threads": 1})
    connection.register("data", _table(data))
    query = "SELECT avg(x0), var_pop(x0) FROM data"
    return Job(lambda: connection.execute(query).fetchone(), _pair)


@PANDAS.does("ema")
def pandas_ema(data: Data) -> Job:
    window = pd.Series(np.concatenate(data.matrices)[:, 0], copy=False).ewm(halflife=HALFLIFE)
    return Job(
        lambda: (window.mean(), window.var(bias=True)),
        lambda pair: _pair([series.iloc[-1] for series in pair]),
    )


@PANDAS.does("by-row")
def pandas_by_row(data: Data) -> Job:
    frame = pd.DataFrame(np.concatenate(data.matrices), copy=False)
    window = frame.expanding()
    return Job(
        lambda: (frame - window.mean()) / window.std(ddof=0), lambda out: out.iloc[-1].to_numpy()
    )


@PANDAS.does("by-row-ema")
def pandas_by_row_ema(data: Data) -> Job:
    frame = pd.DataFrame(np.concatenate(data.matrices), copy=False)
    window = frame.ewm(halflife=HALFLIFE)
    return Job(
        lambda: (frame - window.mean()) / window.std(bias=True),
        lambda out: out.iloc[-1].to_numpy(),
    )


@PANDAS.does("ema-time")
def pandas_ema_time(data: Data) -> Job:
    """Compute the mean alone: pandas has no variance by time."""
    x = pd.Series(np.concatenate(data.matrices)[:, 0], copy=False)
    times = pd.Series(_table(data)[TIME].to_numpy())
    window = x.ewm(halflife=f"{HALFLIFE_HOURS}h", times=times)
    return Job(window.mean, lambda series: np.array([[series.iloc[-1]]]))


@TORCH.does("column", "batches", "lists")
def torch_fit(data: Data) -> Job:
    def moments(x: Any) -> Any:
        return torch.var_mean(x if x.is_floating_point() else x.double(), 0, correction=0)

    tensors = [torch.from_numpy(x) for x in data.matrices]
    return by_batch(tensors, moments, lambda pair: [pair[1].numpy(), pair[0].numpy()])


@TORCH.does("transform")
def torch_transform(data: Data) -> Job:
    mean, std = _first_moments(data)
    layer = torch.nn.BatchNorm1d(1, eps=0.0, affine=False, dtype=torch.float64).eval()
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(std**2)
    tensors = [torch.from_numpy(x) for x in data.matrices]
    job = transform_each(layer, tensors, lambda out: out[:, 0].numpy())
    return job._replace(run=torch.inference_mode()(job.run))
