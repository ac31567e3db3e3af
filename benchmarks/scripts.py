"""What each peer does with files, in a process of its own: started by `benchmarks.filejobs`.

    python -P scripts.py TASK FOLDER [CODEC]

It imports nothing of the benchmarks, so a process starts with what it measures. FOLDER has the
data in ``in``. A task writes normalized files into ``out``, and into ``found.json`` either mean and
deviation of each column, or the seconds that it took.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

Found = dict[str, tuple[float, float]]

THREADS = len(os.sched_getaffinity(0))
PASSES = 5  # that a task times within its process


def polars_fit(folder: Path) -> Found:
    """Compute the statistics of all files together."""
    pl: Any = importlib.import_module("polars")
    both = pl.all().mean(), pl.all().std(ddof=0).name.prefix("std of ")
    [row] = pl.scan_parquet(_inputs(folder)).select(*both).collect(engine="streaming").to_dicts()
    return {name: (row[name], row[f"std of {name}"]) for name in row if f"std of {name}" in row}


def polars_normalize(folder: Path, codec: str) -> Found:
    """Write each file normalized by the statistics of all, all files at the same time."""
    pl: Any = importlib.import_module("polars")
    found = polars_fit(folder)
    columns = [(pl.col(name) - mean) / std for name, (mean, std) in found.items()]
    writes = [
        pl.scan_parquet(path)
        .select(columns)
        .sink_parquet(folder / "out" / path.name, compression=codec, lazy=True)
        for path in _inputs(folder)
    ]
    pl.collect_all(writes, engine="streaming")
    return found


def duckdb_fit(folder: Path) -> Found:
    """Compute the statistics of one file."""
    connection = importlib.import_module("duckdb").connect()
    [path] = _inputs(folder)
    names = connection.sql(f"FROM '{path}'").columns
    both = ", ".join(f"avg({name}), stddev_pop({name})" for name in names)
    row = connection.execute(f"SELECT {both} FROM '{path}'").fetchone()
    return {name: (row[2 * i], row[2 * i + 1]) for i, name in enumerate(names)}


def duckdb_normalize(folder: Path, codec: str) -> Found:
    """Write one file normalized. DuckDB keeps the order of the rows by default."""
    found = duckdb_fit(folder)
    [path] = _inputs(folder)
    columns = ", ".join(f"({n} - {mean!r}) / {std!r} AS {n}" for n, (mean, std) in found.items())
    importlib.import_module("duckdb").connect().execute(
        f"COPY (SELECT {columns} FROM '{path}') TO '{folder / 'out' / path.name}' "
        f"(FORMAT parquet, COMPRESSION {codec})"
    )
    return found


def pyarrow_fit(folder: Path) -> NoReturn:
    """Read what streambn's `fit` reads, in the same way, and drop it."""
    _RowGroups(folder).scan()
    os._exit(0)  # as streambn's command does


def pyarrow_normalize(folder: Path, codec: str) -> NoReturn:
    """Read all twice, as streambn's `normalize` does, and write it encoded but not normalized.

    The outputs hold nothing but encoded columns, so they are not Parquet files.
    """
    groups = _RowGroups(folder)
    groups.scan()
    files: dict[Path, Any] = {}
    with contextlib.ExitStack() as outputs:
        for path, content in groups.encode(codec):
            if path not in files:
                output = folder / "out" / path.name
                files[path] = outputs.enter_context(open(output, "wb", buffering=0))
            files[path].write(content)
    os._exit(0)


class _RowGroups:
    """The row groups of all files, read by pyarrow on as many threads as there are cores.

    Files, memory pools and garbage collection are set as streambn's command sets them.
    """

    def __init__(self, folder: Path) -> None:
        gc.disable()
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")  # encodes
        os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")
        self._arrow: Any = importlib.import_module("pyarrow")
        self._parquet: Any = importlib.import_module("pyarrow.parquet")
        self._arrow.set_memory_pool(self._arrow.mimalloc_memory_pool())  # decodes
        self._open = threading.local()  # each thread has its own file
        self._pool = ThreadPoolExecutor(THREADS)
        self._columns: list[str] = []
        self._groups: list[tuple[Path, int]] = []
        for path in _inputs(folder):
            metadata = self._parquet.read_metadata(path)
            self._columns = metadata.schema.to_arrow_schema().names
            self._groups += [(path, group) for group in range(metadata.num_row_groups)]

    def scan(self) -> None:
        """Read all row groups, and drop them."""

        def drop(group: tuple[Path, int]) -> None:
            self._read(*group)

        for _ in self._pool.map(drop, self._groups):
            pass

    def encode(self, codec: str) -> Iterator[tuple[Path, Any]]:
        """Yield each column of each row group as Parquet, after the path of its file."""

        def encoded(chunk: tuple[Path, int, str]) -> tuple[Path, Any]:
            path, group, column = chunk
            table = self._read(path, group, [column])
            sink = self._arrow.BufferOutputStream()
            with self._parquet.ParquetWriter(
                sink, table.schema, compression=codec, use_dictionary=False
            ) as writer:
                writer.write_table(table, row_group_size=table.num_rows)
            return path, sink.getvalue()

        chunks = [(*group, column) for group in self._groups for column in self._columns]
        return self._pool.map(encoded, chunks)

    def _read(self, path: Path, group: int, columns: list[str] | None = None) -> Any:
        if getattr(self._open, "path", None) != path:
            source = self._arrow.OSFile(str(path))
            self._open.path = path
            self._open.file = self._parquet.ParquetFile(
                source, buffer_size=1 << 16, pre_buffer=False
            )
        return self._open.file.read_row_group(group, columns, use_threads=False)


def copy_row_groups(folder: Path) -> Found:
    """Read one file row group by row group, and write each."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    [path] = _inputs(folder)
    file = parquet.ParquetFile(path)
    target = folder / "out" / path.name
    with parquet.ParquetWriter(target, file.schema_arrow, use_dictionary=False) as writer:
        for group in range(file.num_row_groups):
            writer.write_table(file.read_row_group(group, use_threads=False))
    return {}


def copy_files(folder: Path) -> Found:
    """Read file after file, and write each."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    for path in _inputs(folder):
        table = parquet.ParquetFile(path).read(use_threads=False)
        parquet.write_table(table, folder / "out" / path.name, use_dictionary=False)
    return {}


def copy_stream(folder: Path) -> Found:
    """Read an Arrow stream from standard input, and write it to standard output."""
    arrow: Any = importlib.import_module("pyarrow")
    reader = arrow.ipc.open_stream(sys.stdin.buffer)
    with arrow.ipc.new_stream(sys.stdout.buffer, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return {}


def copy_csv(folder: Path) -> Found:
    """Read one CSV file, and write it."""
    csv: Any = importlib.import_module("pyarrow.csv")
    [path] = _inputs(folder)
    csv.write_csv(csv.read_csv(path), folder / "out" / path.name)
    return {}


def update_loop(folder: Path) -> Found:
    """Learn the batches of an Arrow stream with the library."""
    arrow: Any = importlib.import_module("pyarrow")
    normalizer = importlib.import_module("streambn").Normalizer()
    [path] = _inputs(folder)
    with arrow.OSFile(str(path)) as file:
        for batch in arrow.ipc.open_stream(file):
            normalizer.update(batch)
    return {}


def polars_normalize_csv(folder: Path) -> Found:
    """Write one CSV file normalized."""
    pl: Any = importlib.import_module("polars")
    [path] = _inputs(folder)
    frame = pl.read_csv(path)
    means, stds = frame.mean().row(0), frame.std(ddof=0).row(0)
    found = {n: (m, s) for n, m, s in zip(frame.columns, means, stds, strict=True)}
    columns = [(pl.col(name) - mean) / std for name, (mean, std) in found.items()]
    frame.select(columns).write_csv(folder / "out" / path.name)
    return found


def streambn_inside(folder: Path) -> dict[str, float]:
    """Run the command `fit` in a process that has run it before."""
    run = importlib.import_module("streambn.cli.main").run
    arguments = ["fit", str(folder / "in"), "-o", str(folder / "inside.json"), "-q"]
    return _timed(lambda: run(arguments))


def dataset_scan(folder: Path) -> dict[str, float]:
    """Read the files as a dataset, and drop the batches."""
    dataset: Any = importlib.import_module("pyarrow.dataset")
    files = _inputs(folder)
    return _timed(lambda: [0 for _ in dataset.dataset(files).scanner().to_batches()])


def batch_scan(folder: Path) -> dict[str, float]:
    """Read one file batch by batch, and drop the batches."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    [path] = _inputs(folder)
    return _timed(lambda: [0 for _ in parquet.ParquetFile(path).iter_batches()])


def row_group_scan(folder: Path) -> dict[str, float]:
    """Read the row groups of one file on as many threads as there are cores, and drop them."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    [path] = _inputs(folder)

    def read(thread: int) -> None:
        file = parquet.ParquetFile(path)
        for group in range(thread, file.num_row_groups, THREADS):
            file.read_row_group(group, use_threads=False)

    with ThreadPoolExecutor(THREADS) as pool:
        return _timed(lambda: [*pool.map(read, range(THREADS))])


def _timed(run: Callable[[], object]) -> dict[str, float]:
    """Return the median of some passes, after one that pays for imports and memory."""
    run()
    taken = []
    for _ in range(PASSES):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return {"seconds": statistics.median(taken)}


def _inputs(folder: Path) -> list[Path]:
    return sorted((folder / "in").iterdir())


if __name__ == "__main__":
    task, place, *codec = sys.argv[1:]
    result = globals()[task](Path(place), *codec)
    Path(place, "found.json").write_text(json.dumps(result))
