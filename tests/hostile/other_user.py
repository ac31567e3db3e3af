"""Run commands as a user who is not root; as a script, the process that runs them.

Root may read and write everything. The process starts as root, because another user may have no
right to start Python, runs one job of each kind so that nothing is left to import, and then gives
its rights up.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import streambn.cli.main as command

# The user and group "nobody" of most systems.
NOBODY = 65534


class Done(NamedTuple):
    """The exit code of a command, and what it wrote to stderr."""

    code: int
    err: str


class OtherUser:
    """A process of another user, which runs commands one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, *args: object, umask: int = 0o022) -> Done:
        """Run a command in a folder."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([str(folder), umask, [*map(str, args)]]) + "\n")
        stdin.flush()
        return Done(*json.loads(stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _run(args: list[str]) -> tuple[int, str]:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = command.run(args)
    return code, err.getvalue()


def _import_everything() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path("in").mkdir()
    Path("in/a.csv").write_text("x\n1\n2\n")
    for args in (
        ["fit", "in", "-o", "s.json"],
        ["apply", "s.json", "in/a.csv", "-o", "a.parquet", "--verify"],
        ["normalize", "in", "a.parquet", "-o", "out", "--save", "t.json"],
        ["fit", "in/missing.csv", "-o", "s.json", "--resume"],
        ["show", "s.json"],
        ["merge", "s.json", "t.json", "-o", "m.json"],
    ):
        _run(args)
    codecs.lookup("ascii")
    shutil.rmtree(folder)


def _serve() -> None:
    _import_everything()
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    for line in sys.stdin:
        folder, umask, args = json.loads(line)
        os.chdir(folder)
        os.umask(umask)
        answer: Any = _run(args)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
