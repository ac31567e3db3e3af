"""Small data files for tests, written by Arrow's own writers."""

from __future__ import annotations

import datetime
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def some_table(rows: int = 1100, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = pa.array(rng.normal(1e3, 2, rows), mask=rng.random(rows) < 0.1)
    n = pa.array(rng.integers(-(2**60), 2**60, rows))
    return pa.table({"x": x, "n": n, "s": [f"row {i % 7}" for i in range(rows)]})


def content(kind: Format, table: pa.Table, rows: int | None = None, **options: object) -> bytes:
    """Return the content of a file, with so many rows in a row group or batch."""
    sink = io.BytesIO()
    if kind is Format.PARQUET:
        pq.write_table(table, sink, row_group_size=rows, **options)
    elif kind is Format.CSV:
        pyarrow.csv.write_csv(table, sink)
    elif kind is Format.JSON:
        rows = (json.dumps(row, default=str) for row in table.to_pylist())
        sink.write("".join(f"{row}\n" for row in rows).encode())
    else:
        new = pa.ipc.new_file if kind is Format.IPC_FILE else pa.ipc.new_stream
        with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def write_as(path: str | Path, table: pa.Table, rows: int | None = None, **options: object) -> Path:
    """Write a table in the format of the path's suffix, compressed if .gz follows."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = SUFFIXES[Path(path.name.removesuffix(".gz")).suffix]
    data = content(kind, table, rows, **options)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_all_formats(table_of: Callable[[int, int], pa.Table], scale: int = 1) -> list[str]:
    """Write files of all formats into data/: of several pieces and batches, and without rows."""
    files = [
        *(("a.parquet", 50, 20), ("b.parquet", 0, 1), ("c.arrow", 30, 12), ("d.csv", 30, 30)),
        *(("e.arrows", 30, 12), ("more/f.csv.gz", 30, 30), ("more/g.parquet", 21, 3)),
    ]
    for seed, (name, rows, size) in enumerate(files):
        write_as(f"data/{name}", table_of(rows * scale, seed), size * scale)
    return [f"data/{name}" for name, _, _ in files]


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


class Drops(io.RawIOBase):
    """Returns a few bytes per read, as pipes do."""

    def __init__(self, whole: bytes, count: int) -> None:
        self._rest, self._count = whole, count

    def read(self, size: int = -1) -> bytes:
        size = min(size, self._count) if size >= 0 else self._count
        given, self._rest = self._rest[:size], self._rest[size:]
        return given
