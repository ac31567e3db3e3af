"""Jobs on another engine, where that engine is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streambn._lazy import lazy_module
from streambn.cli import engine


def test_an_engine_that_is_not_installed_is_told(
    jobs_in_a_folder: None, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.csv").write_text("x\n1\n2\n")
    monkeypatch.setattr(engine, "spark", lazy_module("streambn.adapters.spark"))
    for name in [name for name in sys.modules if name.startswith("streambn.adapters.spark")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    done = run("fit", "a.csv", "-o", "s.json", "--engine", "spark")
    assert (done.code, done.lines) == (
        1,
        ["streambn: --engine spark needs its extra: pip install 'streambn[spark]'"],
    )
    assert not Path("s.json").exists()
