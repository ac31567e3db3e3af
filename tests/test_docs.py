"""Run every block of every README and every example in a docstring.

A `python` block runs by itself in an empty folder. Blocks that start engines such as Spark share a
process, because to start an engine takes longer than to run a block. Those for Kafka need a broker,
and run in tests/online/test_kafka.py. A `console` block is a session in an empty folder: lines that
begin with `$ ` run one after the other, and the lines below each are its output, in which `…`
stands for text that differs between runs. A `text` block is the output of the block before it. `sh`
blocks are the root README's two commands, which `.ci/run` runs. `bash` blocks are recipes for
developers, whose syntax and paths are checked.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from spark_process import needs_java

import streambn

ROOT = Path(__file__).parent.parent
GUIDES = [
    path.relative_to(ROOT)
    for pattern in ("README.md", "[!.]*/README.md", "streambn/*/README.md")
    for path in sorted(ROOT.glob(pattern))
    if path != ROOT / "streambn/adapters/README.md"  # a link to adapters/, if it exists
]
# Hosts that are not in the extra with which the tests are run, and what to install.
HOSTS = {
    "ray": "needs ray: pip install 'ray[data]'",
    "spark": "needs pyspark: pip install pyspark",
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.M | re.S)


class Block(NamedTuple):
    language: str
    code: str
    output: str | None


def blocks(guide: Path) -> list[Block]:
    return [Block(*match.groups()) for match in BLOCK.finditer((ROOT / guide).read_text())]


def of_language(language: str) -> list[pytest.param]:
    return [
        pytest.param(block, id=f"{guide}-{number}")
        for guide in GUIDES
        for number, block in enumerate(blocks(guide))
        if block.language == language and "confluent_kafka" not in block.code
    ]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Runs the blocks that it reads, each in an empty folder. Engines keep the folder in which they
# started as their own, so it is emptied and not changed.
RUN_BLOCKS = """
import contextlib, io, json, os, shutil, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # engines may print at any time
for line in sys.stdin:
    for entry in os.scandir():
        shutil.rmtree(entry) if entry.is_dir() else os.remove(entry)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            exec(compile(json.loads(line), "README.md", "exec"), {"__name__": "readme"})
            error = None
        except BaseException:
            error = traceback.format_exc()
    print(json.dumps([output.getvalue(), error]), file=answers, flush=True)
"""


class EngineProcess:
    """A process for blocks that start engines, which all of them share and which ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, code: str) -> str:
        """Return the output of a block."""
        if self._process is None:
            quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-c", RUN_BLOCKS],
                cwd=self._folder,
                env={**os.environ, **quiet, "PYSPARK_PYTHON": sys.executable},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process ended"
        output, error = json.loads(answer)
        assert error is None, error
        return str(output)

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate()


@pytest.fixture(scope="module")
def engine_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    process = EngineProcess(tmp_path_factory.mktemp("engines", numbered=True))
    yield process
    process.end()


@pytest.mark.parametrize("block", of_language("python"))
def test_python_block_prints_its_output(
    block: Block, capsys: pytest.CaptureFixture[str], engine_process: EngineProcess
) -> None:
    engines = [host for host in HOSTS if f"streambn.adapters.{host}" in block.code]
    if engines:
        need_engines(engines)
        output = engine_process.run(block.code)
    else:
        exec(compile(block.code, "README.md", "exec"), {"__name__": "readme"})
        output = capsys.readouterr().out
    if block.output is not None:
        assert output.strip() == block.output.strip()


def need_engines(engines: list[str]) -> None:
    """Skip a test where an engine is not installed."""
    for host in engines:
        if importlib.util.find_spec({"spark": "pyspark"}.get(host, host)) is None:
            pytest.skip(HOSTS[host])
    if "spark" in engines:
        needs_java()


@pytest.mark.parametrize("block", of_language("console"))
def test_console_session_prints_its_output(block: Block) -> None:
    need_engines([host for host in HOSTS if f"--engine {host}" in block.code])
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for step in block.code.split("$ ")[1:]:
        command, _, expected = step.partition("\n")
        done = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if expected.strip():
            printed = [line.rstrip() for line in (done.stderr + done.stdout).strip().splitlines()]
            patterns = [line.rstrip() for line in expected.strip().splitlines()]
            assert len(printed) == len(patterns), printed
            for line, pattern in zip(printed, patterns, strict=True):
                assert re.fullmatch(re.escape(pattern).replace("…", ".*"), line), line


@pytest.mark.parametrize("block", of_language("bash"))
def test_bash_recipe_names_existing_paths(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    words = shlex.split(block.code.replace("\\\n", " "), comments=True)
    for word in words:
        if re.match(r"(tests|benchmarks|adapters|streambn|\.ci)/", word):
            assert (ROOT / word.partition("::")[0]).exists(), word


@pytest.mark.parametrize("guide", GUIDES, ids=str)
def test_no_block_escapes(guide: Path) -> None:
    """Each fence belongs to a block in one of the languages that are checked above."""
    found = blocks(guide)
    assert {block.language for block in found} <= {"python", "console", "sh", "bash"}
    fences = (ROOT / guide).read_text().count("```")
    assert fences == sum(2 if block.output is None else 4 for block in found)


def test_root_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_root_readme_has_two_commands() -> None:
    commands = [block.code for guide in GUIDES for block in blocks(guide) if block.language == "sh"]
    assert len(commands) == 2
    for command, extras in zip(commands, (".[cli]", ".[test]"), strict=True):
        assert "python3 -m venv" in command
        assert extras in shlex.split(command)


def documented() -> list[str]:
    # The path of an editable install has the root of the checkout as well.
    folders = {"streambn.": Path(streambn.__file__).parent, "streambn.adapters.": ROOT / "adapters"}
    names = {m.name for prefix, folder in folders.items()
             for m in pkgutil.walk_packages([str(folder)], prefix)}  # fmt: skip
    compiled = {name for name in names if name.startswith("streambn.kernels.native")}
    return sorted({"streambn", *names} - compiled)


def imported(name: str) -> ModuleType:
    """Import a module, or skip the test if its host is not installed."""
    for host, reason in HOSTS.items():
        if name.startswith(f"streambn.adapters.{host}"):
            pytest.importorskip(name, reason=reason, exc_type=ImportError)
    return importlib.import_module(name)


@pytest.mark.parametrize("name", documented())
def test_docstring_examples_run(name: str) -> None:
    assert doctest.testmod(imported(name)).failed == 0


def test_docstrings_have_examples() -> None:
    finder = doctest.DocTestFinder()
    hosts = tuple(f"streambn.adapters.{host}" for host in HOSTS)
    names = [name for name in documented() if not name.startswith(hosts)]
    modules = map(importlib.import_module, names)
    assert len([test for module in modules for test in finder.find(module) if test.examples]) >= 5
