"""What each peer does with files, in a process of its own: run by `benchmarks.filejobs`.

    python -P filescripts.py TASK PLACE

Imports nothing of the benchmarks, so that a process has the start-up of what it measures. A
place is a folder with the data in ``in``; ``out`` is where files go that are normalized, and
``found.json`` what was found out on the way: by column, its mean and deviation; or seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = dict[str, tuple[float, float]]

THREADS = len(os.sched_getaffinity(0))
PASSES = 5  # of what is timed inside a process


def polars_fit(place: Path) -> Any:
    return _polars_statistics(_inputs(place))


def polars_normalize(place: Path) -> Any:
    """Take statistics of all files, then write each normalized: all of them together."""
    import polars as pl  # noqa: PLC0415

    found = _polars_statistics(_inputs(place))
    columns = [(pl.col(name) - mean) / std for name, (mean, std) in found.items()]
    writes = [
        pl.scan_parquet(path)
        .select(columns)
        .sink_parquet(place / "out" / path.name, compression="snappy", lazy=True)
        for path in _inputs(place)
    ]
    pl.collect_all(writes, engine="streaming")
    return found


def _polars_statistics(paths: list[Path]) -> Found:
    import polars as pl  # noqa: PLC0415

    data = pl.scan_parquet(paths)
    both = pl.all().mean(), pl.all().std(ddof=0).name.prefix("std of ")
    [row] = data.select(*both).collect(engine="streaming").to_dicts()
    return {name: (row[name], row[f"std of {name}"]) for name in row if f"std of {name}" in row}


def duckdb_fit(place: Path) -> Any:
    import duckdb  # noqa: PLC0415

    [path] = _inputs(place)
    return _duckdb_statistics(duckdb.connect(), path)


def duckdb_normalize(place: Path) -> Any:
    import duckdb  # noqa: PLC0415

    [path] = _inputs(place)
    connection = duckdb.connect()
    found = _duckdb_statistics(connection, path)
    columns = ", ".join(f"({n} - {mean!r}) / {std!r} AS {n}" for n, (mean, std) in found.items())
    target = place / "out" / path.name
    connection.execute(
        f"COPY (SELECT {columns} FROM '{path}') TO '{target}' (FORMAT parquet, COMPRESSION snappy)"
    )
    return found


def _duckdb_statistics(connection: Any, path: Path) -> Found:
    names = connection.sql(f"FROM '{path}'").columns
    both = ", ".join(f"avg({name}), stddev_pop({name})" for name in names)
    row = connection.execute(f"SELECT {both} FROM '{path}'").fetchone()
    return {name: (row[2 * i], row[2 * i + 1]) for i, name in enumerate(names)}


def streambn_inside(place: Path) -> Any:
    """Learn from the file in a process that has begun long ago."""
    import streambn as sbn  # noqa: PLC0415
    from streambn.io import sources as files  # noqa: PLC0415
    from streambn.jobs.checkpoint import Place, Reached  # noqa: PLC0415
    from streambn.jobs.fit import fit_files  # noqa: PLC0415
    from streambn.jobs.inputs import ReadOptions  # noqa: PLC0415
    from streambn.jobs.job import job as jobs  # noqa: PLC0415
    from streambn.jobs.progress import Progress  # noqa: PLC0415

    sources = files.scan([str(path) for path in _inputs(place)])
    jobs.use_threads(THREADS)
    begun = Reached(sbn.Normalizer(sbn.Exact()).statistics, Place())  # as the command does
    how = ReadOptions({}, threads=THREADS)

    def learn() -> None:
        fit_files(begun, sources, None, how, Progress("fitting", len(sources)))

    return {"seconds": _seconds(learn)}


def scan_inside(place: Path) -> Any:
    """Read the file with pyarrow, and do nothing with it."""
    import pyarrow.dataset as ds  # noqa: PLC0415

    def drain() -> None:
        for _ in ds.dataset(_inputs(place), format="parquet").scanner().to_batches():
            pass

    return {"seconds": _seconds(drain)}


def _seconds(run: Callable[[], None]) -> float:
    """Time a pass, not the first: of that, memory and imports are a part."""
    run()
    taken = []
    for _ in range(PASSES):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _inputs(place: Path) -> list[Path]:
    return sorted((place / "in").iterdir())


TASKS = {
    task.__name__: task
    for task in (
        *(polars_fit, polars_normalize, duckdb_fit, duckdb_normalize),
        *(streambn_inside, scan_inside),
    )
}

if __name__ == "__main__":
    where = Path(sys.argv[2])
    found = TASKS[sys.argv[1]](where)
    (where / "found.json").write_text(json.dumps(found))
