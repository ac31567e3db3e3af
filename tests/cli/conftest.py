"""Data and files for the tests of the commands."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import CO2, fit, good


@pytest.fixture(autouse=True)
def _in_a_folder(jobs_in_a_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in an empty folder, with no width of a terminal that others have set."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def co2() -> pd.DataFrame:
    return pd.read_csv(CO2, parse_dates=["date"])


@pytest.fixture
def fitted() -> str:
    """Frozen statistics of t.parquet."""
    fit(pa.table({"price": [1.0, 2.0], "s": ["a", "b"]}), "--frozen")
    return "s.json"


@pytest.fixture
def partitions() -> pa.Table:
    """Write a Hive-partitioned folder, data/; return its rows with their keys."""
    tables = []
    for year in (2020, 2021, 2022):
        table = pa.table({"x": [year + 0.5, None, -1.0], "n": [year, 2, 3], "s": ["a", "b", "c"]})
        path = Path("data") / f"year={year}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, compression="zstd")
        tables.append(table.append_column("year", pa.array([year] * 3)))
    Path("data/_SUCCESS").touch()
    return pa.concat_tables(tables)


@pytest.fixture
def trades() -> pa.Table:
    """Rows of two weeks, out of order, some of weight 0, and a column of text."""
    rng = np.random.default_rng(11)
    minutes = rng.integers(0, 14 * 24 * 60, 900)
    start = np.datetime64("2026-03-02T09:30", "s")
    return pa.table(
        {
            "price": pa.array(rng.normal(100, 3, 900), mask=rng.random(900) < 0.1),
            "at": start + 60 * minutes,
            "volume": rng.integers(0, 5, 900),
            "venue": ["XETR"] * 900,
        }
    )


@pytest.fixture
def mixed() -> str:
    """Frozen statistics of mixed.parquet, which has columns of many kinds."""
    table = pa.table(
        {
            "revenue_of_the_whole_group": [1234567.5, 7654321.0, 5.0],
            "flat": [7.0, 7.0, 7.0],
            "void": pa.array([None, None, None], pa.float64()),
            "hole": [0.1, math.nan, None],
            "emb": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int8(), 2)),
        }
    )
    pq.write_table(pa.concat_tables([table] * 500), "mixed.parquet")
    good("fit", "mixed.parquet", "-o", "mixed.json", "--frozen")
    return "mixed.json"


@pytest.fixture
def large() -> str:
    """An Arrow file larger than the buffer of a pipe, and its statistics in s.json."""
    table = pa.table({"x": pa.array(range(1_000_000), pa.float64())})
    with pa.ipc.new_file("large.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)
    good("fit", "large.arrow", "-o", "s.json")
    return "large.arrow"
