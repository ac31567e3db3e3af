"""What workloads are compared with: limits of the machine, and streambn at easier tasks.

No task on the values can be faster than reading each of them once, or copying it. NumPy does both
about as fast as the memory allows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

import streambn as sbn
from benchmarks import workloads
from benchmarks.jobs import STREAMBN, Job
from benchmarks.peers import streambn_fit
from benchmarks.workloads import WEIGHT, Data, Matrix
from streambn import kernels

_POOL = ThreadPoolExecutor(2)


def _flat(data: Data) -> list[Matrix]:
    """View each batch as one array, in the order in which its values lie in memory."""
    return [matrix.ravel(order="K") for matrix in data.matrices]


def np_max(data: Data) -> Job:
    arrays = _flat(data)
    return Job(lambda: [np.max(x) for x in arrays], np.array)


def np_max_by_batch(data: Data) -> Job:
    halves = [np.array_split(x, 2) for x in _flat(data)]
    return Job(lambda: [m for pair in halves for m in _POOL.map(np.max, pair)], np.array)


def np_max_at_once(data: Data) -> Job:
    halves = np.array_split(np.concatenate(_flat(data)), 2)
    return Job(lambda: list(_POOL.map(np.max, halves)), np.array)


def np_copyto(data: Data, buffers: int) -> Job:
    arrays = _flat(data)
    out = np.empty((buffers, len(arrays[0])))
    pairs = [(out[i % len(out)], x) for i, x in enumerate(arrays)]

    def run() -> Matrix:
        for into, x in pairs:
            np.copyto(into, x)
        return out

    return Job(run, lambda out: np.array(out[-1]))


def np_add_reduce(data: Data) -> Job:
    """Add ten values for each batch, about the least that NumPy can do."""
    tens = [x[:10] for x in _flat(data)]
    return Job(lambda: [np.add.reduce(x) for x in tens], np.array)


def streambn_exact_on_one_thread(data: Data) -> Job:
    job = STREAMBN.tasks["exact"](data)

    def run() -> object:
        kernels.set_threads(1)
        try:
            return job.run()
        finally:
            kernels.set_threads(2)

    return job._replace(run=run)


def streambn_in_river(data: Data) -> Job:
    """Normalize rows in River, and read the statistics alone."""
    job = STREAMBN.tasks[workloads.IN_RIVER](data)
    return job._replace(read=lambda out: job.read(out)[:2])


def row_normalizer_in_a_loop(data: Data) -> Job:
    """Learn and normalize each row, which is a dict."""
    rows = [row for batch in data.batches for row in batch.to_pylist()]

    def run() -> sbn.RowNormalizer:
        norm = sbn.RowNormalizer()
        learn, transform = norm.learn_one, norm.transform_one
        for row in rows:
            learn(row)
            transform(row)
        return norm

    return Job(run, lambda norm: np.stack([norm.stats()[n].to_numpy() for n in ("mean", "var")]))


def streambn_without_weights(data: Data) -> Job:
    batches = tuple(batch.drop_columns([WEIGHT]) for batch in data.batches)
    return streambn_fit(data._replace(batches=batches))


def streambn_on_one_column(data: Data) -> Job:
    """Learn the same values, from the same memory, as a single column without nulls."""
    batches = [pa.record_batch([pa.array(x)], names=["x0"]) for x in _flat(data)]
    return streambn_fit(data._replace(batches=tuple(batches)))


REFERENCES: dict[str, Callable[[Data], Job]] = {
    "np.max": np_max,
    workloads.ON_TWO_THREADS[0]: np_max_by_batch,
    workloads.ON_TWO_THREADS[1]: np_max_at_once,
    workloads.COPIES[0]: lambda data: np_copyto(data, buffers=1),
    workloads.COPIES[1]: lambda data: np_copyto(data, buffers=len(data.matrices)),
    workloads.TEN_VALUES: np_add_reduce,
    workloads.IN_RIVER: streambn_in_river,
    workloads.IN_A_LOOP: row_normalizer_in_a_loop,
    workloads.ON_ONE_THREAD: streambn_exact_on_one_thread,
    workloads.WITHOUT_NULLS: streambn_on_one_column,
    workloads.WITHOUT_FORGETTING: streambn_fit,
    workloads.WITHOUT_WEIGHTS: streambn_without_weights,
    workloads.ONE_COLUMN: streambn_on_one_column,
}
