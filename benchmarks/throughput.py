"""Speed of the kernels in use against np.max over the same array: the limit of reading.

    python -m benchmarks.throughput

Interleaved runs (A, B, A, B, ...); medians, as ratios to np.max in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

import streambn as sbn
from streambn import kernels

VALUES = 16_000_000
RUNS = 15


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    x = np.random.default_rng(0).normal(size=VALUES)
    table, far = pa.table({"x": x}), pa.table({"x": x + 1e6})
    frozen = sbn.Normalizer().update(table).freeze()
    work: dict[str, Callable[[], object]] = {
        "np.max": x.max,
        "np.mean + np.var": lambda: (x.mean(), x.var()),
        "fit, Welford": lambda: sbn.Normalizer().update(table),
        "fit, at 1e6": lambda: sbn.Normalizer().update(far),
        "fit, EMA": lambda: sbn.Normalizer(sbn.EMA(halflife=10_000)).update(table),
        "transform": lambda: frozen.transform(table),
    }
    for run in work.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(RUNS):
        for name, run in work.items():
            times[name].append(seconds(run))
    print(f"{VALUES:,} float64, kernels: {kernels.active}, {RUNS} interleaved runs")
    limit = statistics.median(times["np.max"])
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"{name:18} {x.nbytes / median / 1e9:6.1f} GB/s   {limit / median:5.2f} of np.max")


if __name__ == "__main__":
    main()
