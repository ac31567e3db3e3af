"""Jobs on an executor: the files, the reports and the errors of jobs without one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_files import write_as
from hypothesis import given
from hypothesis import strategies as st
from inline_executor import InlineExecutor
from object_stores import new_bucket, s3, s3_server

import streambn as sbn
from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import Location, csv_reader, joins, locate, scan
from streambn.io import readers as reading
from streambn.jobs import (
    ApplyStatistics,
    Checkpoint,
    Executor,
    Interval,
    Progress,
    ReadOptions,
    WriteOptions,
    apply_job,
    fit_job,
    make_plan,
    normalize_job,
    shares,
)
from streambn.jobs import executors as shared
from streambn.policies import Policy, Welford

__all__ = ["new_bucket", "s3", "s3_server"]
NEVER = Checkpoint(None, Interval(None, None))
SAME_BITS = [
    sbn.Exact(),
    sbn.Welford(),
    sbn.EMA(halflife=500, ignore_na=True),
    sbn.EMA(halflife=40.0, time="t"),
    sbn.BatchEMA(momentum=0.1),
]
# Fused kernels learn what a merge computes in two steps.
SAME_VALUES = [sbn.EMA(alpha=0.001), sbn.EMA(alpha=0.001, adjust=False)]


@pytest.fixture(autouse=True)
def _small_shares(jobs_in_a_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read small tables in several pieces and batches, and divide small files into slices."""
    monkeypatch.setattr(reading, "PARQUET_ROWS", 32)
    monkeypatch.setattr(csv_reader, "_BLOCK", 600)
    monkeypatch.setattr(joins, "_SMALL", 200)
    monkeypatch.setattr(joins, "_ENOUGH", 2000)
    monkeypatch.setattr(shared, "_FEWEST_BYTES", 3000)
    monkeypatch.setattr(shared, "_FILE_COST", 500)


def outcome(job: Any, files: str) -> tuple[Any, ...]:
    """Return the files below a path and the report of a job, or its error."""
    try:
        report = job()
    except (StreamBNError, OSError) as error:
        return type(error), str(error), getattr(error, "__notes__", None)
    names = [path for path in sorted(Path().glob(files)) if path.is_file()]
    return {str(path): path.read_bytes() for path in names}, report._replace(seconds=0.0)


def shown(progress: Progress) -> Any:
    return contextlib.nullcontext(progress)


def fit(
    norm: sbn.Normalizer,
    executor: Executor | None,
    *,
    inputs: Sequence[str] = ("in",),
    skip: bool = False,
    checkpoint: Checkpoint = NEVER,
) -> Any:
    options = ReadOptions(skip_damaged=skip)
    return fit_job(
        norm.statistics,
        scan(inputs),
        "out.json",
        checkpoint,
        options=options,
        display=shown,
        executor=executor,
    )


def some_table(rng: np.random.Generator, rows: int, kind: str) -> pa.Table:
    x = rng.normal(1e6, 3, rows)
    columns: dict[str, Any] = {
        "x": pa.array(x, mask=rng.random(rows) < 0.2),
        "t": pa.array(np.arange(rows) + float(rng.integers(100))),
        "n": pa.array(rng.integers(-9, 9, rows), pa.int32()),
        "s": pa.array([f"r{i % 5}" for i in range(rows)]),
    }
    if kind == "nulls":
        columns["x"] = pa.nulls(rows, pa.null())
    elif kind == "float n":
        columns["n"] = pa.array(rng.normal(size=rows).astype(np.float32))
    elif kind == "text n":
        columns["n"] = columns["s"]
    elif kind == "extra":
        columns["extra"] = pa.array(rng.normal(size=rows))
    elif kind == "lacks n":
        del columns["n"]
    elif kind == "infinite" and rows:
        columns["x"] = pa.array(np.where(np.arange(rows) == rows // 2, np.inf, x))
    elif kind == "late" and rows:
        columns["n"] = pa.array([1] * (rows - 1) + [1.5])
    return pa.table(columns)


KINDS = ["plain", "nulls", "float n", "text n", "extra", "lacks n", "infinite", "late"]
FILES = st.lists(
    st.tuples(
        st.sampled_from([".parquet", ".arrow", ".arrows", ".csv", ".ndjson", ".csv.gz"]),
        st.sampled_from([*["plain"] * 6, *KINDS]),
        st.sampled_from([0, 1, 50, 300]),
        st.sampled_from(["whole"] * 6 + ["cut", "damaged", "empty"]),
    ),
    min_size=1,
    max_size=6,
)


def write_folder(files: list[tuple[str, str, int, str]], seed: int) -> None:
    shutil.rmtree("in", ignore_errors=True)
    rng = np.random.default_rng(seed)
    for number, (suffix, kind, rows, damage) in enumerate(files):
        path = Path("in", f"k={number % 2}", f"{number}{suffix}")
        write_as(path, some_table(rng, rows, kind), 40)
        data = path.read_bytes()
        if damage == "cut":
            path.write_bytes(data[: len(data) * 2 // 3])
        elif damage == "damaged":
            middle = len(data) // 2
            path.write_bytes(data[:middle] + bytes(8) + data[middle + 8 :])
        elif damage == "empty":
            path.write_bytes(b"")


@given(
    FILES,
    st.integers(0, 2**32),
    st.sampled_from(SAME_BITS),
    st.booleans(),
    st.sampled_from(["fixed", "union"]),
    st.sampled_from([None, ["x"], ["x", "k"], ["n", "x"]]),
)
def test_an_executor_changes_nothing(
    files: list[tuple[str, str, int, str]],
    seed: int,
    policy: Policy,
    skip: bool,
    schema: Any,
    columns: list[str] | None,
) -> None:
    write_folder(files, seed)
    excluded = None if columns else ["k"]
    norm = sbn.Normalizer(policy, columns=columns, exclude=excluded, schema=schema)
    alone = outcome(lambda: fit(norm, None, skip=skip), "out.json")
    assert outcome(lambda: fit(norm, InlineExecutor(), skip=skip), "out.json") == alone


@pytest.fixture
def plain_folder() -> None:
    write_folder([(".parquet", "plain", 300, ""), (".csv", "plain", 200, "")] * 3, 7)


@pytest.mark.parametrize("policy", SAME_VALUES, ids=repr)
def test_an_average_over_missing_values_agrees_to_rounding(
    plain_folder: None, policy: Policy
) -> None:
    norm = sbn.Normalizer(policy, columns=["x"])
    stats = []
    for executor in (None, InlineExecutor()):
        fit(norm, executor)
        stats.append(sbn.load("out.json").stats())
    alone, by_shares = stats
    assert by_shares.select(["column", "count", "nulls", "min", "max"]) == alone.select(
        ["column", "count", "nulls", "min", "max"]
    )
    for name in ("mean", "var"):
        np.testing.assert_allclose(by_shares[name], alone[name], rtol=1e-13)


def test_a_caller_keeps_its_threads(plain_folder: None, frozen: sbn.FrozenNormalizer) -> None:
    pa.set_cpu_count(3)
    fit(sbn.Normalizer(columns=["x"]), InlineExecutor())
    apply(frozen, InlineExecutor())
    assert pa.cpu_count() == 3


def test_attempts_count_once(plain_folder: None) -> None:
    norm = sbn.Normalizer(Welford(), columns=["x"])
    alone = outcome(lambda: fit(norm, None), "out.json")
    executor = InlineExecutor(attempts=3)
    assert outcome(lambda: fit(norm, executor), "out.json") == alone
    assert executor.items > 3


class Stopped(InlineExecutor):
    """Is interrupted after so many results."""

    def map(self, fn: Any, iterable: Any, /) -> Any:
        for number, result in enumerate(super().map(fn, iterable)):
            if number == self.attempts:
                raise KeyboardInterrupt
            yield result


@pytest.mark.parametrize("results", [1, 3, 6])
@pytest.mark.parametrize("policy", [sbn.Exact(), Welford()], ids=repr)
def test_a_fit_goes_on_with_and_without_an_executor(
    plain_folder: None, policy: Policy, results: int
) -> None:
    norm = sbn.Normalizer(policy, columns=["x", "n"])
    alone, report = outcome(lambda: fit(norm, None), "out.json")
    saved = Checkpoint(locate("c.json"), Interval(None, None))
    for executor in (None, InlineExecutor()):
        begun = Stopped()
        begun.attempts = results
        with pytest.raises(KeyboardInterrupt):
            fit(norm, begun, checkpoint=saved)
        assert Path("c.json").exists()
        again = outcome(
            lambda e=executor: fit(norm, e, checkpoint=saved._replace(resume=True)), "out.json"
        )
        assert again == (alone, report._replace(resumed=True))
        assert not Path("c.json").exists()


class Elsewhere(InlineExecutor):
    """Has workers that do not see the files of this machine."""

    def map(self, fn: Any, iterable: Any, /) -> Any:
        here, results = os.getcwd(), super().map(fn, iterable)
        try:
            while True:
                os.makedirs("elsewhere", exist_ok=True)
                os.chdir("elsewhere")
                result = next(results, None)
                os.chdir(here)
                if result is None:
                    return
                yield result
        finally:
            os.chdir(here)


def test_workers_that_do_not_see_the_files_are_named(plain_folder: None) -> None:
    norm = sbn.Normalizer(columns=["x"])
    kind, message, _ = outcome(lambda: fit(norm, Elsewhere()), "out.json")
    assert kind is StreamBNError
    assert message.startswith("in/k=0/0.parquet: a worker could not learn it")
    assert "the same paths" in message
    frozen = sbn.Normalizer().update(pa.table({"x": [1.0, 2.0]})).freeze()
    kind, message, _ = outcome(lambda: apply(frozen, Elsewhere()), "out/**/*")
    assert kind is StreamBNError
    assert message.startswith("out/k=0/0.parquet: a worker cannot make it: in/k=0/0.parquet: No")
    assert not [*Path("out").rglob("*.*")]


def test_states_of_another_version_are_told(
    plain_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_encode", lambda _: b"newer")
    kind, message, _ = outcome(lambda: fit(sbn.Normalizer(columns=["x"]), InlineExecutor()), "")
    assert kind is StreamBNError
    assert "a worker could not learn it, and this machine can: " in message


def test_what_cannot_be_shared_is_refused(plain_folder: None) -> None:
    with pytest.raises(InvalidValueError, match="Omit batch_rows") as caught:
        fit(sbn.Normalizer(sbn.BatchEMA(momentum=0.1, batch_rows=10)), InlineExecutor())
    assert caught.value.argument == "batch_rows"
    os.mkfifo("pipe.csv")
    with pytest.raises(InvalidValueError, match="workers cannot share it"):
        fit(sbn.Normalizer(), InlineExecutor(), inputs=["pipe.csv"])
    frozen = sbn.Normalizer().update(pa.table({"x": [1.0, 2.0]})).freeze()
    with pytest.raises(InvalidValueError, match="standard output"):
        apply(frozen, InlineExecutor(), out="-", inputs=["in/k=0/0.parquet"])


def test_inputs_and_outputs_may_be_in_a_store(plain_folder: None, s3: Location) -> None:
    for path in Path("in").rglob("*.*"):
        s3.child(str(path)).write_bytes(path.read_bytes())
    norm = sbn.Normalizer(sbn.Exact(), columns=["x", "n"])
    fit(norm, InlineExecutor(), inputs=[f"{s3.text}/in"])
    shared = Path("out.json").read_bytes()
    fit(norm, None)
    assert Path("out.json").read_bytes() == shared
    frozen = sbn.load("out.json").freeze()
    apply(frozen, None)
    apply(frozen, InlineExecutor(), out=f"{s3.text}/out/", inputs=[f"{s3.text}/in"])
    for path in Path("out").rglob("*.[pc]*"):
        assert s3.child(str(path)).read_bytes() == path.read_bytes()


# --- outputs --------------------------------------------------------------------------


def apply(
    frozen: sbn.FrozenNormalizer,
    executor: Executor | None,
    *,
    out: str = "out",
    inputs: Sequence[str] = ("in",),
    skip: bool = False,
    resume: bool = False,
    verify: bool = False,
) -> Any:
    options = ReadOptions(skip_damaged=skip)
    return apply_job(
        ApplyStatistics(frozen),
        make_plan(scan(inputs), out, skip_damaged=skip),
        options=options,
        write_options=WriteOptions(resume=resume, verify=verify),
        display=shown,
        executor=executor,
    )


def without_manifest(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return an outcome without the file that holds the times of the outputs."""
    files, *rest = result
    if isinstance(files, dict):
        assert files.pop("out/_streambn.manifest", b"") or "out/" not in str(files)
    return files, *rest


@pytest.fixture
def frozen() -> sbn.FrozenNormalizer:
    table = pa.table({"x": [1e6 - 3, 1e6 + 3], "n": [-2, 3]})
    return sbn.Normalizer(columns=["x", "n"]).update(table).freeze()


@given(
    FILES, st.integers(0, 2**32), st.booleans(), st.booleans(), st.sampled_from(["out", "out.csv"])
)
def test_outputs_have_the_same_bytes(
    files: list[tuple[str, str, int, str]], seed: int, skip: bool, verify: bool, out: str
) -> None:
    write_folder(files, seed)
    table = pa.table({"x": [1e6 - 3, 1e6 + 3], "n": [-2, 3]})
    norm = sbn.Normalizer(columns=["x", "n"]).update(table).freeze()
    results = []
    for executor in (None, InlineExecutor(attempts=2)):
        shutil.rmtree("out", ignore_errors=True)
        Path("out.csv").unlink(missing_ok=True)
        verified = verify and not skip
        job = lambda e=executor, v=verified: apply(norm, e, out=out, skip=skip, verify=v)  # noqa: E731
        results.append(without_manifest(outcome(job, "out*/**/*" if out == "out" else "out.csv")))
    assert results[0] == results[1]


@pytest.mark.parametrize("first", [True, False])
def test_an_apply_goes_on_with_and_without_an_executor(
    plain_folder: None, frozen: sbn.FrozenNormalizer, first: bool
) -> None:
    whole = without_manifest(outcome(lambda: apply(frozen, None), "out/**/*"))
    shutil.rmtree("out")
    data = Path("in/k=1/3.csv").read_bytes()
    Path("in/k=1/3.csv").write_bytes(data + b"text,1,1,r\n")
    begun, rest = (InlineExecutor(), None) if first else (None, InlineExecutor())
    with pytest.raises(StreamBNError, match=r"3\.csv"):
        apply(frozen, begun)
    made = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.*") if path.is_file()}
    assert made
    Path("in/k=1/3.csv").write_bytes(data)
    files, report = without_manifest(outcome(lambda: apply(frozen, rest, resume=True), "out/**/*"))
    assert files == whole[0]
    assert report == whole[1]._replace(resumed=True)
    made.pop(Path("out/_streambn.manifest"))
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_normalize_has_the_same_bytes(plain_folder: None) -> None:
    results = []
    for executor in (None, InlineExecutor()):
        shutil.rmtree("out", ignore_errors=True)
        job = lambda e=executor: normalize_job(  # noqa: E731
            sbn.Normalizer(columns=["x", "n"]).statistics,
            make_plan(scan(["in"]), "out"),
            NEVER,
            save="out.json",
            options=ReadOptions(),
            write_options=WriteOptions(),
            display=shown,
            executor=e,
        )
        results.append(without_manifest(outcome(job, "out*/**/*")))
    assert results[0] == results[1]
