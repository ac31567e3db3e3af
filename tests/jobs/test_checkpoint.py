"""Fits that were stopped and go on: their results are those of fits that were not."""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn.cli import fit as fit_command
from streambn.io import locate
from streambn.io import readers as reading
from streambn.io import sources as files
from streambn.jobs import checkpoint as checkpoints
from streambn.jobs.checkpoint import Interval, Place, Reached
from streambn.jobs.job import fit_job
from streambn.jobs.report import Skipped

NEVER = Interval(None, None)


@pytest.fixture(autouse=True)
def _small_pieces(jobs_in_a_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pieces of many row groups and many batches, although the tables are small."""
    monkeypatch.setattr(reading, "PARQUET_ROWS", 8)
    monkeypatch.setattr(reading, "_CSV_BLOCK", 300)


def table_of(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "x": rng.normal(size=rows),
            "y": pa.array(rng.normal(1e6, 3, size=rows)),
            "t": rng.permutation(rows) * 1.0 + 100 * seed,
            "w": rng.integers(0, 4, rows) * 0.5,
        }
    )


def lay_out() -> list[str]:
    """Write files of all formats: pieces of several batches, streams, files without rows."""
    Path("data").mkdir()
    pq.write_table(table_of(50, 1), "data/a.parquet", row_group_size=20)
    pq.write_table(table_of(0), "data/b.parquet")
    with pa.ipc.new_file("data/c.arrow", table_of(0).schema) as writer:
        writer.write_table(table_of(30, 2), max_chunksize=12)
    pa.csv.write_csv(table_of(30, 3), "data/d.csv")
    with pa.ipc.new_stream("data/e.arrows", table_of(0).schema) as writer:
        writer.write_table(table_of(30, 4), max_chunksize=12)
    sink = io.BytesIO()
    pa.csv.write_csv(table_of(30, 5), sink)
    Path("data/f.csv.gz").write_bytes(gzip.compress(sink.getvalue()))
    pq.write_table(table_of(21, 6), "data/g.parquet", row_group_size=3)
    return sorted(str(path) for path in Path("data").iterdir())


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int | None) -> list[int]:
    """Have a fit interrupted after so many batches; the list tells how many there were."""
    learned: list[int] = []

    def counted(fitted: Any, batch: Any) -> Any:
        if len(learned) == batches:
            raise KeyboardInterrupt
        learned.append(batch.num_rows)
        return fitted.learn(batch)

    learn_by(monkeypatch, counted)
    return learned


def learn_by(monkeypatch: pytest.MonkeyPatch, learn: Callable[[Any, Any], Any]) -> None:
    """Let the command `fit` learn batches by this function."""
    monkeypatch.setattr(fit_command, "fit_job", functools.partial(fit_job, learn=learn))


POLICIES: dict[str, list[object]] = {
    "welford": [],
    "welford, weighted": ["--weights", "w"],
    "ema": ["--policy", "ema", "--alpha", 0.1, "--columns", "x,y"],
    "ema, weighted": ["--policy", "ema", "--halflife", 9, "--weights", "w"],
    "ema by time": ["--policy", "ema", "--halflife", 20, "--time", "t"],
    "ema by time, weighted": ["--policy", "ema", "--halflife", 20, "--time", "t", "--weights", "w"],
    "batch-ema": ["--policy", "batch-ema", "--momentum", 0.1],
    "batch-ema of rows": ["--policy", "batch-ema", "--momentum", 0.1, "--batch-rows", 7],
    "batch-ema, debiased": ["--policy", "batch-ema", "--decay", 0.9, "--initial", "none"],
    "exact": ["--policy", "exact"],
}
EACH_POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


# --- results --------------------------------------------------------------------------


@EACH_POLICY
def test_wherever_it_was_stopped_the_result_is_the_same(
    policy: list[object], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = lay_out()
    learned = stop_after(monkeypatch, None)
    fit = ["fit", *inputs, *policy, "--threads", 2, "-q"]
    assert run(*fit, "-o", "whole.json").code == 0
    expected, batches = Path("whole.json").read_bytes(), len(learned)
    assert batches > 20
    for count in range(batches):
        stop_after(monkeypatch, count)
        assert run(*fit, "-o", "s.json").code == 130
        assert not Path("s.json").exists()
        # The first place is the end of the first row group, of 20 rows in 3 batches.
        assert Path("s.json.checkpoint").exists() == (count >= 3)
        rest = stop_after(monkeypatch, None)
        assert run(*fit, "-o", "s.json", "--resume").lines == []
        assert len(rest) <= batches - count + 3
        assert Path("s.json").read_bytes() == expected, count
        assert not Path("s.json.checkpoint").exists()
        Path("s.json").unlink()


@EACH_POLICY
def test_stopped_again_and_again(
    policy: list[object], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = lay_out()
    fit = ["fit", *inputs, *policy, "--threads", 2, "-q"]
    stop_after(monkeypatch, None)
    assert run(*fit, "-o", "whole.json").code == 0
    for _ in range(100):
        stop_after(monkeypatch, 4)  # more than the batches of any one piece
        done = run(*fit, "-o", "s.json", "--resume")
        if done.code == 0:
            break
        assert done.code == 130
        # The checkpoint is a statistics file, to be loaded and shown.
        assert sbn.load("s.json.checkpoint").features
        assert run("show", "s.json.checkpoint").code == 0
    assert Path("s.json").read_bytes() == Path("whole.json").read_bytes()


@EACH_POLICY
def test_the_result_does_not_depend_on_the_threads(
    policy: list[object], run: Callable[..., Any]
) -> None:
    inputs = lay_out()
    made = set()
    for threads in (1, 2, 7):
        assert run("fit", *inputs, *policy, "-o", "s.json", "--threads", threads).code == 0
        made.add(Path("s.json").read_bytes())
    assert len(made) == 1


def test_what_the_report_counts_is_the_whole_job(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = lay_out()
    whole = json.loads(run("fit", *inputs, "-o", "s.json", "--json", "-q").out)
    assert (whole["resumed"], whole["rows"], whole["files"]) == (False, 191, 7)
    assert whole["bytes"] == sum(os.stat(path).st_size for path in inputs)
    for count in (4, 9, 15, 22):
        stop_after(monkeypatch, count)
        assert run("fit", *inputs, "-o", "s.json").code == 130
        stop_after(monkeypatch, None)
        again = json.loads(run("fit", *inputs, "-o", "s.json", "--resume", "--json", "-q").out)
        assert again["resumed"]
        for name in ("rows", "files", "bytes", "fingerprint"):
            assert again[name] == whole[name], (count, name)


def test_normalize_goes_on_too(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = lay_out()
    assert run("normalize", *inputs, "-o", "whole/", "-q").code == 0
    for out in ("out/", "out.arrow"):
        stop_after(monkeypatch, 12)
        assert run("normalize", "data", "-o", out).code == 130
        kept = Path("out/_streambn.checkpoint" if out == "out/" else "out.arrow.checkpoint")
        assert kept.exists()
        learned = stop_after(monkeypatch, None)
        assert run("normalize", "data", "-o", out, "--resume", "-q").lines == []
        assert sum(learned) < 191
        assert not kept.exists()
    for path in Path("whole").iterdir():
        if path.suffix != ".manifest":
            assert (Path("out") / path.name).read_bytes() == path.read_bytes(), path


def test_without_resume_it_begins_anew(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = lay_out()
    stop_after(monkeypatch, 12)
    assert run("fit", *inputs, "-o", "s.json").code == 130
    learned = stop_after(monkeypatch, None)
    assert run("fit", *inputs, "-o", "s.json", "-q").code == 0
    assert sum(learned) == 191
    assert not Path("s.json.checkpoint").exists()


def test_with_nothing_to_go_on_from_it_begins(run: Callable[..., Any]) -> None:
    inputs = lay_out()
    assert run("fit", *inputs, "-o", "s.json", "--resume", "-q").lines == []
    assert sbn.load("s.json").stats()["count"].to_pylist()[0] == 191


# --- what has changed -----------------------------------------------------------------


@pytest.fixture
def stopped(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fit that was stopped in the second of three files."""
    paths = [f"{name}.parquet" for name in "abc"]
    for seed, path in enumerate(paths):
        pq.write_table(table_of(40, seed), path, row_group_size=10)
    stop_after(monkeypatch, 12)
    assert run("fit", *paths, "-o", "s.json").code == 130
    stop_after(monkeypatch, None)
    return paths


def resumed(run: Callable[..., Any], paths: list[str], *more: object) -> str:
    """Go on, which must be refused, and return the one line."""
    before = Path("s.json.checkpoint").read_bytes()
    done = run("fit", *paths, "-o", "s.json", "--resume", *more)
    assert done.code == 1, done.lines
    (line,) = done.lines
    assert not Path("s.json").exists()
    assert Path("s.json.checkpoint").read_bytes() == before
    return line


def test_an_input_that_was_read_and_changed(run: Callable[..., Any], stopped: list[str]) -> None:
    for path in stopped[:2]:
        status = os.stat(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert f"{path} has changed since it was read" in resumed(run, stopped)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        content = Path(path).read_bytes()
        Path(path).write_bytes(content + b"PAR1")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert f"{path} has changed since it was read" in resumed(run, stopped)
        Path(path).write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run("fit", *stopped, "-o", "s.json", "--resume").code == 0


def test_an_input_that_was_not_read_may_change(run: Callable[..., Any], stopped: list[str]) -> None:
    pq.write_table(table_of(40, 9), "c.parquet")
    assert run("fit", *stopped, "-o", "s.json", "--resume", "-q").code == 0
    assert run("fit", *stopped, "-o", "whole.json", "-q").code == 0
    assert Path("s.json").read_bytes() == Path("whole.json").read_bytes()


def test_other_inputs(run: Callable[..., Any], stopped: list[str]) -> None:
    a, b, c = stopped
    assert f"{c} was an input and is none any more" in resumed(run, [a, b])
    pq.write_table(table_of(9), "d.parquet")
    assert "d.parquet was no input when the job began" in resumed(run, [*stopped, "d.parquet"])
    assert "in another order" in resumed(run, [b, a, c])
    assert "in another order" in resumed(run, [a, c, b])
    Path(b).unlink()
    assert b in resumed(run, stopped)


@pytest.mark.parametrize(
    "more",
    [
        ["--policy", "ema", "--alpha", 0.5],
        ["--columns", "x"],
        ["--weights", "w"],
        ["--nan", "raise"],
        ["--eps", 0.5],
        ["--csv-type", "x=double"],
        ["--on-error", "skip"],
    ],
    ids=lambda more: more[0],
)
def test_other_options(more: list[object], run: Callable[..., Any], stopped: list[str]) -> None:
    assert "other options" in resumed(run, stopped, *more)


def test_what_does_not_matter_may_be_other(run: Callable[..., Any], stopped: list[str]) -> None:
    done = run("fit", *stopped, "-o", "t.json", "--resume", "--threads", 3, "--frozen",
               "--checkpoint", "s.json.checkpoint", "--checkpoint-every", 5, "-q")  # fmt: skip
    assert done.lines == []
    assert run("fit", *stopped, "-o", "whole.json", "--frozen", "-q").code == 0
    assert Path("t.json").read_bytes() == Path("whole.json").read_bytes()


def test_what_is_no_checkpoint(run: Callable[..., Any], stopped: list[str]) -> None:
    whole = Path("s.json.checkpoint").read_bytes()
    sbn.load("s.json.checkpoint").save("s.json.checkpoint")
    done = run("fit", *stopped, "-o", "s.json", "--resume")
    assert done.code == 5
    assert "no place to go on from" in done.lines[0]
    for damaged in (b"", b"rubbish", whole[: len(whole) // 2], whole.replace(b'"files":', b'"f":')):
        Path("s.json.checkpoint").write_bytes(damaged)
        done = run("fit", *stopped, "-o", "s.json", "--resume")
        assert (done.code, len(done.lines)) == (5, 1), done.lines
        assert "s.json.checkpoint" in done.lines[0]


# --- where and when -------------------------------------------------------------------


@pytest.mark.parametrize(
    "clash", [["-o", "a.json", "--checkpoint", "a.json"], ["-o", "b.json", "--checkpoint", "x.csv"]]
)
@pytest.mark.parametrize("command", ["fit", "normalize"])
def test_a_checkpoint_replaces_neither_the_output_nor_an_input(
    command: str, clash: list[str], run: Callable[..., Any]
) -> None:
    if command == "normalize":
        clash = [arg.replace("json", "parquet") for arg in clash]
    Path("x.csv").write_text("x\n1\n2\n")
    done = run(command, "x.csv", *clash)
    assert (done.code, len(done.lines)) == (2, 1), done.lines
    assert Path("x.csv").read_text() == "x\n1\n2\n"
    assert [path.name for path in Path().iterdir()] == ["x.csv"]


def test_a_checkpoint_does_not_replace_what_the_job_goes_on_from(run: Callable[..., Any]) -> None:
    Path("x.csv").write_text("x\n1\n2\n")
    assert run("fit", "x.csv", "-o", "old.json", "-q").code == 0
    done = run("fit", "x.csv", "--continue-from", "old.json", "--checkpoint", "old.json",
               "-o", "new.json")  # fmt: skip
    assert (done.code, len(done.lines)) == (2, 1), done.lines
    assert sbn.load("old.json").features


def test_a_checkpoint_in_the_place_of_an_output(run: Callable[..., Any]) -> None:
    inputs = lay_out()
    assert run("fit", *inputs, "--checkpoint", "kept").lines == [
        "streambn: 191 rows, statistics of 4 columns in kept"
    ]
    assert run("fit", *inputs, "-o", "whole.json", "-q").code == 0
    assert sbn.load("kept").stats().equals(sbn.load("whole.json").stats())
    before = Path("kept").read_bytes()
    assert run("fit", *inputs, "--checkpoint", "kept", "--resume", "-q").lines == []
    assert Path("kept").read_bytes() == before
    done = run("fit", *inputs, "--checkpoint", "kept", "--frozen")
    assert (done.code, len(done.lines)) == (2, 1)


def test_no_checkpoint_of_nothing_is_told_of(run: Callable[..., Any]) -> None:
    Path("x.csv").write_text("x\n")
    done = run("fit", "x.csv", "--checkpoint", "kept")
    assert (done.code, done.lines) == (0, [])
    assert not Path("kept").exists()


def test_a_checkpoint_goes_where_it_was_asked_for(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = lay_out()
    stop_after(monkeypatch, 9)
    assert run("fit", *inputs, "-o", "s.json", "--checkpoint", "kept").code == 130
    assert Path("kept").exists()
    assert not Path("s.json.checkpoint").exists()
    stop_after(monkeypatch, None)
    assert run("fit", *inputs, "-o", "s.json", "--checkpoint", "kept", "--resume").code == 0
    assert not Path("kept").exists()


def test_it_is_written_every_so_many_rows(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = lay_out()
    written: list[int] = []
    real = checkpoints.Keeper.write

    def counted(self: checkpoints.Keeper) -> bool:
        assert self._reached is not None
        written.append(self._reached.place.rows)
        return real(self)

    monkeypatch.setattr(checkpoints.Keeper, "write", counted)
    assert run("fit", *inputs, "-o", "s.json", "--checkpoint-every", 30).code == 0
    assert len(written) >= 4
    assert all(later - before >= 30 for before, later in itertools.pairwise(written))
    assert all(later - before < 60 for before, later in itertools.pairwise(written))


@pytest.mark.parametrize("every", [5, "1ms"])
def test_a_checkpoint_that_cannot_be_written_does_not_end_the_job(
    every: object, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = lay_out()
    tried = threading.Event()

    def full(*_: object) -> bytes:
        tried.set()
        raise OSError(28, "No space left on device")

    def patient(fitted: Any, batch: Any) -> Any:
        if fitted.binding is not None:
            assert tried.wait(30.0)
        return fitted.learn(batch)

    monkeypatch.setattr(checkpoints.Keeper, "_content", full)
    if every == "1ms":
        learn_by(monkeypatch, patient)
        inputs = inputs[4:]  # of which each batch is a place
    done = run("fit", *inputs, "-o", "s.json", "--checkpoint-every", every, "-q")
    assert done.code == 0, done.lines
    assert "no checkpoint at s.json.checkpoint: No space left on device" in done.lines[0]
    assert not Path("s.json.checkpoint").exists()


@pytest.mark.parametrize("every", ["0", "0s", "-3", "soon", "1.5"])
def test_intervals_that_are_none(every: str, run: Callable[..., Any]) -> None:
    Path("x.csv").write_text("x\n1\n")
    done = run("fit", "x.csv", "-o", "s.json", f"--checkpoint-every={every}")
    assert (done.code, len(done.lines)) == (2, 1)


# --- the room itself ------------------------------------------------------------------


def fitted_on(*values: float) -> Any:
    return sbn.Normalizer().update(pa.table({"x": list(values)})).statistics


places = st.builds(
    Place,
    files=st.just(2),
    parts=st.just(0),
    rows=st.integers(1, 2**62),
    bytes=st.integers(0, 2**62),
    within=st.integers(0, 2**62),
    skipped=st.lists(st.builds(Skipped, *[st.text()] * 3), max_size=3).map(tuple),
)


@settings.get_profile("few")
@given(place=places, job=st.lists(st.text(), max_size=3))
def test_a_round_trip(place: Place, job: list[str]) -> None:
    for name in "ab":
        Path(name).write_text("x\n1\n")
    sources = files.scan(["a", "b"])
    place = Place(**{**asdict(place), "stamps": [source.stamp() for source in sources]})
    location, begun, now = locate("kept"), sbn.Normalizer().statistics, fitted_on(1.0, 2.0)
    with checkpoints.keeping(location, sources, begun, job, NEVER) as keeper:
        keeper.reach(Reached(now, place))
        assert keeper.write()
    read = checkpoints.read(location, sources, begun, job)
    assert read is not None
    assert read.place == place
    assert (
        sbn.Normalizer.from_statistics(read.statistics)
        .stats()
        .equals(sbn.Normalizer.from_statistics(now).stats())
    )
    location.remove()
    assert checkpoints.read(location, sources, begun, job) is None


def asdict(place: Place) -> dict[str, Any]:
    return {name: getattr(place, name) for name in Place.__dataclass_fields__}


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_sigusr1_writes_it_and_the_handler_goes_again() -> None:
    Path("a").write_text("x\n1\n")
    sources = files.scan(["a"])
    before = signal.getsignal(signal.SIGUSR1)
    begun = sbn.Normalizer().statistics
    with checkpoints.keeping(locate("kept"), sources, begun, [], NEVER) as keeper:
        reached = Reached(fitted_on(1.0), Place(1, rows=1, stamps=[sources[0].stamp()]))
        keeper.reach(reached)
        assert not Path("kept").exists()
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(3000):
            if keeper.begun:
                break
            threading.Event().wait(0.01)
        assert checkpoints.read(locate("kept"), sources, begun, []) is not None
    assert signal.getsignal(signal.SIGUSR1) is before
    assert "streambn-checkpoint" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_job_leaves_a_checkpoint(stop: type[BaseException]) -> None:
    Path("a").write_text("x\n1\n")
    sources = files.scan(["a"])
    begun = sbn.Normalizer().statistics
    reached = Reached(fitted_on(1.0), Place(1, rows=1, stamps=[sources[0].stamp()]))
    keeping = checkpoints.keeping(locate("kept"), sources, begun, [], NEVER)
    with pytest.raises(stop), keeping as keeper:  # noqa: PT012
        keeper.reach(reached)
        raise stop
    assert checkpoints.read(locate("kept"), sources, begun, []) is not None


def test_nothing_is_kept_where_nothing_was_asked_for() -> None:
    Path("a").write_text("x\n1\n")
    sources = files.scan(["a"])
    with checkpoints.keeping(None, sources, sbn.Normalizer().statistics, [], NEVER) as keeper:
        keeper.reach(Reached(fitted_on(1.0), Place(1, rows=1, stamps=[None])))
        assert not keeper.write()
    assert [path.name for path in Path().iterdir()] == ["a"]
