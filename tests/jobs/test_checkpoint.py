"""Checkpoints: a fit that is interrupted and resumed gives the same bits as one that is not."""

from __future__ import annotations

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
import pyarrow.parquet as pq
import pytest
from cli_process import until
from data_files import write_all_formats, write_as
from hypothesis import given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn.io import csv_reader, joins, locate
from streambn.io import readers as reading
from streambn.io import sources as files
from streambn.jobs import Checkpoint, Interval, ReadOptions, Skipped
from streambn.jobs.checkpoint import CheckpointWriter
from streambn.jobs.learn import FitState, Position
from streambn.snapshot import fingerprint
from streambn.statistics import Statistics

Run = Callable[..., Any]
Interrupt = Callable[[int | None], list[int]]
NEVER = Interval(None, None)
LEARN = Statistics.learn


@pytest.fixture(autouse=True)
def _small_pieces(jobs_in_a_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read small tables in several pieces and batches."""
    monkeypatch.setattr(reading, "PARQUET_ROWS", 8)
    monkeypatch.setattr(csv_reader, "_BLOCK", 300)


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


@pytest.fixture
def inputs() -> list[str]:
    return write_all_formats(table_of)


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Return a function that makes a fit stop after so many batches.

    It returns a list that collects the rows of each batch. No batches are joined.
    """
    monkeypatch.setattr(joins, "_SMALL", 0)

    def interrupt_after(batches: int | None) -> list[int]:
        learned: list[int] = []

        def learn(statistics: Statistics, batch: Any) -> Statistics:
            if len(learned) == batches:
                raise KeyboardInterrupt
            learned.append(batch.num_rows)
            return LEARN(statistics, batch)

        monkeypatch.setattr(Statistics, "learn", learn)
        return learned

    return interrupt_after


def content(path: str) -> bytes:
    return Path(path).read_bytes()


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
def test_fit_interrupted_anywhere_resumes_to_the_same_bits(
    policy: list[object], inputs: list[str], run: Run, interrupt_after: Interrupt
) -> None:
    learned = interrupt_after(None)
    fit = ["fit", *inputs, *policy, "--threads", 2, "-q"]
    assert run(*fit, "-o", "whole.json").code == 0
    expected, batches = content("whole.json"), len(learned)
    assert batches > 20
    for count in range(batches):
        interrupt_after(count)
        assert run(*fit, "-o", "s.json").code == 130
        assert not Path("s.json").exists()
        # The first piece ends after 3 batches.
        assert Path("s.json.checkpoint").exists() == (count >= 3)
        rest = interrupt_after(None)
        assert run(*fit, "-o", "s.json", "--resume").lines == []
        assert len(rest) <= batches - count + 3
        assert content("s.json") == expected, count
        assert not Path("s.json.checkpoint").exists()
        Path("s.json").unlink()


@pytest.mark.parametrize(
    "policy", [POLICIES[name] for name in ("exact", "welford, weighted", "batch-ema")]
)
def test_fit_of_joined_batches_interrupted_anywhere_resumes_to_the_same_bits(
    policy: list[object], run: Run, interrupt_after: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_as("many.arrows", table_of(200), 3)
    monkeypatch.setattr(joins, "_SMALL", 1 << 15)
    monkeypatch.setattr(joins, "_ENOUGH", 1000)
    learned = interrupt_after(None)
    fit = ["fit", "many.arrows", *policy, "-q"]
    assert run(*fit, "-o", "whole.json").code == 0
    expected, steps = content("whole.json"), len(learned)
    assert steps == 67 if "batch-ema" in policy else 5 < steps < 20
    for count in range(0, steps, 1 if steps < 20 else 20):
        interrupt_after(count)
        assert run(*fit, "-o", "s.json").code == 130
        rest = interrupt_after(None)
        assert run(*fit, "-o", "s.json", "--resume").lines == []
        assert len(rest) == steps - count
        assert content("s.json") == expected, count


@EACH_POLICY
def test_fit_interrupted_many_times_resumes(
    policy: list[object], inputs: list[str], run: Run, interrupt_after: Interrupt
) -> None:
    fit = ["fit", *inputs, *policy, "--threads", 2, "-q"]
    interrupt_after(None)
    assert run(*fit, "-o", "whole.json").code == 0
    for _ in range(100):
        interrupt_after(4)  # no piece has more batches
        done = run(*fit, "-o", "s.json", "--resume")
        if done.code == 0:
            break
        assert done.code == 130
        # A checkpoint is a statistics file.
        assert sbn.load("s.json.checkpoint").features
        assert run("show", "s.json.checkpoint").code == 0
    assert content("s.json") == content("whole.json")


@EACH_POLICY
def test_result_does_not_depend_on_threads(
    policy: list[object], inputs: list[str], run: Run
) -> None:
    made = set()
    for threads in (1, 2, 7):
        assert run("fit", *inputs, *policy, "-o", "s.json", "--threads", threads).code == 0
        made.add(content("s.json"))
    assert len(made) == 1


def test_report_counts_the_whole_job(
    run: Run, inputs: list[str], interrupt_after: Interrupt
) -> None:
    whole = json.loads(run("fit", *inputs, "-o", "s.json", "--json", "-q").out)
    assert (whole["resumed"], whole["rows"], whole["files"]) == (False, 191, 7)
    assert whole["bytes"] == sum(os.stat(path).st_size for path in inputs)
    for count in (4, 9, 15, 22):
        interrupt_after(count)
        assert run("fit", *inputs, "-o", "s.json").code == 130
        interrupt_after(None)
        again = json.loads(run("fit", *inputs, "-o", "s.json", "--resume", "--json", "-q").out)
        assert again["resumed"]
        for name in ("rows", "files", "bytes", "fingerprint"):
            assert again[name] == whole[name], (count, name)


def test_normalize_resumes(run: Run, inputs: list[str], interrupt_after: Interrupt) -> None:
    assert run("normalize", *inputs, "-o", "whole/", "-q").code == 0
    for out in ("out/", "out.arrow"):
        interrupt_after(12)
        assert run("normalize", "data", "-o", out).code == 130
        kept = Path("out/_streambn.checkpoint" if out == "out/" else "out.arrow.checkpoint")
        assert kept.exists()
        learned = interrupt_after(None)
        assert run("normalize", "data", "-o", out, "--resume", "-q").lines == []
        assert sum(learned) < 191
        assert not kept.exists()
    for path in inputs:
        assert content(path.replace("data", "out")) == content(path.replace("data", "whole")), path


def test_fit_without_resume_starts_again(
    run: Run, inputs: list[str], interrupt_after: Interrupt
) -> None:
    interrupt_after(12)
    assert run("fit", *inputs, "-o", "s.json").code == 130
    learned = interrupt_after(None)
    assert run("fit", *inputs, "-o", "s.json", "-q").code == 0
    assert sum(learned) == 191
    assert not Path("s.json.checkpoint").exists()


def test_resume_without_a_checkpoint_starts(run: Run, inputs: list[str]) -> None:
    assert run("fit", *inputs, "-o", "s.json", "--resume", "-q").lines == []
    assert sbn.load("s.json").stats()["count"].to_pylist()[0] == 191


# --- inputs and options that changed -------------------------------------------------------------


@pytest.fixture
def interrupted(run: Run, interrupt_after: Interrupt) -> list[str]:
    """Interrupt a fit in the second of three files, and return the files."""
    paths = [f"{name}.parquet" for name in "abc"]
    for seed, path in enumerate(paths):
        pq.write_table(table_of(40, seed), path, row_group_size=10)
    interrupt_after(12)
    assert run("fit", *paths, "-o", "s.json").code == 130
    interrupt_after(None)
    return paths


def refused(run: Run, paths: list[str], *more: object) -> str:
    """Resume a fit, which must be refused, and return the message."""
    before = content("s.json.checkpoint")
    done = run("fit", *paths, "-o", "s.json", "--resume", *more)
    assert done.code == 1, done.lines
    (line,) = done.lines
    assert not Path("s.json").exists()
    assert content("s.json.checkpoint") == before
    return line


def test_changed_input_is_refused(run: Run, interrupted: list[str]) -> None:
    for path in interrupted[:2]:
        time, whole = os.stat(path).st_mtime_ns, content(path)
        for later, more in ((1, b""), (0, b"PAR1")):
            Path(path).write_bytes(whole + more)
            os.utime(path, ns=(time, time + later))
            assert f"{path} has changed since it was read" in refused(run, interrupted)
        Path(path).write_bytes(whole)
        os.utime(path, ns=(time, time))
    assert run("fit", *interrupted, "-o", "s.json", "--resume").code == 0


def test_input_not_read_yet_may_change(run: Run, interrupted: list[str]) -> None:
    pq.write_table(table_of(40, 9), "c.parquet")
    assert run("fit", *interrupted, "-o", "s.json", "--resume", "-q").code == 0
    assert run("fit", *interrupted, "-o", "whole.json", "-q").code == 0
    assert content("s.json") == content("whole.json")


def test_other_inputs_are_refused(run: Run, interrupted: list[str]) -> None:
    a, b, c = interrupted
    assert f"{c} was an input and is no longer one" in refused(run, [a, b])
    pq.write_table(table_of(9), "d.parquet")
    assert "d.parquet was not an input when the job began" in refused(
        run, [*interrupted, "d.parquet"]
    )
    assert "in another order" in refused(run, [b, a, c])
    assert "in another order" in refused(run, [a, c, b])
    Path(b).unlink()
    assert b in refused(run, interrupted)


@pytest.mark.parametrize(
    "more",
    [
        *("--policy ema --alpha 0.5", "--columns x", "--weights w", "--nan raise", "--eps 0.5"),
        *("--csv-type x=double", "--on-error skip"),
    ],
)
def test_other_options_are_refused(more: str, run: Run, interrupted: list[str]) -> None:
    assert "other options" in refused(run, interrupted, *more.split())


def test_options_without_effect_on_the_result_may_change(run: Run, interrupted: list[str]) -> None:
    done = run("fit", *interrupted, "-o", "t.json", "--resume", "--threads", 3, "--frozen",
               "--checkpoint", "s.json.checkpoint", "--checkpoint-every", 5, "-q")  # fmt: skip
    assert done.lines == []
    assert run("fit", *interrupted, "-o", "whole.json", "--frozen", "-q").code == 0
    assert content("t.json") == content("whole.json")


@pytest.mark.parametrize("metadata", [{}, {"offsets": [1]}], ids=["without", "of the user"])
def test_file_that_is_no_checkpoint_is_refused(
    run: Run, interrupted: list[str], metadata: dict[str, Any]
) -> None:
    whole = content("s.json.checkpoint")
    sbn.load("s.json.checkpoint").save("s.json.checkpoint", metadata=metadata)
    done = run("fit", *interrupted, "-o", "s.json", "--resume")
    assert done.code == 5
    assert "is not a checkpoint" in done.lines[0]
    for damaged in (b"", b"rubbish", whole[: len(whole) // 2], whole.replace(b'"files":', b'"f":')):
        Path("s.json.checkpoint").write_bytes(damaged)
        done = run("fit", *interrupted, "-o", "s.json", "--resume")
        assert (done.code, len(done.lines)) == (5, 1), done.lines
        assert "s.json.checkpoint" in done.lines[0]


# --- files and intervals -------------------------------------------------------------------


@pytest.mark.parametrize(
    "clash", [["-o", "a.json", "--checkpoint", "a.json"], ["-o", "b.json", "--checkpoint", "x.csv"]]
)
@pytest.mark.parametrize("command", ["fit", "normalize"])
def test_checkpoint_replaces_neither_output_nor_input(
    command: str, clash: list[str], run: Run
) -> None:
    if command == "normalize":
        clash = [arg.replace("json", "parquet") for arg in clash]
    Path("x.csv").write_text("x\n1\n2\n")
    done = run(command, "x.csv", *clash)
    assert (done.code, len(done.lines)) == (2, 1), done.lines
    assert Path("x.csv").read_text() == "x\n1\n2\n"
    assert [path.name for path in Path().iterdir()] == ["x.csv"]


def test_checkpoint_instead_of_an_output_stays(run: Run, inputs: list[str]) -> None:
    assert run("fit", *inputs, "--checkpoint", "kept").lines == [
        "streambn: 191 rows, statistics of 4 columns in kept"
    ]
    assert run("fit", *inputs, "-o", "whole.json", "-q").code == 0
    assert sbn.load("kept").stats().equals(sbn.load("whole.json").stats())
    before = content("kept")
    assert run("fit", *inputs, "--checkpoint", "kept", "--resume", "-q").lines == []
    assert content("kept") == before
    done = run("fit", *inputs, "--checkpoint", "kept", "--frozen")
    assert (done.code, len(done.lines)) == (2, 1)


def test_no_checkpoint_without_rows(run: Run) -> None:
    Path("x.csv").write_text("x\n")
    done = run("fit", "x.csv", "--checkpoint", "kept")
    assert (done.code, done.lines) == (
        1,
        ["streambn: x.csv: no rows, so there is nothing to learn"],
    )
    assert not Path("kept").exists()


def test_checkpoint_at_a_given_path(
    run: Run, inputs: list[str], interrupt_after: Interrupt
) -> None:
    interrupt_after(9)
    assert run("fit", *inputs, "-o", "s.json", "--checkpoint", "kept").code == 130
    assert Path("kept").exists()
    assert not Path("s.json.checkpoint").exists()
    interrupt_after(None)
    assert run("fit", *inputs, "-o", "s.json", "--checkpoint", "kept", "--resume").code == 0
    assert not Path("kept").exists()


def test_checkpoint_every_n_rows(
    run: Run, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = CheckpointWriter.save

    def save(self: CheckpointWriter) -> bool:
        assert self._state is not None
        written.append(self._state.position.rows)
        return real(self)

    monkeypatch.setattr(CheckpointWriter, "save", save)
    assert run("fit", *inputs, "-o", "s.json", "--checkpoint-every", 30).code == 0
    assert len(written) >= 4
    assert all(30 <= later - before < 60 for before, later in itertools.pairwise(written))


@pytest.mark.parametrize("every", [5, "1ms"])
def test_checkpoint_that_cannot_be_written_does_not_end_the_job(
    every: object, run: Run, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()
    batches = itertools.count()

    def full(*_: object) -> bytes:
        tried.set()
        raise OSError(28, "No space left on device")

    def wait_and_learn(statistics: Statistics, batch: Any) -> Statistics:
        if next(batches):  # there is a state to save after the first one
            assert tried.wait(30.0)
        return LEARN(statistics, batch)

    monkeypatch.setattr(CheckpointWriter, "_content", full)
    if every == "1ms":
        monkeypatch.setattr(Statistics, "learn", wait_and_learn)
        inputs = inputs[4:]  # every batch of these can be resumed from
    done = run("fit", *inputs, "-o", "s.json", "--checkpoint-every", every, "-q")
    assert done.code == 0, done.lines
    assert "no checkpoint at s.json.checkpoint: No space left on device" in done.lines[0]
    assert not Path("s.json.checkpoint").exists()


# --- Checkpoint -----------------------------------------------------------------------

INITIAL = sbn.Normalizer().statistics


def fitted_on(*values: float) -> Statistics:
    return sbn.Normalizer().update(pa.table({"x": list(values)})).statistics


def sources_of(*names: str) -> list[files.Source]:
    for name in names:
        Path(name).write_text("x\n1\n")
    return files.scan(names)


def checkpoint(path: str | None = "kept", *, resume: bool = True) -> Checkpoint:
    return Checkpoint(None if path is None else locate(path), NEVER, resume)


def one_row(source: files.Source) -> FitState:
    return FitState(fitted_on(1.0), Position(1, rows=1, stamps=[source.stamp()]))


positions = st.builds(
    Position,
    files=st.just(2),
    pieces=st.just(0),
    rows=st.integers(1, 2**62),
    bytes=st.integers(0, 2**62),
    rows_in_file=st.integers(0, 2**62),
    skipped=st.lists(st.builds(Skipped, *[st.text()] * 3), max_size=3).map(tuple),
)


@settings.get_profile("few")
@given(position=positions, skip_damaged=st.booleans())
def test_saved_state_loads_unchanged(position: Position, skip_damaged: bool) -> None:
    sources = sources_of("a", "b")
    position = position._replace(stamps=[source.stamp() for source in sources])
    job = (INITIAL, sources, ReadOptions(skip_damaged=skip_damaged))
    state = FitState(fitted_on(1.0, 2.0), position)
    with checkpoint().open_writer(*job) as writer:
        writer.reach(state)
        assert writer.save()
    loaded = checkpoint().load(*job)
    assert loaded is not None
    assert loaded.position == position
    assert fingerprint(loaded.statistics) == fingerprint(state.statistics)
    assert checkpoint(resume=False).load(*job) is None
    checkpoint().remove()
    assert checkpoint().load(*job) is None


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
def test_sigusr1_saves_and_the_handler_is_restored() -> None:
    sources = sources_of("a")
    before = signal.getsignal(signal.SIGUSR1)
    with checkpoint().open_writer(INITIAL, sources, ReadOptions()) as writer:
        writer.reach(one_row(sources[0]))
        assert not Path("kept").exists()
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: writer.has_saved)
        assert checkpoint().load(INITIAL, sources, ReadOptions()) is not None
    assert signal.getsignal(signal.SIGUSR1) is before
    assert "streambn-checkpoint" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(), OSError("full")])
def test_interrupted_job_leaves_a_checkpoint_and_an_early_error_none(stop: BaseException) -> None:
    sources = sources_of("a")
    opened = checkpoint().open_writer(INITIAL, sources, ReadOptions())
    with pytest.raises(type(stop)) as caught, opened as writer:  # noqa: PT012
        writer.reach(one_row(sources[0]))
        raise stop
    assert caught.value is stop
    if isinstance(stop, OSError):
        assert not Path("kept").exists()
    else:
        assert stop.__notes__ == ["resume to continue from kept"]
        assert checkpoint().load(INITIAL, sources, ReadOptions()) is not None


def test_no_checkpoint_without_a_location() -> None:
    sources = sources_of("a")
    with checkpoint(None).open_writer(INITIAL, sources, ReadOptions()) as writer:
        writer.reach(one_row(sources[0]))
        assert not writer.save()
    assert [path.name for path in Path().iterdir()] == ["a"]
