"""Run `streambn` commands as the tests of this folder do."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

import streambn as sbn
from streambn.cli import main

__all__ = ["CO2", "COMMAND", "ENV", "TIMEOUT", "bad", "good", "ipc", "run", "stats", "tree"]

COMMAND = [sys.executable, "-m", "streambn.cli"]
CO2 = Path(sbn.__file__).parent / "cli" / "data" / "co2.csv"
ENV = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}
ENV.pop("COLUMNS", None)  # pytest-xdist sets it
TIMEOUT = 60


def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, or in a new one if there are options for it.

    Parameters
    ----------
    *args : object
        The command line.
    **options
        Options of `subprocess.run`.
    """
    arguments = [str(arg) for arg in args]
    if not options:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.run(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
    options = {"text": True, "stdin": subprocess.DEVNULL, "env": ENV, **options}
    if "input" in options:
        del options["stdin"]
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
        **options,  # type: ignore[call-overload]
    )


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


def tree() -> list[str]:
    """List every file and folder in the working folder, hidden ones too."""
    return sorted(str(path) for path in Path().rglob("*"))


def stats(path: str = "stats.json") -> dict[str, dict[str, object]]:
    """Read statistics, by feature."""
    return {row["column"]: row for row in sbn.load(path).stats().to_pylist()}


def ipc(table: pa.Table, rows: int | None = None) -> bytes:
    """Write a table as an Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()
