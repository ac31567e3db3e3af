"""Spark as an executor: a function is called for each of many items, in a task of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import re
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import pyarrow as pa
from pyspark import TaskContext, inheritable_thread_target
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.types import BinaryType, LongType, StructField, StructType

from streambn.errors import StreamBNError
from streambn.jobs import configure_process

from .workers import check_session, job, task

__all__ = ["SparkExecutor"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items go to Spark in jobs of so many per core, so that results come while others are made. Two
# jobs run at a time: while the last tasks of one run, those of the next begin.
_ITEMS_PER_CORE, _JOBS = 4, 2
# A task costs about 50 ms, so it takes several items if no core is idle because of it.
_ITEMS_PER_TASK = 4
# A client of Spark Connect does not know the cores of the cluster.
_CORES = 64
_TYPE: Final = StructType(
    [
        StructField("place", LongType(), nullable=False),
        StructField("result", BinaryType(), nullable=False),
    ]
)


class SparkExecutor:
    """Calls a function for many items in tasks of Spark, as `concurrent.futures.Executor` does.

    A task calls it for a few items that follow each other.

    Function, items and results travel as pickles, as Spark's own do. A task that fails is tried
    again as Spark is configured to, and one result of an item counts, however often it ran.

    Parameters
    ----------
    spark : SparkSession
        Of Spark or of Spark Connect.

    Raises
    ------
    InvalidValueError
        It is no session, or it is stopped.

    Notes
    -----
    `map` raises an error of the function that is one of streambn's, and otherwise a
    `StreamBNError` whose cause is the error of Spark.
    """

    def __init__(self, spark: SparkSession) -> None:
        check_session(spark)
        self._spark = spark
        self._cores = _CORES
        with contextlib.suppress(PySparkException):
            self._cores = spark.sparkContext.defaultParallelism

    def map(
        self, fn: Callable[[Item], Result], iterable: Iterable[Item], /
    ) -> Generator[Result, None, None]:
        """Yield the result for each item, in their order.

        Close the generator to cancel the tasks that run.
        """
        items = list(iterable)
        tag = f"streambn-{uuid.uuid4().hex}"
        run = inheritable_thread_target(self._spark)(functools.partial(self._run, fn, tag))
        size = self._cores * _ITEMS_PER_CORE
        waiting = deque(items[start : start + size] for start in range(0, len(items), size))
        running: deque[Future[list[Result]]] = deque()
        with ThreadPoolExecutor(_JOBS, "streambn-spark") as threads:
            try:
                while waiting or running:
                    while waiting and len(running) < _JOBS:
                        running.append(threads.submit(run, waiting.popleft()))
                    yield from running.popleft().result()
            except BaseException:
                for future in running:
                    future.cancel()
                with contextlib.suppress(Exception):  # the session may be gone
                    self._spark.interruptTag(tag)
                raise

    def _run(self, fn: Callable[[Item], Result], tag: str, items: Sequence[Item]) -> list[Result]:
        """Run one job, on a thread."""
        call = functools.partial(_call, fn, items, os.getcwd())
        in_task = min(max(len(items) // self._cores, 1), _ITEMS_PER_TASK)
        self._spark.addTag(tag)
        with _explained(), job():
            places = self._spark.range(0, len(items), 1, -(-len(items) // in_task))
            found = places.mapInArrow(call, _TYPE).toArrow()
        results = dict(zip(found["place"].to_pylist(), found["result"].to_pylist(), strict=True))
        return [pickle.loads(results[place]) for place in range(len(items))]


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raise what Spark says of a failed job in one line, whose cause has the rest."""
    try:
        yield
    except PySparkException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit): ", line)]
        reason = (raised[-1:] or lines[:1] or [type(error).__name__])[0]
        raise StreamBNError(f"a job of Spark failed: {reason:.500}") from error


def _call(
    fn: Callable[[Any], Any], items: Sequence[Any], folder: str, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Call the function for the items of a partition, in a task."""
    with task():
        context = TaskContext.get()
        configure_process(1 if context is None else context.cpus())
        for batch in batches:
            places = batch.column(0).to_pylist()
            with _in_folder(folder):
                results = [pickle.dumps(fn(items[place])) for place in places]
            yield pa.RecordBatch.from_arrays(
                [pa.array(places, pa.int64()), pa.array(results, pa.binary())],
                names=[field.name for field in _TYPE],
            )


@contextlib.contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    """Change into the driver's folder, if there is one here: relative paths start from it."""
    before = os.getcwd()
    with contextlib.suppress(OSError):
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
