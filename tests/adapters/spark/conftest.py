"""One local Spark session for all tests of a process, with three attempts for each task."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spark_process import SETTINGS, needs_java

HERE = Path(__file__).parent
# pyspark says so whenever it runs a function on Arrow data.
PANDAS_3 = "ignore:PySpark does not yet fully support pandas:FutureWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(PANDAS_3))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a local session of two cores."""
    sql = pytest.importorskip("pyspark.sql", reason="needs pyspark: pip install pyspark")
    needs_java()
    builder = sql.SparkSession.builder.master("local[2, 3]")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    folder = tmp_path_factory.mktemp("warehouse")
    previous = os.environ.get("PYSPARK_PYTHON")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = builder.config("spark.sql.warehouse.dir", str(folder)).getOrCreate()
    yield session
    session.stop()
    if previous is None:
        del os.environ["PYSPARK_PYTHON"]


@pytest.fixture
def arrow_settings(spark: Any) -> Iterator[Any]:
    """Return a function that changes a setting of the session until the test ends."""
    before: dict[str, str | None] = {}

    def change(**values: Any) -> None:
        for name, value in values.items():
            key = f"spark.sql.execution.arrow.{name}"
            before.setdefault(key, spark.conf.get(key, None))
            spark.conf.set(key, str(value).lower())

    yield change
    for key, value in before.items():
        if value is None:
            spark.conf.unset(key)
        else:
            spark.conf.set(key, value)
