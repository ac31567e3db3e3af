"""Growth beyond one machine: states, their fold, engines, and what they say about more data.

Every figure is measured in a process of its own by `engines.py`. An engine that is not installed
is left out, and a line says so.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import THREADS, report
from benchmarks.bounds import Bound, bound_table
from benchmarks.workloads import MILLION
from streambn.testing import exact_moments

BEGIN, END = "<!-- distributed: begin -->", "<!-- distributed: end -->"
_SCRIPT = Path(__file__).with_name("engines.py")
_FEATURES = 100  # of a state
Found = dict[str, Any]


class Size(NamedTuple):
    """How much is measured."""

    rows: int = 2 * MILLION
    columns: int = 8
    rounds: int = 3
    far: int = 100_000  # rows of the column that tells digits
    partitions: tuple[int, ...] = (8, 64, 512, 4096)
    blocks: tuple[int, ...] = (8, 64, 512, 4096)  # of Ray

    @property
    def nbytes(self) -> int:
        """Bytes of the values in memory."""
        return self.rows * self.columns * 8


QUICK = Size(rows=4000, columns=4, rounds=1, far=1000, partitions=(2, 4), blocks=(2,))


def measure(size: Size) -> Found:
    """Run all tasks, and return what each found by its name and number of cores."""
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="streambn-distributed-") as place:
        folder = Path(place)
        write_files(folder, size)
        tasks = {"states": "streambn", "local": "streambn", "spark": "pyspark", "ray": "ray"}
        for task, module in tasks.items():
            if missing := _missing(module):
                print(f"{task} is left out: {missing}")
                continue
            for cores in (2,) if task == "states" else (1, 2):
                counts = size.blocks if task == "ray" else size.partitions
                counts = counts if cores == 2 else counts[:-1]  # which would take long on one
                print(f"{task}, {cores} cores", file=sys.stderr)
                found[f"{task} {cores}"] = run_task(task, cores, folder, size.rounds, counts)
    return found


def _missing(module: str) -> str | None:
    """Return what to install for an engine, or None if all is there."""
    if importlib.util.find_spec(module) is None:
        return f"pip install 'streambn[{ {'pyspark': 'spark'}.get(module, module) }]'"
    home = os.environ.get("JAVA_HOME")
    if module == "pyspark" and shutil.which(f"{home}/bin/java" if home else "java") is None:
        return "install Java 17, and set JAVA_HOME"
    return None


def write_files(folder: Path, size: Size) -> None:
    """Write normal columns in 8 files, for bars and in small row groups for growth."""
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(size.columns)]
    rows = size.rows // 8
    group = max(1, size.rows // size.partitions[-1])
    for name in ("bars", "growth", "far"):
        (folder / name).mkdir()
    for number in range(8):
        table = pa.table([*rng.normal(1e3, 1, (size.columns, rows))], names)
        pq.write_table(table, folder / "bars" / f"{number}.parquet")
        pq.write_table(table, folder / "growth" / f"{number}.parquet", row_group_size=group)
    pq.write_table(pa.table({"x": _far(size)}), folder / "far" / "far.parquet")


def _far(size: Size) -> np.ndarray[Any, np.dtype[np.float64]]:
    return 1e9 + np.random.default_rng(0).normal(size=size.far)


def run_task(task: str, cores: int, folder: Path, rounds: int, partitions: Sequence[int]) -> Found:
    """Run a task of `engines.py`.

    Raises
    ------
    RuntimeError
        It failed.
    """
    arguments = map(str, [task, cores, folder, rounds, *partitions])
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    done = subprocess.run(
        [sys.executable, "-P", str(_SCRIPT), *arguments],
        cwd=folder,  # where workers look for modules first: not in a checkout
        env={**environment, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{task} on {cores} cores failed: {done.stderr.strip()[-2000:]}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


# --------------------------------------------------------------------------------- bars


def bars(found: Mapping[str, Found]) -> list[Bound]:
    """Judge what was measured."""
    states = found["states 2"]
    worst = {step: max(each[step] for each in states.values()) for step in ("write", "read")}
    fold = max(each["fold"][-1]["seconds"] for each in states.values())
    spark = found.get("spark 2", {}).get("seconds", {})
    ray = found.get("ray 2", {}).get("seconds", {})
    own = "avg and var_pop"
    ratios = (
        ("Spark: fit_dataset against avg and var_pop", 0.8, spark, "fit_dataset", own),
        ("Spark: fit against avg and var_pop", 2.2, spark, "fit", own),
        ("Spark: transform_sql against expressions", 1.1, spark, "transform_sql",
         "expressions by hand"),
        ("Ray: fit of files against StandardScaler", 0.7, ray, "fit, files",
         "StandardScaler, files"),
    )  # fmt: skip
    return [
        Bound(f"write a state of {_FEATURES} features, µs", 150, worst["write"] * 1e6),
        Bound(f"read a state of {_FEATURES} features, µs", 150, worst["read"] * 1e6),
        Bound("fold the states of all partitions, s", 1, fold),
        *(Bound(title, bound, _ratio(times, a, b)) for title, bound, times, a, b in ratios),
    ]


def _ratio(times: Mapping[str, Sequence[float]], one: str, other: str) -> float | None:
    if not times:
        return None
    return statistics.median(times[one]) / statistics.median(times[other])


# ------------------------------------------------------------------------------- tables


def full(found: Mapping[str, Found], size: Size) -> str:
    """Return the part of benchmarks/README.md."""
    return "\n\n".join(
        [
            f"{report.machine()}; {size.rows:,} rows × {size.columns} float64 columns in 8 Parquet "
            f"files; medians of {size.rounds} rounds; `python -m benchmarks --distributed`.",
            "#### States and their fold",
            state_table(found["states 2"]),
            "#### The same files",
            engine_table(found),
            "#### More partitions of the same rows, under `Exact`",
            growth_table(found),
            "#### Digits",
            digit_table(found, size),
            "#### Bars",
            bound_table(bars(found)),
            "#### More data",
            *model(found, size),
        ]
    )


def state_table(states: Mapping[str, Found]) -> str:
    """Return size and times of states of `_FEATURES` features."""
    counts = [step["partitions"] for step in next(iter(states.values()))["fold"]]
    rows = [
        [
            policy,
            f"{each['bytes'] / 1e3:.1f} kB",
            f"{each['write'] * 1e6:.0f} µs",
            f"{each['read'] * 1e6:.0f} µs",
            *(f"{s['seconds']:.2g} s, {s['megabytes']:.0f} MB" for s in each["fold"]),
        ]
        for policy, each in states.items()
    ]
    header = [f"{_FEATURES} features", "state", "write", "read", *(f"fold {n:,}" for n in counts)]
    return report.table(header, rows, texts=1)


def engine_table(found: Mapping[str, Found]) -> str:
    """Return the seconds of everything that reads the same files."""
    rows = []
    for name, each in found.items():
        engine, cores = name.split()
        for job, seconds in each.get("seconds", {}).items():
            rows.append([engine, job, cores, f"{statistics.median(seconds):.2f} s"])
    return report.table(["engine", "", "cores", "time"], rows, texts=2)


def growth_table(found: Mapping[str, Found]) -> str:
    """Return time and memory of fits of ever smaller partitions."""
    rows = [
        [
            *name.split(),
            f"{step['partitions']:,}",
            f"{step['seconds']:.2f} s",
            f"{step['megabytes']:.0f} MB",
            f"{step['partitions'] * step['state'] / 1e3:,.0f} kB",
        ]
        for name, step in _steps(found)
    ]
    header = ["engine", "cores", "partitions", "time", "driver's peak memory", "states"]
    return report.table(header, rows, texts=1)


def _steps(found: Mapping[str, Found]) -> Iterator[tuple[str, Found]]:
    for name, each in found.items():
        for step in each.get("growth", []):
            yield name, step


def digit_table(found: Mapping[str, Found], size: Size) -> str:
    """Return the variance that each finds of a column far from zero, and its right digits."""
    x = _far(size)
    _, m2 = exact_moments(x.tolist())
    exact = float(m2 / len(x))
    variances = {"exact": exact, "E[x²] − E[x]²": float((x**2).mean() - x.mean() ** 2)}
    for each in found.values():
        variances |= each.get("digits", {})
    rows = [[who, repr(value), str(_digits(value, exact))] for who, value in variances.items()]
    title = f"variance of {size.far:,} values N(1e9, 1)"
    return report.table([title, "", "right digits"], rows, texts=2)


def _digits(value: float, exact: float) -> int:
    """Return how many leading digits of a value are right, of the 16 that float64 has."""
    error = abs(value / exact - 1)
    return 16 if error < 1e-16 else max(0, min(16, math.floor(-math.log10(error))))


# --------------------------------------------------------------------------- cost model


class Cost(NamedTuple):
    """What a fit of many files costs.

    Attributes
    ----------
    speed : float
        Bytes of values that one core reads and learns in a second.
    task : float
        Seconds of a core for a task without rows.
    fold : float
        Seconds of the driver for one feature of one state.
    state : float
        Bytes of one feature of a state.
    """

    speed: float
    task: float
    fold: float
    state: float

    @classmethod
    def of(cls, found: Mapping[str, Found], size: Size) -> Cost:
        """Return the costs that the measurements show, with the larger states of `Exact`."""
        exact = found["states 2"]["Exact()"]
        last = exact["fold"][-1]
        seconds = statistics.median(found["local 1"]["seconds"]["fit"])
        steps = found.get("spark 2", {}).get("growth", [])
        task = 0.0
        if len(steps) > 1:
            more = steps[-1]["partitions"] - steps[0]["partitions"]
            task = 2 * max(0.0, steps[-1]["seconds"] - steps[0]["seconds"]) / more
        return cls(
            size.nbytes / seconds,
            task,
            last["seconds"] / last["partitions"] / _FEATURES,
            exact["bytes"] / _FEATURES,
        )


def model(found: Mapping[str, Found], size: Size) -> list[str]:
    """Return what the costs say about 10 TB, on a few numbers of cores."""
    cost = Cost.of(found, size)
    values, features, partition = 10e12, 200, 128e6
    partitions = round(values / partition)
    folded = partitions * features * cost.fold
    rows = []
    for cores in (2, 64, 1024):
        read = values / cores / cost.speed
        tasks = partitions * cost.task / cores
        rows.append([f"{cores:,}", _time(read), _time(tasks), _time(folded)])
    table = report.table(["cores", "read and learn", "tasks", "fold on the driver"], rows, texts=0)
    state = features * cost.state
    keyed = 100_000 * state
    return [
        f"A core reads and learns {cost.speed / 1e9:.2f} GB/s of values, a task costs "
        f"{cost.task * 1e3:.0f} ms of a core, and the driver folds a feature of a state in "
        f"{cost.fold * 1e6:.1f} µs. 10 TB of 200 columns in partitions of 128 MB are "
        f"{partitions:,} states of {state / 1e3:.0f} kB, {partitions * state / 1e9:.1f} GB in all:",
        table,
        "A fold on the driver alone would take longer than the reading from "
        f"{_cores(values, folded, cost):,} cores on. So `fit` of a Spark DataFrame merges states "
        "of 64 features or more on the workers first, 64 states at a time. `fit_dataset`, and Ray "
        "under `Exact`, merge each state as it comes, while the tasks run: larger partitions are "
        "the remedy there.",
        f"Statistics of 100,000 keys are another matter: {keyed / 1e9:.1f} GB for each "
        "partition that has all keys. There the states of a key have to meet on one worker, by a "
        "shuffle of states, or the data be partitioned by key.",
    ]


def _cores(values: float, folded: float, cost: Cost) -> int:
    """Return from how many cores on reading is faster than a fold, to one digit."""
    cores = values / cost.speed / folded
    unit: int = 10 ** max(0, math.floor(math.log10(cores)))
    return round(cores / unit) * unit


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def main(root: Path | None, *, quick: bool) -> int:
    """Measure, print, write the documentation of a checkout, and return 1 if a bar is missed."""
    if root is not None:  # fail now rather than after the measurements
        report.split(root / "benchmarks/README.md", BEGIN, END)
    size = QUICK if quick else Size()
    found = measure(size)
    text = full(found, size)
    print(text)
    if root is not None:
        report.insert(root / "benchmarks/README.md", text, BEGIN, END)
    return 0 if quick or all(bar.holds for bar in bars(found)) else 1
