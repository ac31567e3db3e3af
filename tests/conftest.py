"""Options, profiles and fixtures for every test."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from streambn import kernels
from streambn.cli import main

# The number of examples that Hypothesis tries, by profile: in a short run, and with --long.
# A test without settings has the default profile. A slow test is decorated with
# @settings.get_profile("few"), a quick one that hunts for rare numbers with "many".
EXAMPLES = {"default": (40, 100), "few": (10, 30), "many": (100, 300)}

# Python processes that tests start import the installed package, as the tests do. The source
# folder, which may be their working folder, has no compiled kernels.
os.environ["PYTHONSAFEPATH"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="try each law on more examples, kill jobs at more points, run tests marked long",
    )
    parser.addoption(
        "--only-long",
        action="store_true",
        help="with --long: leave out the tests that do the same without it",
    )


def pytest_configure(config: pytest.Config) -> None:
    for name, (short, long) in EXAMPLES.items():
        settings.register_profile(
            f"streambn {name}" if name == "default" else name,
            max_examples=long if config.getoption("--long") else short,
            deadline=None,
            # A commit is judged by the same examples whenever it is checked. New ones are looked
            # for on developers' machines.
            derandomize="CI" in os.environ,
            # A busy machine can be slow to generate examples.
            suppress_health_check=[HealthCheck.too_slow],
        )
    settings.load_profile("streambn default")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start a process per core for folders of tests, and none for single files and tests."""
    folders = all(Path(arg).is_dir() for arg in config.args)
    return min(os.cpu_count() or 1, 8) if folders else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="only with --long"))
    elif config.getoption("--only-long"):
        same = [item for item in items if not has_long_form(item)]
        config.hook.pytest_deselected(items=same)
        items[:] = [item for item in items if has_long_form(item)]


def has_long_form(item: pytest.Item) -> bool:
    """Return whether a test does more with --long than without it."""
    return (
        item.get_closest_marker("long") is not None
        or "long" in getattr(item, "fixturenames", ())
        or is_hypothesis_test(getattr(item, "obj", None))
    )


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether the tests run in their long form."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture
def jobs_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Change into an empty folder, and check that jobs leave no thread behind."""
    monkeypatch.chdir(tmp_path)
    threads = pa.cpu_count()
    yield
    pa.set_cpu_count(threads)
    kernels.set_threads(1)
    # A command freezes the objects of its process. The exception of one that failed keeps the
    # generators of the job alive until it is collected.
    gc.unfreeze()
    gc.collect()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("streambn")]


@dataclass(frozen=True)
class CommandResult:
    """The exit code of a command, its lines on stderr, and its output."""

    code: int
    lines: list[str]
    out: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Return a function that runs a command in this process, where tests can patch it."""

    def run(*args: object) -> CommandResult:
        code = main.run([str(arg) for arg in args])
        captured = capsys.readouterr()
        return CommandResult(code, captured.err.splitlines(), captured.out)

    return run
