"""What a workload is held against: the machine's limits, and streambn at easier work.

Reading every value once, or copying it, is the least that the work can take; NumPy does
both about as fast as the memory goes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from benchmarks.jobs import Job, streambn_exact, streambn_fit
from benchmarks.workloads import ON_ONE_THREAD, WEIGHT, WELFORD, Data, Matrix
from streambn import kernels

_POOL = ThreadPoolExecutor(2)


def _flat(data: Data) -> list[Matrix]:
    """View each batch as one row of numbers, in the order in which they lie in memory."""
    return [matrix.ravel(order="K") for matrix in data.matrices]


def np_max(data: Data) -> Job:
    arrays = _flat(data)
    return Job(lambda: [np.max(x) for x in arrays], np.array)


def np_max_on_two_by_batch(data: Data) -> Job:
    halves = [np.array_split(x, 2) for x in _flat(data)]
    return Job(lambda: [m for pair in halves for m in _POOL.map(np.max, pair)], np.array)


def np_max_on_two_at_once(data: Data) -> Job:
    halves = np.array_split(np.concatenate(_flat(data)), 2)
    return Job(lambda: list(_POOL.map(np.max, halves)), np.array)


def np_copyto_buffer(data: Data) -> Job:
    arrays = _flat(data)
    out = np.empty_like(arrays[0])

    def run() -> Matrix:
        for x in arrays:
            np.copyto(out, x)
        return out

    return Job(run, np.array)


def np_copyto_array(data: Data) -> Job:
    arrays = _flat(data)
    out = np.empty((len(arrays), len(arrays[0])))
    pairs = list(zip(out, arrays, strict=True))

    def run() -> Matrix:
        for into, x in pairs:
            np.copyto(into, x)
        return out

    return Job(run, lambda out: np.array(out[-1]))


def np_add_reduce(data: Data) -> Job:
    """Add ten values: about the least that NumPy can do, once for every batch."""
    tens = [x[:10] for x in _flat(data)]
    return Job(lambda: [np.add.reduce(x) for x in tens], np.array)


def streambn_without_nulls(data: Data) -> Job:
    return streambn_fit(_as_one_column(data))


def streambn_without_forgetting(data: Data) -> Job:
    return streambn_fit(data)


def streambn_exact_on_one_thread(data: Data) -> Job:
    job = streambn_exact(data)

    def run() -> object:
        kernels.set_threads(1)
        try:
            return job.run()
        finally:
            kernels.set_threads(2)

    return job._replace(run=run)


def streambn_without_weights(data: Data) -> Job:
    names = [name for name in data.batches[0].schema.names if name != WEIGHT]
    return streambn_fit(data._replace(batches=tuple(b.select(names) for b in data.batches)))


def streambn_on_one_column(data: Data) -> Job:
    return streambn_fit(_as_one_column(data))


def _as_one_column(data: Data) -> Data:
    """Take the same values, all of them, from the same memory as a single column."""
    columns = _flat(data)
    batches = [pa.record_batch([pa.array(x)], names=["x0"]) for x in columns]
    return Data(tuple(batches), tuple(x.reshape(-1, 1) for x in columns))


REFERENCES: dict[str, Callable[[Data], Job]] = {
    "np.max": np_max,
    "np.max on two threads, batch by batch": np_max_on_two_by_batch,
    "np.max on two threads, all at once": np_max_on_two_at_once,
    "np.copyto into one buffer": np_copyto_buffer,
    "np.copyto into one array": np_copyto_array,
    "np.add.reduce of 10 values": np_add_reduce,
    "streambn without nulls": streambn_without_nulls,
    "streambn without forgetting": streambn_without_forgetting,
    "streambn without weights": streambn_without_weights,
    "streambn on one column": streambn_on_one_column,
    WELFORD: streambn_fit,
    ON_ONE_THREAD: streambn_exact_on_one_thread,
}
