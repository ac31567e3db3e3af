"""What holds for every test."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from streambn import kernels

# A machine that others use as well can be slow to make examples, which is no defect of theirs.
settings.register_profile("shared machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

# Python processes that tests start see the installed package, as the tests themselves do, not
# the source folder that they may stand in, which has no compiled kernels.
os.environ["PYTHONSAFEPATH"] = "1"


@pytest.fixture
def jobs_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in an empty folder, and see to it that jobs leave the process as it was."""
    monkeypatch.chdir(tmp_path)
    threads = pa.cpu_count()
    yield
    pa.set_cpu_count(threads)
    kernels.set_threads(1)
    # Whatever happened, no thread of a job outlives it.
    assert not [t.name for t in threading.enumerate() if t.name.startswith("streambn")]


@dataclass(frozen=True)
class Ran:
    """What a command did: its exit code, its lines on stderr, what it printed."""

    code: int
    lines: list[str]
    out: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process, where what it meets can be changed."""
    pytest.importorskip("typer")
    from streambn.cli import main as cli

    def run(*args: object) -> Ran:
        code = 0
        try:
            cli._invoke([str(arg) for arg in args])
        except KeyboardInterrupt:
            code = 130
        except Exception as error:
            code = cli._explain(error)
        captured = capsys.readouterr()
        return Ran(code, captured.err.splitlines(), captured.out)

    return run
