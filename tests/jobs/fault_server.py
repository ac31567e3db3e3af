"""Run commands in forked children and make them fail, for `test_faults`.

    python fault_server.py

reads requests from stdin, a line of JSON each, and answers each with a line of JSON. It imports
everything before the first fork, so a run takes milliseconds. Pieces and blocks are small, so a
few kilobytes of data have many.

A run passes *points*: it is about to open, rename, remove, flush or write a file in its folder, or
a fit has reached a state that a checkpoint could hold. At the requested point the process kills
itself, half-way through a write if the point is one, or truncates or removes a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  (Arrow does if it is there)
import pyarrow.compute
import pyarrow.csv
import pyarrow.pandas_compat
import pyarrow.parquet  # noqa: F401
import rich.console  # noqa: F401

import streambn.cli.apply
import streambn.cli.statistics  # noqa: F401
from streambn.cli import main as cli
from streambn.io import atomic, csv_reader
from streambn.io import readers as reading
from streambn.jobs import checkpoint
from streambn.parquet import rewrite as rewriting

_MEMORY = 4 << 30  # a damaged length must not exhaust the machine
_AUDITED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}


class Points:
    """Counts the points that a run passes, and acts at one of them."""

    def __init__(self, at: int | None, act: list[Any], only: str | None) -> None:
        self._at, self._act, self._only = at, act, only
        self._numbers = itertools.count(1)
        self.count = 0
        self._folder = os.getcwd()

    def reach(self, kind: str, before: Callable[[], object] = lambda: None) -> None:
        """Pass a point; if the process kills itself there, it calls `before` first."""
        if self._only is not None and kind != self._only:
            return
        number = next(self._numbers)  # atomic
        self.count = max(self.count, number)
        if number == self._at:
            if self._act == ["signal", signal.SIGKILL]:
                before()
            self._act_now()

    def _act_now(self) -> None:
        what, argument = self._act
        if what == "signal":
            os.kill(os.getpid(), argument)
        elif what == "truncate":
            os.truncate(argument, os.path.getsize(argument) // 2)
        elif what == "remove" and os.path.isdir(argument):
            shutil.rmtree(argument)
        elif what == "remove":
            os.unlink(argument)
        else:
            raise ValueError(what)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Take note of an operation on a file, as an audit hook."""
        if event not in _AUDITED or not isinstance(args[0], str):
            return
        path = args[0]
        if not os.path.isabs(path) or path.startswith(self._folder):
            self.reach("file")

    def install(self) -> None:
        """Observe this process."""

        class HalfWritten(atomic._WritebackFile):
            def write(inner, data: Any) -> int:  # noqa: N805
                half = memoryview(data)[: len(data) // 2]
                self.reach("write", lambda: io.FileIO.write(inner, half))
                return super().write(data)

        reach = checkpoint.CheckpointWriter.reach

        def reached(writer: Any, state: Any) -> None:
            self.reach("reach")
            reach(writer, state)

        atomic._WritebackFile = HalfWritten  # type: ignore[misc]
        checkpoint.CheckpointWriter.reach = reached  # type: ignore[method-assign]
        # A killed process loses nothing that it wrote, so fsync is not needed here.
        os.fsync = lambda _: self.reach("fsync")  # type: ignore[assignment]
        sys.addaudithook(self.audit)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run the command once."""
    points = Points(request.get("at"), request.get("act", ["signal", 9]), request.get("only"))
    points.install()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if (size := request.get("file_size")) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    with contextlib.redirect_stderr(io.StringIO()) as said:  # a file on stderr would be limited too
        code = command(request["args"])
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sys.stderr.write(said.getvalue())
    return {"code": code, "points": points.count}


def command(args: list[str]) -> Any:
    """Run the command in this process; return its exit code."""
    cli._catch_signals()  # as `main` does
    try:
        return cli.run(args)
    except SystemExit as stop:
        return stop.code


def damage(request: dict[str, Any]) -> dict[str, Any]:
    """Run the command over many damaged forms of one file.

    A case is the length to cut the file to, a byte to change or null, and the bits to flip in it.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    path, out = Path(request["file"]), Path(request["out"])
    whole = path.read_bytes()
    answers = []
    for case in request["cases"]:
        print(case, flush=True)  # the last one printed is the one that killed the process
        remove(out)
        for saved, name in request.get("restore", ()):
            remove(Path(name))
            shutil.copytree(saved, name)
        cut, position, mask = case
        spoilt = bytearray(whole[:cut])
        if position is not None:
            spoilt[position] ^= mask
        path.write_bytes(spoilt)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = command(request["args"])
        answers.append({"case": case, "code": code, "said": said.getvalue(), "out": digest(out)})
    path.write_bytes(whole)
    return {"code": 0, "answers": answers}


def remove(path: Path) -> None:
    """Remove a file, or a folder and all in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def digest(path: Path) -> str | None:
    """Return a hash of a file or of all outputs in a folder; None if it does not exist."""
    if not path.exists():
        return None
    summed = hashlib.sha256()
    for file in [path, *sorted(path.rglob("*"))]:
        if file.is_file() and file.suffix != ".manifest":  # it holds times
            content = file.read_bytes()
            summed.update(f"{file.relative_to(path)} {len(content)} ".encode() + content)
    return summed.hexdigest()


def in_child(request: dict[str, Any]) -> None:
    """Carry out a request in this child process, and write the answer to a file."""
    os.chdir(request["cwd"])
    answer = os.open(request["answer"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for name, number in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # A background job of a shell starts with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = {"run": run, "damage": damage}[request["do"]](request)
    except BaseException:
        traceback.print_exc()
        done = {"code": -1}
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(answer, json.dumps(done).encode())
    os._exit(0)


def main() -> None:
    """Serve requests until stdin ends."""
    reading.PARQUET_ROWS = 200
    csv_reader._BLOCK = 4096
    rewriting._BLOCK_BYTES = 2048
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            in_child(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
