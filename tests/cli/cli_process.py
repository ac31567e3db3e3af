"""Run `streambn` commands as the tests of this folder do."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from data_files import content

import streambn as sbn
from streambn.cli import main
from streambn.io import Format

COMMAND = [sys.executable, "-m", "streambn.cli"]
CO2 = Path(sbn.__file__).parent / "cli" / "data" / "co2.csv"
ENV = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}
ENV.pop("COLUMNS", None)  # pytest-xdist sets it
TIMEOUT = 120


def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, or in a new one if there are options of `subprocess.run`."""
    arguments = [str(arg) for arg in args]
    if not options:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.run(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
    options = {"text": True, "stdin": subprocess.DEVNULL, "env": ENV, **options}
    if "input" in options:
        del options["stdin"]
    options |= {"capture_output": True, "timeout": TIMEOUT}
    return subprocess.run([*COMMAND, *arguments], check=False, **options)


def good(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command that succeeds."""
    done = run(*args, **options)
    assert done.returncode == 0, done.stderr
    return done


def bad(code: int, *args: object, **options: object) -> str:
    """Run a command that fails with an exit code and leaves no file; return its message."""
    before = tree()
    done = run(*args, **options)
    stderr = done.stderr if isinstance(done.stderr, str) else done.stderr.decode()
    assert done.returncode == code, (done.returncode, stderr, done.stdout[:200])
    [line] = stderr.splitlines()
    assert line.startswith("streambn: ")
    assert tree() == before
    return line


def says(message: str, *parts: str) -> None:
    """Check that a message contains several texts."""
    for part in parts:
        assert part in message


def fit(table: pa.Table, *flags: object) -> subprocess.CompletedProcess[str]:
    """Write a table to t.parquet, and its statistics to s.json."""
    pq.write_table(table, "t.parquet")
    return good("fit", "t.parquet", "-o", "s.json", *flags)


def tree() -> list[str]:
    """List every file and folder in the working folder, hidden ones too."""
    return sorted(str(path) for path in Path().rglob("*"))


def stats(path: str = "stats.json") -> dict[str, dict[str, object]]:
    """Read statistics, by feature."""
    return {row["column"]: row for row in sbn.load(path).stats().to_pylist()}


def ipc(table: pa.Table, rows: int | None = None) -> bytes:
    """Write a table as an Arrow IPC stream."""
    return content(Format.IPC_STREAM, table, rows)


@contextlib.contextmanager
def piped(*args: object, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a new process, with pipes to the test."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [*COMMAND, *map(str, args)]
    with subprocess.Popen(command, **{"env": ENV, **pipes, **options}) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def until(true: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state(process: subprocess.Popen[bytes]) -> str:
    """Return the state of a process: S if it sleeps, T if it is stopped."""
    line = Path(f"/proc/{process.pid}/stat").read_text()
    return line.rpartition(")")[2].split()[0]


def unread(pipe: object) -> bytes:
    """Return the number of bytes that wait in a pipe."""
    return fcntl.ioctl(pipe.fileno(), termios.FIONREAD, bytes(4))
