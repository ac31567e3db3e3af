"""Who does the work: a table of the peers, what each can do, and how exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

import streambn as sbn
from benchmarks import hosts, jobs
from benchmarks.jobs import Job
from benchmarks.workloads import Data, Task
from streambn import kernels

Tasks = Mapping[Task, Callable[[Data], Job]]


class Accuracy(NamedTuple):
    """What a peer's variance is good for, as the largest relative error of it.

    The same bound holds for the error of the mean, and of a normalized value, in
    standard deviations.

    Attributes
    ----------
    float64 : float
        Of float64 and integers whose mean is some standard deviations from zero.
    float32 : float
        The same of float32.
    far : float
        Of float64 whose mean is 1e8 standard deviations from zero.
    """

    float64: float
    float32: float
    far: float


class Peer(NamedTuple):
    """A library, and what it can do.

    Attributes
    ----------
    name : str
        As its people write it.
    package : str
        What to install.
    module : module or None
        None: it is not installed.
    accuracy : Accuracy
    tasks : mapping
        How it does each task; others it cannot do.
    """

    name: str
    package: str
    module: Any
    accuracy: Accuracy
    tasks: Tasks


def _inside(adapter: Any, tasks: Tasks) -> Tasks:
    """Give what streambn can do as a part of another library, if that is there."""
    return tasks if adapter is not None else {}


PEERS = (
    Peer(
        "streambn",
        "streambn",
        sbn,
        Accuracy(float64=1e-14, float32=1e-14, far=1e-14),
        {
            "column": jobs.streambn_fit,
            "threads": jobs.streambn_fit,
            "exact": jobs.streambn_exact,
            "nulls": jobs.streambn_fit,
            "batches": jobs.streambn_fit,
            "lists": jobs.streambn_fit,
            "ema": jobs.streambn_ema,
            "ema-time": jobs.streambn_ema_time,
            "weights": jobs.streambn_weights,
            "transform": jobs.streambn_transform,
            **_inside(
                hosts.river_adapter,
                {
                    "rows": hosts.streambn_rows,
                    "rows-ema": hosts.streambn_rows_ema,
                    "frames": hosts.streambn_frames,
                    "pipeline": hosts.streambn_pipeline,
                },
            ),
            **_inside(hosts.sklearn_adapter, {"partial-fit": hosts.streambn_partial_fit}),
        },
    ),
    Peer(
        "NumPy",
        "numpy",
        np,
        Accuracy(float64=1e-13, float32=1e-05, far=2e-09),
        {
            "column": jobs.numpy_fit,
            "exact": jobs.numpy_mean_and_var,
            "nulls": jobs.numpy_nulls,
            "batches": jobs.numpy_fit,
            "lists": jobs.numpy_fit,
            "weights": jobs.numpy_weights,
            "transform": jobs.numpy_transform,
        },
    ),
    Peer(
        "pyarrow",
        "pyarrow",
        pa,
        Accuracy(float64=1e-13, float32=1e-13, far=2e-09),
        {
            "column": jobs.pyarrow_column,
            "nulls": jobs.pyarrow_column,
            "batches": jobs.pyarrow_batches,
            "transform": jobs.pyarrow_transform,
        },
    ),
    Peer(
        "Polars",
        "polars",
        jobs.pl,
        Accuracy(float64=1e-13, float32=1e-06, far=5e-07),
        {
            "column": jobs.polars_column,
            "nulls": jobs.polars_column,
            "batches": jobs.polars_batches,
            "ema": jobs.polars_ema,
            "ema-time": jobs.polars_ema_time,
            "transform": jobs.polars_transform,
        },
    ),
    Peer(
        "DuckDB",
        "duckdb",
        jobs.duckdb,
        Accuracy(float64=1e-13, float32=1e-13, far=5e-07),
        {
            "column": jobs.duckdb_column,
            "exact": jobs.duckdb_column,
            "nulls": jobs.duckdb_column,
        },
    ),
    Peer(
        "scikit-learn",
        "scikit-learn",
        jobs.sklearn,
        Accuracy(float64=1e-13, float32=1e-13, far=2e-09),
        {
            "column": jobs.sklearn_fit,
            "nulls": jobs.sklearn_nulls,
            "batches": jobs.sklearn_fit,
            "lists": jobs.sklearn_fit,
            "weights": jobs.sklearn_weights,
            "partial-fit": hosts.sklearn_partial_fit,
            "transform": jobs.sklearn_transform,
        },
    ),
    Peer(
        "River",
        "river",
        jobs.river,
        Accuracy(float64=1e-12, float32=1e-12, far=10.0),
        {
            "column": jobs.river_fit,
            "batches": jobs.river_fit,
            "lists": jobs.river_fit,
            "transform": jobs.river_transform,
            "rows": hosts.river_rows,
            "rows-ema": hosts.river_rows_ema,
            "frames": hosts.river_frames,
            "pipeline": hosts.river_pipeline,
        },
    ),
    Peer(
        "torch",
        "torch",
        jobs.torch,
        Accuracy(float64=1e-12, float32=1e-06, far=5e-07),
        {
            "column": jobs.torch_fit,
            "batches": jobs.torch_fit,
            "lists": jobs.torch_fit,
            "transform": jobs.torch_transform,
        },
    ),
    Peer(
        "pandas",
        "pandas",
        jobs.pd,
        Accuracy(float64=1e-13, float32=1e-13, far=1e-07),
        {"ema": jobs.pandas_ema, "ema-time": jobs.pandas_ema_time},
    ),
)


def one_thread() -> None:
    """Hold those to one thread that do not go by the environment."""
    use_threads(1)
    pa.set_cpu_count(1)
    if jobs.torch is not None:
        jobs.torch.set_num_threads(1)


def use_threads(count: int) -> None:
    """Let streambn use so many threads."""
    kernels.set_threads(count)
