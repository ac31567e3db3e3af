"""Run a command on a pseudo-terminal."""

from __future__ import annotations

import os
import subprocess

import pytest
from cli_process import COMMAND, ENV, TIMEOUT

__all__ = ["in_a_terminal"]


def in_a_terminal(
    *args: str, code: int = 0, columns: int = 100, keyboard: bool = False, **env: str
) -> str:
    """Run a command with stdout and stderr on a terminal, and return what that shows.

    With a keyboard, stdin is on the terminal too.
    """
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    env = {**ENV, "TERM": "xterm", "COLUMNS": str(columns), **env}
    stdin = theirs if keyboard else subprocess.DEVNULL
    with subprocess.Popen(
        [*COMMAND, *args], stdin=stdin, stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        shown = b""
        with open(ours, "rb", buffering=0) as screen:
            while True:
                try:
                    piece = screen.read(65_536)
                except OSError:  # Linux reports the closed end of a terminal as an error
                    break
                if not piece:
                    break
                shown += piece
        assert process.wait(TIMEOUT) == code, shown
    return shown.decode(errors="replace")
