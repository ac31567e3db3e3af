"""Files that take thousands of times their size in memory do not take it from a job."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [
    pytest.mark.memory,
    pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not tell the memory"),
]

# Bytes of memory that a job may take, of which the modules it imports are about 80 MB.
MOST = 600 << 20


class File(NamedTuple):
    """A file that repeats its values, the columns to normalize, and the rows of 1 GB in memory."""

    write: Callable[[int], object]
    columns: str
    rows: int


def write(table: Any, group_rows: int | None = None, **options: Any) -> None:
    options = {"compression": "zstd", "store_schema": False, **options}
    pq.write_table(table, "in.parquet", row_group_size=group_rows or max(len(table), 1), **options)


def numbers(columns: int) -> Callable[[int], None]:
    def make(rows: int) -> None:
        zeros = pa.array(np.zeros(rows))
        write(pa.table({f"c{i}": zeros for i in range(columns)}))

    return make


def texts(
    group_rows: int | None = None, short: int = 0, wrap: Any = None, **options: Any
) -> Callable[[int], None]:
    """Write a column that repeats a text of a megabyte, after so many short ones."""

    def make(rows: int) -> None:
        long = os.urandom(500_000).hex()
        indices = np.repeat(np.array([0, 1], np.int32), [short, rows])
        column: Any = pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(["short", long]))
        if wrap is not None:
            column = wrap(column)
        write(pa.table({"x": np.arange(float(len(column))), "t": column}), group_rows, **options)

    return make


def struct(column: Any) -> Any:
    return pa.StructArray.from_arrays([pa.array(np.arange(len(column))), column], ["n", "t"])


def lists(column: Any) -> Any:
    offsets = pa.array(np.arange(len(column) + 1, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, column)


def differences(rows: int) -> None:
    """Write a megabyte of text once, and then that each text is equal to the one before it."""
    batch = [os.urandom(500_000).hex()] * 100
    column = pa.chunked_array([pa.array(batch)] * (rows // 100))
    encoding = {"t": "DELTA_BYTE_ARRAY"}
    table = pa.table({"x": np.arange(float(len(column))), "t": column})
    write(table, use_dictionary=False, column_encoding=encoding)


def long_lists(rows: int) -> None:
    offsets = np.arange(rows + 1, dtype=np.int32) * 4000
    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(4000 * rows)))
    write(pa.table({"x": np.arange(float(rows)), "l": column}))


def null_lists(rows: int) -> None:
    column = pa.nulls(rows, pa.list_(pa.float64(), 2000))
    write(pa.table({"x": np.arange(float(rows)), "l": column}), store_schema=True)


FILES = {
    "numbers": File(numbers(50), "*", 2_500_000),
    "many columns": File(numbers(5000), "*", 25_000),
    "texts": File(texts(), "x", 1000),
    "short texts first": File(texts(short=200_000), "x", 1000),
    "texts in small row groups": File(texts(100), "x", 1000),
    "texts in structs": File(texts(wrap=struct), "x", 1000),
    "texts in lists": File(texts(wrap=lists), "x", 1000),
    "equal to the text before": File(differences, "x", 1000),
    "long lists": File(long_lists, "x", 32_000),
    "null lists": File(null_lists, "*", 64_000),
}


# On Linux, a process begins with the peak of the one that started it, which tests may have made
# large. This small one starts the command.
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen([sys.executable, "-m", "streambn.cli", *sys.argv[1:]])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss, flush=True)
os._exit(os.waitstatus_to_exitcode(status))
"""


def peak(*args: str) -> int:
    """Run a command; return the bytes of memory that it took at most."""
    command = [sys.executable, "-c", MEASURE, *args, "--threads", "2"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", ["numbers", "short texts first", "texts in small row groups"])
def test_half_a_gigabyte_in_memory_is_rewritten_in_less(name: str, jobs_in_a_folder: None) -> None:
    file = FILES[name]
    file.write(file.rows // 2)  # without blocks of bounded size, a job takes twice as much
    assert Path("in.parquet").stat().st_size < 10 << 20
    assert peak("normalize", "in.parquet", "-o", "out.parquet", "--columns", file.columns) < MOST
    before, after = pq.ParquetFile("in.parquet"), pq.ParquetFile("out.parquet")
    assert after.metadata.num_row_groups == before.metadata.num_row_groups
    if name == "short texts first":  # not long: what passes through is the same
        rows = [0, 1, 199_999, 200_000, 200_499]
        one, other = (
            pq.read_table(path, columns=["t"], read_dictionary=["t"])["t"].take(pa.array(rows))
            for path in ("in.parquet", "out.parquet")
        )
        assert one.to_pylist() == other.to_pylist()


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_gigabytes_in_memory_are_fitted_applied_and_verified_in_less(
    name: str, jobs_in_a_folder: None
) -> None:
    file = FILES[name]
    file.write(file.rows * (10 if name == "numbers" else 2))
    assert peak("fit", "in.parquet", "-o", "s.json", "--columns", file.columns) < MOST
    # A page of each column is in memory whole, and the output has 5,000 columns.
    verify = [] if name == "many columns" else ["--verify"]
    assert peak("apply", "s.json", "in.parquet", "-o", "out.parquet", *verify) < MOST


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "out"),
    [
        *(("numbers", "out.arrow"), ("texts", "out.arrow"), ("long lists", "out.arrow")),
        *(("numbers", "out.csv"), ("texts", "out.csv")),
    ],
)
def test_a_gigabyte_in_memory_is_written_in_other_formats(
    name: str, out: str, jobs_in_a_folder: None
) -> None:
    file = FILES[name]
    file.write(file.rows)
    assert peak("normalize", "in.parquet", "-o", out, "--columns", file.columns) < MOST
