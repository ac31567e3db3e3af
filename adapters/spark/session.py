"""A session of Spark for one command: started quietly, and stopped at the end."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from streambn.errors import StreamBNError

__all__ = ["open_session"]


@contextlib.contextmanager
def open_session(master: str | None = None) -> Iterator[SparkSession]:
    """Start a session, and stop it when the block ends.

    Spark logs nothing to stderr, which belongs to the command, and shows no bar.

    Parameters
    ----------
    master : str, optional
        Such as ``"local[4]"``, ``"spark://host:7077"`` or ``"yarn"``; one that begins with
        ``sc://`` is a server of Spark Connect. Default: what ``SPARK_REMOTE``, ``MASTER`` or the
        configuration of Spark say, else all cores of this machine.

    Raises
    ------
    StreamBNError
        Spark does not start, perhaps because there is no Java.
    """
    # It is about data of pandas, which the jobs on files do not move.
    warnings.filterwarnings("ignore", r"PySpark does not yet fully support pandas", FutureWarning)
    builder = SparkSession.builder.appName("streambn")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    if master is not None:
        # pyspark refuses a master beside a server in the environment.
        for name in ("SPARK_REMOTE", "MASTER"):
            os.environ.pop(name, None)
        builder = builder.remote(master) if master.startswith("sc://") else builder.master(master)
    with tempfile.TemporaryFile() as log:
        try:
            with _stderr_to(log.fileno()):  # and that of the JVM, as long as it lives
                spark = builder.getOrCreate()
        except Exception as error:  # of pyspark, py4j or gRPC, or from a missing Java
            log.seek(0)
            raise _explain(error, log.read().decode(errors="replace"), master) from error
    with contextlib.suppress(PySparkException):  # a client of Spark Connect has no context
        context = spark.sparkContext
        if str(context.master).startswith("local") and "PYSPARK_PYTHON" not in os.environ:
            context.pythonExec = sys.executable
    try:
        yield spark
    finally:
        with contextlib.suppress(Exception):  # it may have ended by itself
            spark.stop()


@contextlib.contextmanager
def _stderr_to(file: int) -> Iterator[None]:
    """Send what this process and its new children write to stderr elsewhere."""
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _explain(error: Exception, log: str, master: str | None) -> StreamBNError:
    reasons = re.findall(r"[\w.]+(?:Exception|Error): (.+)", log)
    exited = isinstance(error, PySparkException) and error.getCondition() == "JAVA_GATEWAY_EXITED"
    if exited and not reasons:
        return StreamBNError(
            "Spark needs Java 17: install a JDK, and set JAVA_HOME if java is not on the PATH."
        )
    where = "" if master is None else f" with the master {master!r}"
    reason = reasons[0] if reasons else str(error).strip() or type(error).__name__
    return StreamBNError(f"Spark does not start{where}: {reason.splitlines()[0]}")
