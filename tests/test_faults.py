"""What file jobs do when they are killed, when their inputs are damaged, when the disk is full.

Each test draws its points, or its damage, at random from a fixed seed: a few in the short form
that runs by default, and many in the long one, in which `STREAMBN_FAULTS` is how many points
each job is killed at, and a tenth of how many times each file is damaged:

    STREAMBN_FAULTS=100 python -m pytest tests/test_faults.py
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import streambn as sbn

FAULTS = int(os.environ.get("STREAMBN_FAULTS", "3"))
SERVER = Path(__file__).with_name("fault_server.py")
COMMAND = [sys.executable, "-m", "streambn.cli"]
ENV = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}
TIMEOUT = 120

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


class Server:
    """Runs the command in forked children; see `fault_server`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environment = {**ENV, "OPENBLAS_NUM_THREADS": "1"}  # a process that forks has no threads
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, do: str, args: list[object], cwd: Path, **request: Any) -> dict[str, Any]:
        """Give the child's answer; its "status" is negative if a signal ended it."""
        assert self._process.stdin
        assert self._process.stdout
        files = {name: str(self._folder / name) for name in ("answer", "stdout", "stderr")}
        request |= {"do": do, "args": [str(a) for a in args], "cwd": str(cwd), **files}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        answer = json.loads(Path(files["answer"]).read_text() or "{}")
        for name in ("stdout", "stderr"):
            answer[name] = Path(files[name]).read_text()
        return {"code": None, **answer, "status": status}

    def good(self, args: list[object], cwd: Path, **request: Any) -> dict[str, Any]:
        done = self.ask("run", args, cwd, **request)
        assert (done["status"], done["code"]) == (0, 0), done
        return done

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(TIMEOUT)
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    yield started
    started.close()


def one_line(said: str) -> str:
    """Return the one line that was said, which is no Python exception that slipped through."""
    assert len(said.splitlines()) == 1, said
    assert said.startswith("streambn: "), said
    word = said.split()[1]
    assert not word.endswith(("Error:", "Exception:", "Interrupt:", "Iteration:")), said
    return said


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def some_table(rows: int = 1100, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = pa.array(rng.normal(1e3, 2, rows), mask=rng.random(rows) < 0.1)
    n = pa.array(rng.integers(-(2**60), 2**60, rows))
    return pa.table({"x": x, "n": n, "s": [f"row {i % 7}" for i in range(rows)]})


def write(path: Path, table: pa.Table, rows: int = 250, **options: Any) -> Path:
    """Write in the format of the suffix, several row groups or batches of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=rows, write_page_checksum=True, **options)
        return path
    sink = io.BytesIO()
    if name.endswith(".csv"):
        pyarrow.csv.write_csv(table, sink)
    else:
        new = pa.ipc.new_file if name.endswith(".arrow") else pa.ipc.new_stream
        with new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    data = sink.getvalue()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


NAMES = ("y=1/a.parquet", "y=1/b.csv", "y=2/c.arrow", "y=2/d.arrows", "y=3/e.csv.gz")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of small files in it, of every format."""
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(NAMES):
        write(folder / "data" / name, some_table(seed=seed))
    fitted = sbn.Normalizer().update(some_table())
    fitted.save(folder / "given.json")
    return folder


def copy_of(data: Path, folder: Path) -> Path:
    """Give a copy of the folder: the files keep their times, so they are unchanged inputs."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(data, folder)
    return folder


OFTEN = ["--checkpoint-every", 1, "-q"]
JOBS: dict[str, list[object]] = {
    "fit": ["fit", "data", "-o", "stats.json", *OFTEN],
    "fit ema": ["fit", "data", "-o", "stats.json", "--policy", "ema", "--halflife", 100, *OFTEN],
    "fit batch-ema": [
        *("fit", "data", "-o", "stats.json", "--policy", "batch-ema"),
        *("--momentum", 0.1, "--columns", "x", *OFTEN),
    ],
    "normalize": ["normalize", "data", "-o", "out/", "--save", "stats.json", *OFTEN],
    "normalize into one": ["normalize", "data", "-o", "out.parquet", *OFTEN],
    "apply": ["apply", "given.json", "data", "-o", "out/", "-q"],
}


def points(count: int, total: int, rng: random.Random) -> list[int]:
    """Draw points that are spread over the whole run."""
    return [1 + int((i + rng.random()) * total / count) for i in range(count)]


# --- killed -------------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS)
def test_a_killed_job_goes_on_to_the_same_bytes(
    job: str, server: Server, data: Path, tmp_path: Path
) -> None:
    rng = random.Random(job)
    args = JOBS[job]
    folder = copy_of(data, tmp_path / "work")
    done = server.good(args, folder)
    expected = contents(folder)
    assert not [name for name in expected if name.endswith((".tmp", ".checkpoint"))]
    for number, at in enumerate(points(FAULTS, done["points"], rng)):
        copy_of(data, folder)
        threads = ["--threads", rng.choice([1, 2, 3])]
        killed = server.ask("run", [*args, *threads], folder, at=at)
        # Another number of threads, or another order of theirs, has a few points less.
        assert killed["status"] == -signal.SIGKILL or killed["code"] == 0, killed
        for _ in range(number % 3):  # killed again while it goes on
            again = rng.randint(1, done["points"])
            killed = server.ask("run", [*args, "--resume"], folder, at=again)
            assert killed["status"] == -signal.SIGKILL or killed["code"] == 0, killed
        last = server.good([*args, *threads, "--resume"], folder)
        assert last["stderr"] == ""
        found = contents(folder)
        assert sorted(found) == sorted(expected), (job, at, number)
        assert found == expected, (job, at, number)
