"""The digits of Spark's own aggregates beside ours, and the memory of its Python workers."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streambn as sbn

pytest.importorskip("pyspark", reason="needs pyspark: pip install pyspark")

from pyspark import cloudpickle
from pyspark.sql import functions as F  # noqa: N812

from streambn.adapters.spark import fit

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def digits(value: float, true: float) -> float:
    """Return how many decimal digits agree."""
    return 17.0 if value == true else -math.log10(abs(value / true - 1))


def test_fit_has_more_digits_than_the_aggregates_of_spark(spark: Any) -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=1000)
    df = spark.createDataFrame(pa.table({"x": values})).repartition(4)
    exact = sbn.Normalizer(sbn.Exact()).update(pa.table({"x": values})).stats()
    [[mean], [var]] = exact["mean"].to_pylist(), exact["var"].to_pylist()
    theirs = df.agg(F.avg("x"), F.var_pop("x")).first()
    ours = fit(df, sbn.Normalizer()).stats()
    assert digits(ours["mean"][0].as_py(), mean) > 15.5
    assert digits(ours["var"][0].as_py(), var) > 15
    assert digits(theirs[0], mean) > 15
    # Spark agrees to its own accuracy, which is that of a mean in float64.
    assert 6 < digits(theirs[1], var) < 12


def peak_memory(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the peak memory in kB of the other Python workers of this daemon."""
    for _ in batches:
        pass
    peaks = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue
        if lines.get("PPid", "").strip() == str(os.getppid()):
            peaks.append(int(lines["VmHWM"].split()[0]))
    yield pa.RecordBatch.from_pydict({"kb": peaks})


@pytest.mark.long
def test_the_memory_of_workers_is_flat(spark: Any) -> None:
    def peak_after(rows: int) -> int:
        df = spark.range(0, rows, 1, 2).selectExpr(*[f"rand({i}) AS x{i}" for i in range(8)])
        counts = fit(df, sbn.Normalizer(sbn.Exact())).stats()["count"].to_pylist()
        assert counts == [rows] * 8
        found = spark.range(0, 1, 1, 1).mapInArrow(peak_memory, "kb long").toArrow()
        return max(found["kb"].to_pylist())

    few = peak_after(10**6)
    assert peak_after(10**7) < few + 20_000
