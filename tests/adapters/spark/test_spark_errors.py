"""What is wrong is said in one line, and before a job runs where that can be known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from spark_process import run_script

import streambn as sbn

pytest.importorskip("pyspark", reason="needs pyspark: pip install pyspark")

from streambn.adapters.spark import fit, fold, frames, transform, transform_sql


def one_line(error: sbn.StreamBNError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 500
    return text


# ------------------------------------------------------------------- before a job


@pytest.fixture
def no_job(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a job runs."""

    def collect(_: Any) -> Any:
        pytest.fail("a job ran")

    for module in (frames, fold):
        monkeypatch.setattr(module, "collect_rows", collect)


@pytest.mark.parametrize(
    ("columns", "column", "message"),
    [
        (["prise"], "prise", "Did you mean 'price'"),
        (["m"], "m", "not numeric"),
        (["deep"], "deep", "not numeric"),
        (["s.z"], "s.z", "not numeric"),
        (["day"], "day", "not numeric"),
        (["var"], "var", "not numeric"),
        (["z*"], "z*", "matches no numeric column"),
    ],
)
def test_columns_are_checked_on_the_driver(
    spark: Any, no_job: None, columns: list[str], column: str, message: str
) -> None:
    df = spark.range(3).selectExpr(
        "double(id) AS price",
        "map('a', 1) AS m",
        "array(array(1)) AS deep",
        "named_struct('z', 'text') AS s",
        "date'2026-01-01' AS day",
        "parse_json('1') AS var",
    )
    with pytest.raises(sbn.SchemaError, match=message.replace("*", r"\*")) as caught:
        fit(df, sbn.Normalizer(columns=columns))
    assert caught.value.column == column


def test_arguments_are_checked_on_the_driver(spark: Any, no_job: None) -> None:
    df = spark.range(3)
    stream = spark.readStream.format("rate").load()
    cases: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: fit([1], sbn.Normalizer()), "df", "must be a Spark DataFrame, got list"),
        (lambda: fit(stream, sbn.Normalizer()), "df", "is a stream.*StreamingFit"),
        (lambda: fit(df, sbn.Exact()), "normalizer", "must be a streambn.Normalizer, got Exact"),
        (
            lambda: fit(df, sbn.Normalizer().update(pa.table({"id": [1]})).freeze()),
            "normalizer",
            r"got FrozenNormalizer\. Call thaw\(\)",
        ),
        (
            lambda: fit(df, sbn.Normalizer(sbn.EMA(alpha=0.1))),
            "order_by",
            "depends on the order of rows.*repartitionByRange",
        ),
        (
            lambda: fit(df, sbn.Normalizer(sbn.BatchEMA(momentum=0.1)), order_by="id"),
            "batch_rows",
            "batch_rows=",
        ),
        (lambda: fit(df, sbn.Normalizer(), order_by=3), "order_by", "got 3"),
        (lambda: fit(df, sbn.Normalizer(), order_by=[]), "order_by", "a list of names"),
        (lambda: fit(df, sbn.Normalizer(), order_by="Id"), "order_by", "Did you mean 'id'"),
        (
            lambda: fit(df.toDF("y").selectExpr("y", "y AS y"), sbn.Normalizer(), order_by="y"),
            "order_by",
            "exists 2 times",
        ),
    ]
    for call, argument, message in cases:
        with pytest.raises(sbn.StreamBNError, match=message) as caught:
            call()
        assert caught.value.argument == argument
        one_line(caught.value)


# ------------------------------------------------------------------------ in a job


def test_a_refused_value_is_told_as_locally(spark: Any) -> None:
    df = spark.sql("SELECT double('inf') AS x")
    with pytest.raises(sbn.InvalidValueError) as caught:
        fit(df, sbn.Normalizer())
    with pytest.raises(sbn.InvalidValueError) as expected:
        sbn.Normalizer().update(pa.table({"x": [float("inf")]}))
    assert one_line(caught.value) == str(expected.value)
    assert caught.value.column == expected.value.column == "x"
    assert caught.value.__cause__ is not None


def test_decimals_and_floats_are_not_mixed_under_exact(spark: Any) -> None:
    norm = sbn.Normalizer(sbn.Exact()).update(pa.table({"x": [Decimal("1.1")]}))
    with pytest.raises(
        sbn.StreamBNError, match=r"column .x. holds 1.5 on one side and decimals"
    ) as caught:
        fit(spark.sql("SELECT double(1.5) AS x"), norm)
    assert caught.value.column == "x"
    one_line(caught.value)


def test_workers_without_streambn_are_told(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    norm = sbn.Normalizer()
    bare = str(tmp_path / "bare" / "bin" / "python")
    monkeypatch.setattr(spark.sparkContext, "pythonExec", bare)
    with pytest.raises(sbn.InvalidValueError, match=r"cannot import.*PYSPARK_PYTHON") as caught:
        fit(spark.range(3), norm)
    one_line(caught.value)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", str(tmp_path / "nowhere"))
    with pytest.raises(sbn.InvalidValueError, match=r"cannot start.*PYSPARK_PYTHON") as caught:
        fit(spark.range(3), norm)
    one_line(caught.value)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", sys.executable)
    monkeypatch.setattr(spark.sparkContext, "pythonVer", "3.1")
    with pytest.raises(sbn.InvalidValueError, match="different versions of Python") as caught:
        fit(spark.range(3), norm)
    one_line(caught.value)


# The version follows the name of the format.
NEWER = b"streambn\x63" + sbn.Normalizer().to_bytes()[9:]


def test_statistics_of_another_version_are_told(
    spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer:
        def to_bytes(self) -> bytes:
            return NEWER

    with monkeypatch.context() as patch:
        patch.setattr(frames, "without_data", lambda _: Newer())
        with pytest.raises(sbn.SnapshotError, match=r"on a Spark worker.*newer") as caught:
            fit(spark.range(3), sbn.Normalizer())
        one_line(caught.value)
    with pytest.raises(sbn.SnapshotError, match=r"of a Spark worker: .*newer") as caught:
        fold.merge_parts(sbn.Normalizer(), [fold.Part(0, 1, NEWER)])
    one_line(caught.value)


def test_a_stopped_session_is_told(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    df, norm = spark.range(3), sbn.Normalizer().update(pa.table({"id": [1, 2]}))
    monkeypatch.setattr(spark.sparkContext, "_jsc", None)  # as stop() does
    for call in (
        lambda: fit(df, norm),
        lambda: transform(df, norm.freeze()),
        lambda: transform_sql(df, norm.freeze()),
    ):
        with pytest.raises(sbn.InvalidValueError, match="is stopped") as caught:
            call()
        assert caught.value.argument == "spark"
        one_line(caught.value)


OWN_SESSION = """
import sys
import pyarrow as pa
import streambn as sbn
from pyspark.sql import SparkSession
from streambn.adapters.spark import fit, transform, transform_sql

builder = SparkSession.builder.remote("local[2]") if sys.argv[1] == "connect" else (
    SparkSession.builder.master("local[2]").config("spark.driver.maxResultSize", "40k")
)
for name, value in SETTINGS.items():
    if sys.argv[1] != "connect" or not name.startswith("spark.driver"):
        builder = builder.config(name, value)
spark = builder.getOrCreate()
data = pa.table({"x": [1e9 + i / 7 for i in range(100)], "s": ["text"] * 100})
df = spark.createDataFrame(data).repartition(3, "x")
local = sbn.Normalizer(sbn.Exact()).update(data)
norm = fit(df, sbn.Normalizer(sbn.Exact()))
assert norm.freeze() == local.freeze()
expected = local.freeze().transform(data).sort_by("x")["x"].to_pylist()
for normalize in (transform, transform_sql):
    out = normalize(df, norm.freeze()).toArrow()
    assert out.sort_by("x")["x"].to_pylist() == expected, normalize
try:
    fit(spark.sql("SELECT double('inf') AS x"), sbn.Normalizer())
except sbn.InvalidValueError as error:
    assert error.column == "x"
    print(error)
if sys.argv[1] == "classic":
    try:
        fit(spark.range(0, 1000, 1, 60), sbn.Normalizer(sbn.Exact()))
    except sbn.StreamBNError as error:
        assert "maxResultSize" in str(error), error
    else:
        raise AssertionError("the driver took more than it may")
spark.stop()
try:
    fit(df, sbn.Normalizer())
except sbn.InvalidValueError as error:
    assert error.argument == "spark"
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["classic", "connect"])
def test_a_session_of_its_own_kind_works_until_it_is_stopped(kind: str) -> None:
    if kind == "connect":
        absent = "needs Spark Connect: pip install 'pyspark[connect]'"
        pytest.importorskip("grpc_status", reason=absent)
    with run_script(OWN_SESSION, kind) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    refused, stopped = out.strip().splitlines()
    assert "holds infinity" in refused
    assert "the Spark session is stopped" in stopped
