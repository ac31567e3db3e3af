"""Every block of the README and every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import streambn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.M | re.S)


def blocks(language):
    return [(m[2], m[3]) for m in BLOCK.finditer(README) if m[1] == language]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("code", "printed"), blocks("python"))
def test_the_readmes_python_runs_and_prints_what_it_says(code, printed, workplace, capsys):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    if printed is not None:
        assert capsys.readouterr().out.strip() == printed.strip()


@pytest.mark.parametrize("session", [block for block, _ in blocks("console")])
def test_the_readmes_shell_session_runs_and_prints_what_it_says(session, workplace):
    """Lines that begin with a $ are run, one after the other; the rest is their output.

    An ellipsis stands for what is not the same in every run.
    """
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    path = Path(sys.executable).parent
    environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    for step in session.split("$ ")[1:]:
        command, _, expected = step.partition("\n")
        ran = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        if expected.strip():
            shown = [line.rstrip() for line in (ran.stderr + ran.stdout).strip().splitlines()]
            wanted = [line.rstrip() for line in expected.strip().splitlines()]
            assert len(shown) == len(wanted)
            for line, pattern in zip(shown, wanted, strict=True):
                assert re.fullmatch(re.escape(pattern).replace("…", ".*"), line), line


def test_the_readmes_two_commands_name_what_exists():
    commands = [block for block, _ in blocks("sh")]
    assert len(commands) == 2
    for command in commands:
        assert "python3 -m venv" in command
        words = shlex.split(command.replace("\\\n", " "))
        extras = [w for w in words if w.startswith(".[")]
        assert extras in (["[cli]"], [".[cli]"], [".[test]"])


def documented():
    names = [m.name for m in pkgutil.walk_packages(streambn.__path__, "streambn.")]
    # The compiled kernels may not be there; they have the reference's docstrings, no examples.
    return ["streambn", *sorted(n for n in names if not n.startswith("streambn.kernels.native"))]


@pytest.mark.parametrize("name", documented())
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples_to_run():
    finder = doctest.DocTestFinder()
    found = [t for n in documented() for t in finder.find(importlib.import_module(n)) if t.examples]
    assert len(found) >= 5
