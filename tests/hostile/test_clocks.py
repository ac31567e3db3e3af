"""Clocks that go backwards, stand still or jump, and files with times of any year.

Durations come from a clock that only goes forward. Times of files are compared for equality alone.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streambn.jobs.progress import Progress

Run = Callable[..., Any]

CLOCKS: dict[str, Callable[[], Iterator[float]]] = {
    "backwards": lambda: (2e9 - 3600.0 * n for n in itertools.count()),
    "still": lambda: itertools.repeat(1e9),
    "in 1970": lambda: itertools.repeat(0.0),
    "before 1970": lambda: (-1e9 - n for n in itertools.count()),
    "back and forth": lambda: itertools.cycle([0.0, 4e9, 1e9]),
}
# Nanoseconds since 1970: the far future, 1970, a day in 1938, and now.
TIMES = {"2100": 41 * 10**17, "1970": 0, "1938": -(10**18), "now": None}
JOBS = [
    ("fit", "in", "-o", "fitted.json", "-q", "--checkpoint-every", "2"),
    ("apply", "fitted.json", "in", "-o", "applied", "-q", "--verify"),
    ("normalize", "in", "-o", "out", "-q", "--save", "stats.json", "--progress", "plain"),
]


@pytest.fixture(autouse=True)
def _inputs(jobs_in_a_folder: None) -> None:
    Path("in").mkdir()
    for name in "abc":
        Path(f"in/{name}.csv").write_text("x\n" + "".join(f"{n}\n" for n in range(20)))


def results() -> dict[str, bytes]:
    paths = [path for path in Path().rglob("*") if path.is_file() and path.parts[0] != "in"]
    return {str(path): path.read_bytes() for path in paths if path.name != "_streambn.manifest"}


def remove_results() -> None:
    for name in [*results(), "applied/_streambn.manifest", "out/_streambn.manifest"]:
        Path(name).unlink()


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_clock_of_the_day_has_no_part_in_a_job(
    clock: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for args in JOBS:
        assert run(*args).code == 0
    expected = results()
    remove_results()
    ticks = CLOCKS[clock]()
    monkeypatch.setattr(time, "time", lambda: next(ticks))
    monkeypatch.setattr(time, "time_ns", lambda: round(next(ticks) * 1e9))
    for args in JOBS:
        done = run(*args)
        assert (done.code, [line for line in done.lines if "error" in line.lower()]) == (0, [])
    assert results() == expected
    for args in JOBS:
        assert run(*args, "--resume").code == 0
    assert results() == expected


@pytest.mark.parametrize("date", TIMES)
def test_files_of_any_year_are_read_locked_resumed_and_removed(date: str, run: Run) -> None:
    def set_times() -> None:
        for path in Path().rglob("*"):
            if TIMES[date] is not None:
                os.utime(path, ns=(TIMES[date], TIMES[date]))

    set_times()
    for args in JOBS:
        assert run(*args).code == 0
    expected = results()
    for name in (
        "out/.a.csv.deadbeef.tmp",
        "out/._streambn.manifest.lock",
        ".stats.json.0badcafe.tmp",
    ):
        Path(name).write_text("left by a killed job")
    set_times()
    for args in JOBS:
        done = run(*args, "--resume")
        assert (done.code, [line for line in done.lines if "rows" not in line]) == (0, [])
    assert results() == expected


@pytest.mark.parametrize("back", [0.5, 3600.0, 1e9])
def test_progress_survives_a_clock_that_goes_backwards(back: float) -> None:
    now = [1e6]
    progress = Progress("fitting", 1, 1000, clock=lambda: now[0])
    progress.start_file("a", 1000)
    for step in (1.0, -back, 1.0, back, 0.0):
        now[0] += step
        progress.add(10, 100)
        rates = (*progress.rates, *progress.recent_rates)
        assert all(0 <= rate < 1e15 for rate in rates)
        assert progress.eta is None or progress.eta >= 0
    assert progress.rows == 50


@pytest.mark.parametrize("every", ["1e12", "100000000h", "1000000000000000000000"])
def test_an_interval_longer_than_any_clock_counts(every: str, run: Run) -> None:
    done = run("fit", "in", "-o", "s.json", "--checkpoint-every", every)
    assert done.code in (0, 2)
    assert len(done.lines) == 1
