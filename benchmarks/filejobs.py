"""Work on files: whole processes side by side, from their start to their end.

A process has all cores of the machine, as users run it. Its files lie in a temporary folder,
and have been read before, so that they are in the system's cache; what an earlier run wrote is
gone. Peers do the same as well as they can: Polars streams, DuckDB has its defaults, by which it
keeps the order of rows as the others do, and both write with the compression of streambn.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import streambn as sbn
from benchmarks import THREADS
from benchmarks.measure import Compared, Timing
from benchmarks.workloads import MEAN, MILLION, STD

# To both, statistics agree so far: of a mean in standard deviations, of those relatively.
AGREEMENT = 1e-9
GROUP = MILLION  # rows

_SCRIPTS = Path(__file__).with_name("filescripts.py")


class Files(NamedTuple):
    """Parquet files: how many, and what is in each."""

    files: int
    rows: int
    columns: int


class Contender(NamedTuple):
    """A process that does the work.

    Attributes
    ----------
    command : tuple of str
        In which {place} stands for the folder with the data.
    what : {"seconds", "inside", "MB"}
        What is measured: the time from start to end; that which it says itself; or the most
        memory that it held.
    needs : str
        A module that has to be installed.
    place : str
        Which of the job's data it is given.
    """

    command: tuple[str, ...]
    what: Literal["seconds", "inside", "MB"] = "seconds"
    needs: str = "streambn"
    place: str = "data"

    @property
    def installed(self) -> bool:
        """Whether it can run here."""
        return importlib.util.find_spec(self.needs) is not None


@dataclass(frozen=True)
class FileJob:
    """Some work on files, and who does it.

    Attributes
    ----------
    name : str
        For ``--only`` and in the JSON.
    title : str
        In the table.
    places : mapping
        The data, of each place.
    contenders : mapping
        By name, streambn among them.
    rounds : int
        So many at most.
    warmed : bool
        Whether each runs once before, and its results are looked at.
    constants : mapping
        Figures to compare with that are not measured.
    """

    name: str
    title: str
    places: Mapping[str, Files]
    contenders: Mapping[str, Contender]
    rounds: int = 5
    warmed: bool = True
    constants: Mapping[str, float] | None = None


class Run(NamedTuple):
    """A process that has ended: how long it took, and the most memory that it held, in MB."""

    seconds: float
    peak: float


@dataclass(frozen=True)
class FilesMeasured(Compared):
    """A job, and the figures of all who did it: seconds, or MB."""

    job: FileJob
    timings: Mapping[str, Timing]
    peaks: Mapping[str, float]

    @property
    def name(self) -> str:
        """That of the job."""
        return self.job.name


# ----------------------------------------------------------------------- measuring


def measured_files(
    job: FileJob, rounds: int, after_round: Callable[[], None] = lambda: None
) -> FilesMeasured:
    """Make a job's files, and let all that can do it, round by round.

    Raises
    ------
    RuntimeError
        A process failed, or found or wrote something else than streambn did.
    """
    rounds = min(rounds, job.rounds)
    able = {name: c for name, c in job.contenders.items() if c.installed}
    figures: dict[str, list[float]] = {name: [] for name in able}
    peaks = dict.fromkeys(able, 0.0)
    with tempfile.TemporaryDirectory(prefix="streambn-benchmark-") as folder:
        for name, files in job.places.items():
            write_files(Path(folder, name), files)
        if job.warmed:
            found = {name: _looked_at(c, Path(folder, c.place)) for name, c in able.items()}
            _check_agreement(found)
        for _ in range(rounds):
            for name, contender in able.items():
                place = Path(folder, contender.place)
                run = process(contender, place)
                peaks[name] = max(peaks[name], run.peak)
                figures[name].append(_figure(contender, place, run))
            after_round()
    timings = {name: Timing(1, tuple(taken)) for name, taken in figures.items()}
    constants = {name: Timing(1, (c,) * rounds) for name, c in (job.constants or {}).items()}
    return FilesMeasured(job, {**timings, **constants}, peaks)


def write_files(place: Path, files: Files) -> None:
    """Write normally distributed columns, with pyarrow's defaults; one million rows, repeated."""
    (place / "in").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = min(files.rows, GROUP)
    for number in range(files.files):
        values = rng.standard_normal((files.columns, rows)) * STD + MEAN
        group = pa.table(list(values), names=[f"x{i}" for i in range(files.columns)])
        with pq.ParquetWriter(place / "in" / f"part-{number}.parquet", group.schema) as writer:
            for start in range(0, files.rows, rows):
                writer.write_table(group.slice(0, min(rows, files.rows - start)))


# Starts a process and says how long it took and what memory it held. It is one of its own, as
# the system has it that a process held no less than the one that started it.
_WATCH = """
import os, sys, time
silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def process(contender: Contender, place: Path) -> Run:
    """Let a contender do its work from the beginning, and watch it."""
    shutil.rmtree(place / "out", ignore_errors=True)
    (place / "out").mkdir(parents=True)
    command = [part.format(place=place) for part in contender.command]
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _WATCH, *command],
        env={name: value for name, value in os.environ.items() if name not in THREADS},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {ran.stderr.strip()}")
    seconds, kilobytes = ran.stdout.split()
    return Run(float(seconds), int(kilobytes) * 1024 / 1e6)


def _figure(contender: Contender, place: Path, run: Run) -> float:
    if contender.what == "MB":
        return run.peak
    if contender.what == "inside":
        return float(json.loads((place / "found.json").read_text())["seconds"])
    return run.seconds


# ------------------------------------------------------------------------ looking


Found = dict[str, tuple[float, float]]


def _looked_at(contender: Contender, place: Path) -> Found:
    """Run once, see that what was written is normalized, and return the statistics found."""
    for name in ("found.json", "stats.json"):
        (place / name).unlink(missing_ok=True)
    process(contender, place)
    written = sorted((place / "out").glob("*.parquet"))
    if written:
        _check_normalized(written, place)
    if (place / "stats.json").exists():
        lanes = sbn.load(place / "stats.json").stats().to_pylist()
        return {lane["column"]: (lane["mean"], lane["std"]) for lane in lanes}
    if (place / "found.json").exists():
        found = json.loads((place / "found.json").read_text())
        return {} if "seconds" in found else {name: tuple(pair) for name, pair in found.items()}
    return {}


def _check_normalized(written: list[Path], place: Path) -> None:
    read = sorted((place / "in").iterdir())
    counts = [[pq.read_metadata(path).num_rows for path in paths] for paths in (read, written)]
    if counts[0] != counts[1]:
        raise RuntimeError(f"files of {counts[0]} rows became files of {counts[1]}")
    table: Any = ds.dataset(written).to_table()
    for name in table.column_names:
        mean, std = pc.mean(table[name]).as_py(), pc.stddev(table[name]).as_py()
        if abs(mean) > AGREEMENT or abs(std - 1) > AGREEMENT:
            raise RuntimeError(f"{name} is not normalized: its mean is {mean}, its std {std}")


def _check_agreement(found: Mapping[str, Found]) -> None:
    ours = found["streambn"]
    for who, theirs in found.items():
        if theirs.keys() != ours.keys():
            raise RuntimeError(f"{who} has statistics of {[*theirs]}, streambn of {[*ours]}")
        for name, (mean, std) in theirs.items():
            far = abs(mean - ours[name][0]), abs(std - ours[name][1])
            if max(far) > AGREEMENT * ours[name][1]:
                raise RuntimeError(f"{name}: {who} finds {mean} ± {std}, streambn {ours[name]}")


# ----------------------------------------------------------------------- the jobs


def _streambn(*arguments: str) -> tuple[str, ...]:
    """Give the command as pip installs it, but for where the script lies."""
    return (sys.executable, "-P", "-c", "from streambn.cli.main import main; main()", *arguments)


def _script(task: str) -> tuple[str, ...]:
    return (sys.executable, "-P", str(_SCRIPTS), task, "{place}")


_FIT = _streambn("fit", "{place}/in", "-o", "{place}/stats.json", "-q")
_NORMALIZE = _streambn("normalize", "{place}/in", "-o", "{place}/out/", "-q")
_NORMALIZE_AND_SAVE = (*_NORMALIZE, "--save", "{place}/stats.json")
_POLARS = Contender(_script("polars_normalize"), needs="polars")

_ONE = Files(1, 3 * MILLION, 16)
LARGE = Files(1, 24 * MILLION, 16)
AN_EIGHTH, ALLOWED = "an eighth of the rows", "600 MB"
WITH_WELFORD = "--policy welford"

FILE_JOBS = (
    FileJob(
        "help",
        "streambn --help",
        {},
        {
            "streambn": Contender(_streambn("--help")),
            "import pyarrow": Contender((sys.executable, "-P", "-c", "import pyarrow")),
        },
        rounds=11,
    ),
    FileJob(
        "fit-file",
        "fit a file",
        {"data": _ONE},
        {
            "streambn": Contender(_FIT),
            WITH_WELFORD: Contender((*_FIT, "--policy", "welford")),
            "Polars": Contender(_script("polars_fit"), needs="polars"),
            "DuckDB": Contender(_script("duckdb_fit"), needs="duckdb"),
        },
    ),
    FileJob(
        "fit-inside",
        "fit it, the process being under way",
        {"data": _ONE},
        {
            "streambn": Contender(_script("streambn_inside"), "inside"),
            "pyarrow's scan": Contender(_script("scan_inside"), "inside"),
        },
    ),
    FileJob(
        "normalize-file",
        "normalize a file",
        {"data": _ONE},
        {
            "streambn": Contender(_NORMALIZE_AND_SAVE),
            "Polars": _POLARS,
            "DuckDB": Contender(_script("duckdb_normalize"), needs="duckdb"),
        },
    ),
    FileJob(
        "normalize-files",
        "normalize eight files",
        {"data": Files(8, 375_000, 16)},
        {"streambn": Contender(_NORMALIZE_AND_SAVE), "Polars": _POLARS},
    ),
    FileJob(
        "normalize-memory",
        "memory to normalize a file of 24,000,000 rows",
        {"data": LARGE, "eighth": LARGE._replace(rows=LARGE.rows // 8)},
        {
            "streambn": Contender(_NORMALIZE, "MB"),
            AN_EIGHTH: Contender(_NORMALIZE, "MB", place="eighth"),
        },
        rounds=1,
        warmed=False,
        constants={ALLOWED: 600.0},
    ),
)
