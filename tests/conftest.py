"""What holds for every test."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings

# A machine that others use as well can be slow to make examples, which is no defect of theirs.
settings.register_profile("shared machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

# Python processes that tests start see the installed package, as the tests themselves do, not
# the source folder that they may stand in, which has no compiled kernels.
os.environ["PYTHONSAFEPATH"] = "1"


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
    from streambn import cli

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
