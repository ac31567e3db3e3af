"""Files fitted and normalized on Spark: the bits, the bytes and the messages of the command."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cli_process import COMMAND, ENV, TIMEOUT
from data_files import write_as
from spark_process import run_script

import streambn as sbn
from streambn.errors import InvalidValueError, NotFittedError, SchemaError, StreamBNError
from streambn.jobs import executors as shared

pytest.importorskip("pyspark", reason="needs pyspark: pip install pyspark")

from pyspark import TaskContext

from streambn.adapters.spark import SparkExecutor, apply_dataset, fit_dataset
from streambn.cli import engine

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _in_a_folder(jobs_in_a_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide small files into shares."""
    monkeypatch.setattr(shared, "_FEWEST_BYTES", 20_000)
    monkeypatch.setattr(shared, "_FILE_COST", 1_000)


def table_of(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "x": pa.array(rng.normal(1e6, 3, rows), mask=rng.random(rows) < 0.1),
            "n": pa.array(rng.integers(-9, 9, rows), pa.int32()),
            "t": pa.array(rng.permutation(rows) + 0.0),
            "s": pa.array([f"r{i % 5}" for i in range(rows)]),
        }
    )


@pytest.fixture
def data() -> str:
    """Write files of all formats, one of them without a row and one of nulls alone."""
    for number, (name, rows) in enumerate(
        [
            ("day=1/a.parquet", 3000),
            ("day=1/b.csv", 700),
            ("day=2/c.arrow", 900),
            ("day=2/d.arrows.gz", 500),
            ("day=3/e.ndjson", 200),
            ("day=3/f.parquet", 0),
            ("day=4/h.parquet", 2000),
        ]
    ):
        write_as(Path("data", name), table_of(rows, number), 400)
    nulls = table_of(50).set_column(0, "x", pa.nulls(50, pa.float64()))
    write_as("data/day=4/g.parquet", nulls)
    return "data"


@pytest.fixture
def run_spark(run: Run, spark: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command on the session of the tests."""

    hosts = types.SimpleNamespace(
        open_session=lambda _: contextlib.nullcontext(spark), SparkExecutor=SparkExecutor
    )
    monkeypatch.setattr(engine, "spark", hosts)
    return lambda *args: run(*args, "--engine", "spark")


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (sbn.Exact(), ["--policy", "exact"]),
        (sbn.Welford(), ["--policy", "welford"]),
        (sbn.EMA(halflife=99.0, time="t"), ["--policy", "ema", "--halflife", "99", "--time", "t"]),
        (
            sbn.EMA(alpha=0.01, ignore_na=True),
            ["--policy", "ema", "--alpha", "0.01", "--ignore-na"],
        ),
        (sbn.BatchEMA(momentum=0.1), ["--policy", "batch-ema", "--momentum", "0.1"]),
    ],
    ids=["exact", "welford", "ema-time", "ema", "batch-ema"],
)
def test_statistics_have_the_same_bits(
    spark: Any, data: str, run: Run, policy: Any, options: list[str]
) -> None:
    assert run("fit", data, "-o", "alone.json", *options).code == 0
    fit_dataset(spark, data, sbn.Normalizer(policy)).save("shared.json")
    assert Path("shared.json").read_bytes() == Path("alone.json").read_bytes()


def test_statistics_go_on_from_those_given(spark: Any, data: str) -> None:
    norm = sbn.Normalizer(sbn.Exact(), columns=["x", "n"]).update(table_of(70))
    before = norm.to_bytes()
    learned = fit_dataset(spark, [f"{data}/day=1", f"{data}/day=2/*"], norm)
    assert norm.to_bytes() == before
    assert learned.stats()["nulls"][1].as_py() == 0
    assert sum(learned.stats().slice(1).select(["count"]).to_pylist()[0].values()) == 5170


@pytest.mark.parametrize("job", ["fit", "apply"])
def test_a_task_that_fails_twice_counts_once(
    spark: Any, data: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    original = SparkExecutor.map

    def map_with_failures(self: Any, fn: Any, iterable: Iterable[Any], /) -> Iterator[Any]:
        def fail_twice(item: Any) -> Any:
            result = fn(item)
            attempt = TaskContext.get().attemptNumber()
            Path(tmp_path, f"attempt {attempt}").touch()
            if attempt == 0:
                raise RuntimeError("fails")
            if attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return original(self, fail_twice, iterable)

    assert run("fit", data, "-o", "alone.json").code == 0
    norm = sbn.Normalizer(sbn.Exact())
    if job == "apply":
        assert run("apply", "alone.json", f"{data}/day=1", "-o", "alone/").code == 0
    monkeypatch.setattr(SparkExecutor, "map", map_with_failures)
    if job == "fit":
        fit_dataset(spark, data, norm).save("shared.json")
        assert Path("shared.json").read_bytes() == Path("alone.json").read_bytes()
    else:
        frozen = sbn.load("alone.json").freeze()
        report = apply_dataset(spark, f"{data}/day=1", frozen, "shared/")
        assert report.rows == 3700
        assert contents("shared") == contents("alone")
    assert len([*tmp_path.glob("attempt *")]) == 3


def contents(folder: str) -> dict[str, bytes]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.name != "_streambn.manifest"
    }


def test_outputs_have_the_same_bytes_and_jobs_go_on_elsewhere(
    spark: Any, data: str, run: Run
) -> None:
    assert run("fit", data, "-o", "stats.json", "--columns", "x,n").code == 0
    assert run("apply", "stats.json", data, "-o", "alone/").code == 0
    frozen = sbn.load("stats.json").freeze()
    report = apply_dataset(spark, data, frozen, "shared/", verify=True)
    assert (report.rows, report.files, report.resumed) == (7350, 8, False)
    assert report.fingerprint == frozen.fingerprint
    assert contents("shared") == contents("alone")
    for folder in ("shared", "alone"):  # what is lost is made again on the other engine
        Path(folder, "day=2/c.arrow").unlink()
        Path(folder, "day=1/b.csv").write_text("x\n")
    kept = {path: path.stat().st_mtime_ns for path in Path("alone").rglob("*.parquet")}
    assert apply_dataset(spark, data, frozen, "alone/", resume=True).resumed
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert run("apply", "stats.json", data, "-o", "shared/", "--resume").code == 0
    assert contents("shared") == contents("alone")
    other = sbn.Normalizer(columns=["x", "n"]).update(table_of(9)).freeze()
    with pytest.raises(InvalidValueError, match="outputs of other statistics"):
        apply_dataset(spark, data, other, "shared/")
    back = apply_dataset(spark, "shared", frozen, "back", inverse=True)
    assert back.rows == 7350


def test_inputs_go_into_one_output(spark: Any, data: str, run: Run) -> None:
    assert run("fit", data, "-o", "stats.json", "--columns", "x").code == 0
    shutil.rmtree("data/day=3")  # of JSON, whose integers have another type
    assert run("apply", "stats.json", data, "-o", "alone.parquet").code == 0
    apply_dataset(spark, data, sbn.load("stats.json").freeze(), "shared.parquet")
    assert Path("shared.parquet").read_bytes() == Path("alone.parquet").read_bytes()


def test_damage_has_the_same_effect_and_message(
    spark: Any, data: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Path("data/day=4/h.parquet").read_bytes()
    Path("data/day=4/h.parquet").write_bytes(whole[:900] + bytes(40) + whole[940:])
    Path("data/day=1/b.csv").write_text("x,n,t,s\n1,2\n")
    (line,) = run("fit", data, "-o", "alone.json").lines
    with pytest.raises(StreamBNError) as caught:
        fit_dataset(spark, data, sbn.Normalizer())
    assert line.endswith(str(caught.value))  # after the flag to change
    alone = run("fit", data, "-o", "alone.json", "--on-error", "skip", "-q", "--json")
    with caplog.at_level(logging.WARNING, "streambn"):
        fit_dataset(spark, data, sbn.Normalizer(sbn.Exact()), on_error="skip").save("shared.json")
    assert Path("shared.json").read_bytes() == Path("alone.json").read_bytes()
    skipped = json.loads(alone.out)["skipped"]
    assert len(skipped) >= 2
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped {part['file']}{part['where'] and ', ' + part['where']}: {part['why']}"
        for part in skipped
    ]


def test_csv_is_read_as_it_is_said(spark: Any) -> None:
    Path("eu.csv").write_text("temp;id\n12,5;1\n13,5;2\n-;3\n")
    options = {"decimal": ",", "null_values": ["-"], "types": {"id": pa.string()}}
    norm = fit_dataset(spark, "eu.csv", sbn.Normalizer(), csv=options)
    assert norm.stats().select(["column", "count", "nulls", "mean"]).to_pylist() == [
        {"column": "temp", "count": 2, "nulls": 1, "mean": 13.0}
    ]


def test_what_is_wrong_is_said_in_one_line(spark: Any, data: str) -> None:
    empty = write_as("empty.parquet", table_of(0))
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: fit_dataset(None, data, sbn.Normalizer()), InvalidValueError, "SparkSession"),
        (lambda: fit_dataset(spark, data, sbn.Exact()), InvalidValueError, "streambn.Normalizer"),
        (lambda: fit_dataset(spark, "no", sbn.Normalizer()), StreamBNError, "no such file"),
        (lambda: fit_dataset(spark, str(empty), sbn.Normalizer()), NotFittedError, "no rows"),
        (
            lambda: fit_dataset(spark, data, sbn.Normalizer(columns=["y"])),
            SchemaError,
            "'y' is not in the data",
        ),
        (
            lambda: fit_dataset(spark, data, sbn.Normalizer(), on_error="ignore"),
            InvalidValueError,
            "'stop' or 'skip'",
        ),
        (
            lambda: fit_dataset(spark, data, sbn.Normalizer(), csv={"sep": ";"}),
            InvalidValueError,
            "no option 'sep'",
        ),
        (
            lambda: apply_dataset(spark, data, sbn.Normalizer(), "out"),
            InvalidValueError,
            "FrozenNormalizer",
        ),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not Path("out").exists()


def test_a_task_that_always_fails_is_told_in_one_line(spark: Any) -> None:
    def fail(item: int) -> int:
        raise RuntimeError(f"cannot do {item}")

    with pytest.raises(StreamBNError) as caught:
        list(SparkExecutor(spark).map(fail, [7]))
    assert str(caught.value) == "a job of Spark failed: RuntimeError: cannot do 7"

    def refuse(item: int) -> int:
        raise sbn.SchemaError("no such column", column="x")

    with pytest.raises(SchemaError, match="no such column") as refused:
        list(SparkExecutor(spark).map(refuse, [7]))
    assert refused.value.column == "x"


def test_results_keep_the_order_of_the_items(spark: Any) -> None:
    assert list(SparkExecutor(spark).map(lambda x: x * x, range(37))) == [x * x for x in range(37)]
    assert list(SparkExecutor(spark).map(abs, [])) == []
    results = SparkExecutor(spark).map(abs, range(-99, 0))
    assert next(results) == 99
    results.close()
    assert list(SparkExecutor(spark).map(abs, [-1])) == [1]


def test_a_callable_chooses_columns(spark: Any, data: str) -> None:
    norm = sbn.Normalizer(columns=lambda field: field.name in {"x", "n"})
    assert fit_dataset(spark, data, norm).stats()["column"].to_pylist() == ["x", "n"]


CONNECT = """
import sys
import streambn as sbn
from pyspark.sql import SparkSession
from streambn.adapters.spark import apply_dataset, fit_dataset

spark = SparkSession.builder.remote("local[2]").getOrCreate()
frozen = fit_dataset(spark, "data", sbn.Normalizer(sbn.Exact())).freeze()
apply_dataset(spark, "data", frozen, "connect/")
print(frozen.fingerprint)
spark.stop()
try:
    fit_dataset(spark, "data", sbn.Normalizer())
except sbn.InvalidValueError as error:
    print(error)
"""


@pytest.mark.long
def test_spark_connect_gives_the_same_files(data: str, run: Run) -> None:
    pytest.importorskip("grpc_status", reason="needs pyspark[connect]: pip install it")
    assert run("fit", data, "-o", "alone.json").code == 0
    assert run("apply", "alone.json", data, "-o", "alone/").code == 0
    with run_script(CONNECT) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    fingerprint, stopped = out.strip().splitlines()
    assert fingerprint == sbn.load("alone.json").freeze().fingerprint
    assert contents("connect") == contents("alone")
    assert "the Spark session is stopped" in stopped


def test_a_fit_goes_on_from_the_checkpoint_of_the_command(
    spark: Any, data: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fit", data, "-o", "alone.json").code == 0
    h = Path("data/day=4/h.parquet")
    content = h.read_bytes()
    h.write_bytes(b"PAR1")
    failed = run("fit", data, "-o", "x.json", "--checkpoint", "c.json", "--checkpoint-every", "100")
    assert failed.code == 1
    assert Path("c.json").exists()
    h.write_bytes(content)
    norm = sbn.Normalizer(sbn.Exact())
    fit_dataset(spark, data, norm, checkpoint="c.json", resume=True).save("shared.json")
    assert Path("shared.json").read_bytes() == Path("alone.json").read_bytes()
    assert not Path("c.json").exists()


# --- the shell ------------------------------------------------------------------------


def test_commands_give_the_same_files_and_lines(data: str, run: Run, run_spark: Run) -> None:
    for command, outputs in (
        (("fit", data, "-o", "stats.json", "--json"), ["stats.json"]),
        (("apply", "stats.json", data, "-o", "out", "--json"), ["out"]),
        (("normalize", data, "-o", "n", "--save", "n.json", "--columns", "x"), ["n", "n.json"]),
        (("fit", data, "-o", "f.json", "--columns", "y"), []),
        (("fit", "no", "-o", "f.json"), []),
    ):
        results = []
        for runner in (run, run_spark):
            done = runner(*command)
            out = json.loads(done.out) if done.out else {}
            out.pop("seconds", None)
            made = {o: contents(o) if Path(o).is_dir() else Path(o).read_bytes() for o in outputs}
            results.append((done.code, done.lines, out, made))
            for output in outputs[:1]:
                if Path(output).is_dir():
                    shutil.rmtree(output)
        assert results[0] == results[1]


def test_what_spark_cannot_do_is_a_wrong_command_line(data: str, run_spark: Run, run: Run) -> None:
    for more in (
        ["fit", "-", "-o", "s.json"],
        ["fit", data, "-o", "s.json", "--threads", "2"],
        ["normalize", data, "-o", "-"],
        ["normalize", data, "-o", "out", "--online"],
    ):
        done = run_spark(*more)
        assert done.code == 2
        assert "--engine spark" in done.lines[0]
    done = run("fit", data, "-o", "s.json", "--spark-master", "local[2]")
    assert done.code == 2
    assert "--spark-master" in done.lines[0]


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    # pyspark leaves a pipe to a Java that did not start.
    env = {**ENV, "PYTHONWARNINGS": "ignore", **environment}
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        env=env,
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
    )


def test_a_command_starts_spark_quietly(data: str, run: Run) -> None:
    alone = run("fit", data, "-o", "alone.json")
    arguments = ["fit", data, "-o", "s.json", "--engine", "spark", "--spark-master", "local[1]"]
    done = shell(*arguments)
    assert done.returncode == 0
    assert done.stderr.replace("s.json", "alone.json").splitlines() == alone.lines
    assert Path("s.json").read_bytes() == Path("alone.json").read_bytes()


def test_a_spark_that_does_not_start_is_told(data: str) -> None:
    for master, home, words in (
        ("no-such-master", None, "with the master 'no-such-master': Master must"),
        ("local[1]", "/no/such/folder", "needs Java 17"),
    ):
        arguments = ["fit", data, "-o", "s.json", "--engine", "spark", "--spark-master", master]
        done = shell(*arguments, **({} if home is None else {"JAVA_HOME": home}))
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert words in line
