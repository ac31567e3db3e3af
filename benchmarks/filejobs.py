"""Jobs on files: whole processes, one after the other, from start to end.

A process may use all cores, as users run it. Its files are in a temporary folder and in the cache
of the system, and the outputs of earlier processes are gone. Each peer does the job as well as it
can: Polars streams, and both Polars and DuckDB write with the compression of streambn.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import csv

import streambn as sbn
from benchmarks import THREADS
from benchmarks.measure import Comparison
from benchmarks.workloads import MEAN, MILLION, STD

AGREEMENT = 1e-9  # of two means, in standard deviations, and of two deviations, relatively
GROUP = 250_000  # rows of a Snappy row group

Codec = Literal["snappy", "zstd"]
_TITLES = {"snappy": "Snappy", "zstd": "ZSTD"}
_SCRIPTS = Path(__file__).with_name("scripts.py")


class Files(NamedTuple):
    """Files: how many, their size, their codec if they are Parquet, and their format.

    Snappy files and those of other formats are written by pyarrow in row groups or batches of
    `group` rows, ZSTD files by Polars with its defaults.
    """

    files: int
    rows: int
    codec: Codec = "snappy"
    columns: int = 16
    group: int = GROUP
    suffix: Literal["parquet", "arrows", "csv"] = "parquet"


class Contender(NamedTuple):
    """A process that does a job.

    What counts is the seconds from start to end, the seconds that all its threads computed, the
    seconds that the process reports, or the most memory that it held.
    """

    command: tuple[str, ...]  # in which ``{folder}`` stands for the folder with the data
    figure: Literal["s", "CPU s", "inside", "MB"] = "s"
    needs: str = "streambn"  # a module that must be installed
    data: str = "data"  # the key in `FileJob.data`
    finds: bool = True  # whether it has results, which must agree with those of streambn

    @property
    def is_installed(self) -> bool:
        """Whether the process can run here."""
        return importlib.util.find_spec(self.needs) is not None


@dataclass(frozen=True)
class FileJob:
    """Work on files, and the processes that do it."""

    name: str
    title: str
    data: Mapping[str, Files]
    contenders: Mapping[str, Contender]
    rounds: int = 9  # at most
    prepare: tuple[str, ...] = ()  # a command that runs once before, in each folder
    checked: bool = True  # each contender runs once before, to compare the results
    constants: Mapping[str, float] = field(default_factory=dict)  # figures that are not measured

    def quick(self) -> FileJob:
        """Return the same job on little data."""
        data = {
            name: files._replace(rows=min(files.rows, 2000), files=min(files.files, 3), columns=3)
            for name, files in self.data.items()
        }
        return replace(self, data=data)


# ------------------------------------------------------------------------------ measuring


def measure_file_job(job: FileJob, rounds: int) -> Comparison:
    """Write the files of a job, and run all that can do it, round by round.

    Raises
    ------
    RuntimeError
        If a process failed, or if its results differ from those of streambn.
    """
    rounds = min(rounds, job.rounds)
    able = {name: c for name, c in job.contenders.items() if c.is_installed}
    figures: dict[str, list[float]] = {name: [] for name in able}
    peaks = dict.fromkeys(able, 0.0)
    with tempfile.TemporaryDirectory(prefix="streambn-benchmark-") as place:
        for name, files in job.data.items():
            write_files(Path(place, name), files)
            if job.prepare:
                run_process(Contender(job.prepare), Path(place, name))
        if job.checked:
            finders = {name: c for name, c in able.items() if c.finds}
            check_agreement({name: find(c, Path(place, c.data)) for name, c in finders.items()})
        # In a random order, because a process that follows one with much memory takes longer.
        shuffled = random.Random(0)
        for _ in range(rounds):
            for name in shuffled.sample(sorted(able), len(able)):
                contender = able[name]
                used = run_process(contender, Path(place, contender.data))
                found = Path(place, contender.data, "found.json")
                if contender.figure == "inside":
                    figures[name].append(json.loads(found.read_text())["seconds"])
                else:
                    figures[name].append(used.figure(contender.figure))
                peaks[name] = max(peaks[name], used.megabytes)
    samples = {name: tuple(taken) for name, taken in figures.items()}
    constants = {name: (value,) * rounds for name, value in job.constants.items()}
    figure = job.contenders["streambn"].figure
    unit = "s" if figure == "inside" else figure
    return Comparison(job.name, job.title, unit, 1, {**samples, **constants}, peaks=peaks)


def write_files(folder: Path, files: Files) -> None:
    """Write files of normally distributed columns."""
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(files.columns)]

    def table(rows: int) -> pa.Table:
        return pa.table([*rng.normal(MEAN, STD, (files.columns, rows))], names=names)

    for number in range(files.files):
        path = folder / "in" / f"part-{number}.{files.suffix}"
        if files.codec == "zstd":
            polars: Any = importlib.import_module("polars")
            polars.from_arrow(table(files.rows)).write_parquet(path)
            continue
        with _WRITERS[files.suffix](path, table(0).schema) as writer:
            for start in range(0, files.rows, files.group):
                writer.write_table(table(min(files.group, files.rows - start)))


_WRITERS: Mapping[str, Any] = {
    "parquet": pq.ParquetWriter,
    "arrows": pa.ipc.new_stream,
    "csv": csv.CSVWriter,
}


class Usage(NamedTuple):
    """What a process took: seconds, seconds of all its threads, and its peak memory."""

    seconds: float
    cpu_seconds: float
    megabytes: float

    def figure(self, kind: str) -> float:
        """Return the figure of this kind."""
        return {"s": self.seconds, "CPU s": self.cpu_seconds, "MB": self.megabytes}[kind]


# Starts a process, and prints what it took. This is a process of its own
# because Linux counts the memory of a parent as memory of its child.
_WATCH = """
import os, sys, time
silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def run_process(contender: Contender, folder: Path) -> Usage:
    """Run a contender, and return what it took."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    os.sync()  # or the disk would still be busy with the output of the process before
    command = [part.format(folder=folder) for part in contender.command]
    # Without its bytecode, which pip writes for the others, streambn would be compiled every time.
    # Unbuffered, each of the many writes of Arrow to standard output would be a system call.
    removed = {*THREADS, "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _WATCH, *command],
        env={name: value for name, value in os.environ.items() if name not in removed},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    seconds, cpu_seconds, kilobytes = done.stdout.split()
    return Usage(float(seconds), float(cpu_seconds), int(kilobytes) * 1024 / 1e6)


# ------------------------------------------------------------------------------- checking

Found = dict[str, tuple[float, float]]


def find(contender: Contender, folder: Path) -> Found:
    """Run a contender, check what it wrote, and return the statistics that it found."""
    for name in ("found.json", "stats.json"):
        (folder / name).unlink(missing_ok=True)
    run_process(contender, folder)
    check_normalized(folder)
    if (folder / "stats.json").exists():
        rows = sbn.load(folder / "stats.json").stats().to_pylist()
        return {row["column"]: (row["mean"], row["std"]) for row in rows}
    found = folder / "found.json"
    moments = json.loads(found.read_text()) if found.exists() else {}
    return {name: pair for name, pair in moments.items() if name != "seconds"}


def check_normalized(folder: Path) -> None:
    """Raise RuntimeError unless the output, if any, has all rows, normalized."""
    written = sorted((folder / "out").glob("*.parquet"))
    if not written:
        return
    read = sorted((folder / "in").iterdir())
    rows, rows_out = ([pq.read_metadata(path).num_rows for path in ps] for ps in (read, written))
    if rows != rows_out:
        raise RuntimeError(f"files of {rows} rows became files of {rows_out}")
    table: Any = ds.dataset(written).to_table()
    for name in table.column_names:
        mean, std = pc.mean(table[name]).as_py(), pc.stddev(table[name]).as_py()
        if abs(mean) > AGREEMENT or abs(std - 1) > AGREEMENT:
            raise RuntimeError(f"{name} is not normalized: its mean is {mean}, its std {std}")


def check_agreement(found: Mapping[str, Found]) -> None:
    """Raise RuntimeError if a contender's statistics differ from those of streambn."""
    ours = found["streambn"]
    for who, theirs in found.items():
        if theirs.keys() != ours.keys():
            raise RuntimeError(f"{who} has statistics of {[*theirs]}, streambn of {[*ours]}")
        for name, (mean, std) in theirs.items():
            difference = max(abs(mean - ours[name][0]), abs(std - ours[name][1]))
            if difference > AGREEMENT * ours[name][1]:
                raise RuntimeError(f"{name}: {who} finds {mean} ± {std}, streambn {ours[name]}")


# ----------------------------------------------------------------------------- the table


def _streambn(*arguments: str) -> tuple[str, ...]:
    """Return the command as pip installs it."""
    return (sys.executable, "-P", "-c", "from streambn.cli.main import main; main()", *arguments)


def _script(task: str, *codec: str) -> tuple[str, ...]:
    return (sys.executable, "-P", str(_SCRIPTS), task, "{folder}", *codec)


def _inside(task: str) -> Contender:
    return Contender(_script(task), "inside")


_FIT = _streambn("fit", "{folder}/in", "-o", "{folder}/stats.json", "-q")
_NORMALIZE = _streambn("normalize", "{folder}/in", "-o", "{folder}/out/", "-q")


def _fit(codec: Codec, **more: Contender) -> FileJob:
    return FileJob(
        f"fit-{codec}",
        f"`fit` a file, {_TITLES[codec]}",
        {"data": Files(1, 3 * MILLION, codec)},
        {
            "streambn": Contender(_FIT),
            **more,
            "pyarrow alone": Contender(_script("pyarrow_fit"), finds=False),
            "Polars": Contender(_script("polars_fit"), needs="polars"),
            "DuckDB": Contender(_script("duckdb_fit"), needs="duckdb"),
        },
    )


def _normalize(codec: Codec, files: int = 1) -> FileJob:
    contenders = {
        "streambn": Contender((*_NORMALIZE, "--save", "{folder}/stats.json")),
        "pyarrow alone": Contender(_script("pyarrow_normalize", codec), finds=False),
        "Polars": Contender(_script("polars_normalize", codec), needs="polars"),
        "DuckDB": Contender(_script("duckdb_normalize", codec), needs="duckdb"),
    }
    if files > 1:
        del contenders["DuckDB"]  # one of its queries writes one file
    return FileJob(
        f"normalize-{codec}" if files == 1 else f"normalize-{files}-files",
        f"`normalize` {'a file' if files == 1 else f'{files} files'}, {_TITLES[codec]}",
        {"data": Files(files, 3 * MILLION // files, codec)},
        contenders,
    )


SCANS = {
    "dataset scan": _inside("dataset_scan"),
    "row groups on threads": _inside("row_group_scan"),
    "iter_batches": _inside("batch_scan"),
}
WIDE = Files(1, 5, columns=10_000)
LARGE = Files(1, 24 * MILLION)
AN_EIGHTH, ALLOWED, WELFORD = "an eighth of the rows", "600 MB", "--policy welford"
SHOWN = "1.5 s"
IMPORT = Contender((sys.executable, "-P", "-c", "import pyarrow"))


def _show(*flags: str) -> FileJob:
    """Return the job of printing the statistics of many columns."""
    return FileJob(
        "-".join(["show", *(flag.lstrip("-") for flag in flags)]),
        f"`{' '.join(['show', *flags])}`, 10,000 columns",
        {"data": WIDE},
        {"streambn": Contender(_streambn("show", "{folder}/stats.json", *flags))},
        rounds=5,
        prepare=_FIT,
        checked=False,
        constants={SHOWN: 1.5},
    )


GROUPS = Files(1, 200_000, columns=8, group=20)
BATCHES = Files(1, 200_000, columns=8, group=10, suffix="arrows")
LOOP, COPY = "a loop of update", "pyarrow's read and write"


def _piped(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command with the first file as its input, and an output."""
    redirect = 'exec "$@" < "$0/in/part-0.arrows" > "$0/out/part-0.arrows"'
    return ("/bin/sh", "-c", redirect, "{folder}", *command)


def _many(name: str, title: str, data: Files, own: tuple[str, ...], **others: Contender) -> FileJob:
    """Return a job on many small parts, in which the seconds of all threads count."""
    contenders = {"streambn": Contender(own, "CPU s"), **others}
    # The check removes the statistics, which `apply` needs.
    return FileJob(
        name, title, {"data": data}, contenders, prepare=_FIT, checked="apply" not in own
    )


def _copy(task: str) -> dict[str, Contender]:
    return {COPY: Contender(_script(task), "CPU s", finds=False)}


_AND_SAVE = (*_NORMALIZE, "--save", "{folder}/stats.json")
_APPLY = _piped(_streambn("apply", "{folder}/stats.json", "-", "-o", "-", "-q"))
SMALL_PARTS = (
    _many("row-groups", "`normalize` 10,000 row groups of 20 rows", GROUPS, _AND_SAVE,
          **_copy("copy_row_groups")),
    _many("small-files", "`normalize` 2,000 files of 100 rows", Files(2000, 100, columns=8),
          _AND_SAVE, **_copy("copy_files")),
    _many("fit-stream", "`fit` 20,000 batches of 10 rows", BATCHES, _FIT,
          **{LOOP: Contender(_script("update_loop"), "CPU s", finds=False)}),
    _many("apply-stream", "`apply` 20,000 batches of 10 rows, stdin to stdout", BATCHES, _APPLY,
          **{COPY: Contender(_piped(_script("copy_stream")), "CPU s", finds=False)}),
    _many("normalize-csv", "`normalize` CSV of 1,000 columns, 73 MB",
          Files(1, 4000, columns=1000, suffix="csv"), _AND_SAVE, **_copy("copy_csv"),
          Polars=Contender(_script("polars_normalize_csv"), "CPU s", needs="polars")),
)  # fmt: skip

FILE_JOBS = (
    FileJob(
        "help",
        "`streambn --help`",
        {},
        {"streambn": Contender(_streambn("--help")), "import pyarrow": IMPORT},
        rounds=11,
    ),
    _show(),
    _show("--all"),
    _show("--format", "csv"),
    _fit("snappy", **{WELFORD: Contender((*_FIT, "--policy", "welford"))}),
    _fit("zstd"),
    FileJob(
        "fit-inside",
        "`fit` a file, Snappy, in a running process",
        {"data": Files(1, 3 * MILLION)},
        {"streambn": _inside("streambn_inside"), **SCANS},
    ),
    _normalize("snappy"),
    _normalize("zstd"),
    _normalize("snappy", files=8),
    *SMALL_PARTS,
    FileJob(
        "normalize-memory",
        "memory to `normalize` 24,000,000 rows",
        {"data": LARGE, "eighth": LARGE._replace(rows=LARGE.rows // 8)},
        {
            "streambn": Contender(_NORMALIZE, "MB"),
            AN_EIGHTH: Contender(_NORMALIZE, "MB", data="eighth"),
        },
        rounds=1,
        checked=False,
        constants={ALLOWED: 600.0},
    ),
)
