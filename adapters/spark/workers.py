"""The session and its Python workers: checked before a job, and understood when a job fails."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark import TaskContext
from pyspark.sql import DataFrame

from streambn.errors import InvalidValueError, StreamBNError

from .._parts import error_from_json, error_to_json

__all__ = [
    "TaskError",
    "check_frame",
    "check_session",
    "job",
    "partition_id",
    "start_task",
    "task",
]

_TOKEN = re.compile(r"\[streambn:([A-Za-z0-9+/=]+)\]")
_MISSING = re.compile(
    r"ModuleNotFoundError: (No module named '(?:streambn|pyarrow|numpy|msgspec)\b.*)"
    r"|(?:ImportError|AttributeError): (.*'streambn\b.*)"
)
_NOT_STARTED = re.compile(r'Cannot run program "([^"]*)"')
_VERSIONS = re.compile(r"\[PYTHON_VERSION_MISMATCH\] ([^\n]*)")


# ------------------------------------------------------------------------ on the driver


def check_frame(df: Any, argument: str = "df") -> None:
    """Raise an InvalidValueError unless `df` is a Spark DataFrame of a running session."""
    if not isinstance(df, DataFrame):
        raise InvalidValueError(
            f"{argument} must be a Spark DataFrame, got {type(df).__name__}.", argument=argument
        )
    check_session(df.sparkSession)


def check_session(spark: Any) -> None:
    """Raise an InvalidValueError if `spark` is not a session, or is stopped."""
    is_stopped = getattr(spark, "is_stopped", None)  # a session of Spark Connect has it
    if is_stopped is None:
        context = getattr(spark, "sparkContext", None)
        if context is None:
            raise InvalidValueError(
                f"spark must be a SparkSession, got {type(spark).__name__}.", argument="spark"
            )
        is_stopped = context._jsc is None or context._jsc.sc().isStopped()
    if is_stopped:
        raise InvalidValueError(
            "the Spark session is stopped. Start one with SparkSession.builder.getOrCreate(), and "
            "read the data again.",
            argument="spark",
        )


@contextmanager
def job() -> Iterator[None]:
    """Run a Spark job; its failures that have to do with streambn become one clear line.

    An error that `task` caught on a worker is raised again on the driver, of its own kind. Other
    failures stay as they are.
    """
    try:
        yield
    except StreamBNError:
        raise
    except Exception as error:  # of pyspark, py4j or gRPC, of which a client may lack one
        known = _explain(str(error))
        if known is None:
            raise
        raise known from error


def _explain(text: str) -> StreamBNError | None:
    if token := _TOKEN.search(text):
        return error_from_json(base64.b64decode(token[1]).decode())
    if program := _NOT_STARTED.search(text):
        return InvalidValueError(
            f"Spark's workers cannot start {program[1]!r} as Python. Set PYSPARK_PYTHON to a "
            "Python that exists on every worker and has streambn.",
            argument="spark",
        )
    if versions := _VERSIONS.search(text):
        return InvalidValueError(
            f"driver and workers run different versions of Python: {versions[1]} Set "
            "PYSPARK_PYTHON to a Python like the driver's that has streambn.",
            argument="spark",
        )
    if missing := _MISSING.search(text):
        reason = (missing[1] or missing[2]).strip()
        return InvalidValueError(
            f"Spark's workers cannot import streambn ({reason}). Install the driver's version on "
            "every worker, or set PYSPARK_PYTHON to a Python that has it.",
            argument="spark",
        )
    if "SESSION_OR_CONTEXT_NOT_EXISTS" in text or "stopped SparkContext" in text:
        return InvalidValueError("the Spark session was stopped.", argument="spark")
    if "spark.driver.maxResultSize" in text:
        return StreamBNError(
            "the states of all partitions exceed spark.driver.maxResultSize. Raise it, or learn "
            "fewer partitions: df.coalesce(1000)."
        )
    if "Python worker exited unexpectedly" in text:
        return StreamBNError(
            "a Python worker of Spark was killed in each attempt of a task, perhaps for its use of "
            "memory. Give workers more memory, or set "
            "spark.python.worker.faulthandler.enabled=true to see where it ends."
        )
    return None


# ------------------------------------------------------------------------- on the workers


class TaskError(RuntimeError):
    """An error of streambn in a task, whose text the driver turns back into that error."""

    def __init__(self, error: StreamBNError) -> None:
        content = base64.b64encode(error_to_json(error).encode()).decode()
        super().__init__(f"{error} [streambn:{content}]")


def start_task() -> None:
    """Limit the kernels of this worker to the cores of one task: Spark runs a task on each core.

    The kernels read the variable when they are first used.
    """
    context = TaskContext.get()
    os.environ.setdefault("STREAMBN_THREADS", "1" if context is None else str(context.cpus()))


@contextmanager
def task() -> Iterator[None]:
    """Run the body of a task; `job` understands the errors of streambn in it."""
    start_task()
    try:
        yield
    except StreamBNError as error:
        raise TaskError(error) from error


def partition_id() -> int:
    """Return the number of the partition that this task has."""
    context = TaskContext.get()
    return 0 if context is None else context.partitionId()
