"""Watcher: the newest statistics of a file that another process replaces."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import streambn as sbn
from streambn.online import watcher as module


def saved(path: Path, *values: float, **options: Any) -> sbn.FrozenNormalizer:
    """Write frozen statistics of one column, and return them."""
    frozen = sbn.Normalizer(**options).update(pa.table({"x": values})).freeze()
    frozen.save(path)
    return frozen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stats.json"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_replaced_file_is_served(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streambn")
    first = saved(path, 1.0, 3.0)
    watcher = sbn.Watcher(path, every=0)
    assert watcher.frozen == first
    assert watcher.frozen is watcher.frozen
    second = saved(path, 1.0, 5.0)
    assert watcher.frozen == second
    assert [r.getMessage() for r in caplog.records] == [f"reloaded the statistics of {path}"]


def test_live_statistics_are_frozen(path: Path) -> None:
    norm = sbn.Normalizer().update(pa.table({"x": [1.0, 3.0]}))
    norm.save(path)
    watcher = sbn.Watcher(str(path), every=0)
    assert watcher.frozen == norm.freeze()
    assert isinstance(watcher.frozen, sbn.FrozenNormalizer)


def test_metadata_alone_is_a_new_version(path: Path) -> None:
    frozen = saved(path, 1.0, 3.0)
    watcher = sbn.Watcher(path, every=0)
    frozen.save(path, metadata={"release": 2})
    assert watcher.frozen.metadata == {"release": 2}


def test_the_file_is_looked_at_when_it_is_due(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    first = saved(path, 1.0, 3.0)
    watcher = sbn.Watcher(path, every="5s")
    second = saved(path, 1.0, 5.0)
    now[0] += 4.9
    assert watcher.frozen == first
    now[0] += 0.2
    assert watcher.frozen == second


def test_versions_that_look_alike_are_told_apart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one tick of the clock, a file may get the identity of the one before."""
    young = True
    monkeypatch.setattr(module, "_version", lambda _: module._Version("the same", young))
    saved(path, 1.0, 3.0)
    watcher = sbn.Watcher(path, every=0)
    second = saved(path, 3.0, 5.0)
    assert watcher.frozen == second
    third = saved(path, 5.0, 7.0)
    young = False
    for _ in range(2):
        assert watcher.frozen == third
    saved(path, 7.0, 9.0)
    assert watcher.frozen == third  # the file is old, and is not read any more


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is damaged"),
        (lambda path: path.write_text("{}"), "is not a statistics file"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: saved(path, 1.0, columns=["x"], min_count=2) and None, None),
        (lambda path: sbn.Normalizer().save(path), "no data was seen"),
        (lambda path: sbn.Normalizer().update(pa.table({"y": [1.0]})).save(path), "it lacks 'x'"),
        (
            lambda path: sbn.Normalizer().update(pa.table({"x": [1.0], "z": [2.0]})).save(path),
            "it has 'z', which the statistics in use lack",
        ),
    ],
    ids=["cut", "foreign", "missing", "other options", "no data", "fewer columns", "more columns"],
)
def test_a_file_that_does_not_fit_leaves_the_statistics(
    path: Path, damage: Any, problem: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    first = saved(path, 1.0, 3.0)
    watcher = sbn.Watcher(path, every=0)
    damage(path)
    for _ in range(3):
        assert (watcher.frozen == first) == (problem is not None)
    if problem is None:
        assert warnings(caplog) == []
        return
    [warning] = warnings(caplog)
    assert problem in warning
    assert "does not replace the statistics in use" in warning
    last = saved(path, 1.0, 5.0)
    assert watcher.frozen == last
    damage(path)
    assert watcher.frozen == last
    assert len(warnings(caplog)) == 2


def test_a_union_may_get_further_columns(path: Path) -> None:
    norm = sbn.Normalizer(schema="union").update(pa.table({"x": [1.0]}))
    norm.save(path)
    watcher = sbn.Watcher(path, every=0)
    norm.update(pa.table({"y": [1.0]})).save(path)
    assert watcher.frozen.features == ("x", "y")


def test_the_first_file_must_be_good(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sbn.Watcher(path)
    path.write_text("text")
    with pytest.raises(sbn.SnapshotError, match="not a statistics file"):
        sbn.Watcher(path)
    sbn.Normalizer().save(path)
    with pytest.raises(sbn.NotFittedError):
        sbn.Watcher(path)


@pytest.mark.parametrize("every", [-1, "soon", None, True, float("nan"), float("inf"), "-1s"])
def test_every_is_a_duration(path: Path, every: Any) -> None:
    saved(path, 1.0)
    with pytest.raises(sbn.InvalidValueError, match="every must be a duration") as caught:
        sbn.Watcher(path, every=every)
    assert caught.value.argument == "every"


@pytest.mark.parametrize("every", [0, 0.5, "500ms", timedelta(seconds=1)])
def test_a_watcher_can_be_sent_to_another_process(path: Path, every: Any) -> None:
    frozen = saved(path, 1.0, 3.0)
    watcher = pickle.loads(pickle.dumps(sbn.Watcher(path, every=every)))
    assert watcher.frozen == frozen
    assert repr(watcher) == f"Watcher({str(path)!r}, every={every!r})"


WRITER = """
import sys
import pyarrow as pa, streambn as sbn
path, versions = sys.argv[1], int(sys.argv[2])
norm = sbn.Normalizer()
for i in range(1, versions + 1):
    norm.update(pa.table({"x": [float(i), float(-i)]})).freeze().save(path, metadata={"version": i})
"""


def test_readers_follow_another_process(path: Path, long: bool) -> None:
    versions = 2000 if long else 200
    saved(path, 1.0, -1.0)
    watcher = sbn.Watcher(path, every=0)
    wrong: list[Any] = []
    seen: list[set[int]] = [set() for _ in range(4)]
    done = threading.Event()

    def read(numbers: set[int]) -> None:
        last = 0
        while not done.is_set():
            frozen = watcher.frozen
            version = frozen.metadata.get("version", 0)
            count = frozen.stats()["count"][0].as_py()
            if version < last or (version and count != 2 * version):
                wrong.append((last, version, count))
            last = version
            numbers.add(version)

    threads = [threading.Thread(target=read, args=(each,)) for each in seen]
    for thread in threads:
        thread.start()
    try:
        subprocess.run([sys.executable, "-c", WRITER, path, str(versions)], check=True)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert watcher.frozen.metadata == {"version": versions}
    assert len(set.union(*seen)) > 10
