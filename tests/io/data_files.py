"""Small data files for tests, written by Arrow's own writers."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from streambn.io import SUFFIXES, Format, Source, open_reader

TABLE = pa.table(
    {
        "x": pa.array([1.5, None, -2.25, float("inf")], pa.float64()),
        "y": pa.array([1, 2, None, 2**60], pa.int64()),
        "name": ["a", "b, c", "", 'd "e"'],
        "day": pa.array([datetime.date(2020, 1, n) for n in (1, 2, 3, 4)]),
    }
)
EVERY_SUFFIX = sorted(SUFFIXES)


def write_as(path: Path, table: pa.Table, **options: object) -> Path:
    """Write a table in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = SUFFIXES[path.suffix]
    if kind is Format.PARQUET:
        pq.write_table(table, path, **options)
    elif kind is Format.CSV:
        pyarrow.csv.write_csv(table, path)
    else:
        new = pa.ipc.new_file if kind is Format.IPC_FILE else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, **options)
    return path


def read(path: object, **options: object) -> pa.Table:
    return open_reader(Source(str(path)), **options).read_all()


def names(folder: Path) -> list[str]:
    """Return all paths below a folder, hidden ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_tree(folder: Path) -> None:
    """Write a file and a Hive-partitioned folder with hidden names."""
    for path in (
        "d/year=2020/city=S%C3%A3o%20Paulo/b.parquet",
        "d/year=2020/city=S%C3%A3o%20Paulo/a.parquet",
        "d/year=__HIVE_DEFAULT_PARTITION__/city=12/a.parquet",
        "d/_SUCCESS",
        "d/.hidden.parquet",
        "d/_temporary/0/a.parquet",
        "d/year=2020/city=12/.a.parquet.crc",
        "one.parquet",
    ):
        write_as(folder / (path if path.endswith(".parquet") else path + ".csv"), TABLE)
