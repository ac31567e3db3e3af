"""A DataFrame, however it is partitioned, teaches what its rows teach on one machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streambn as sbn

pytest.importorskip("pyspark", reason="needs pyspark: pip install pyspark")

from pyspark import TaskContext, cloudpickle
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as spark_types

from streambn.adapters import spark as adapter

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

FEW = settings.get_profile("few")

rng = np.random.default_rng(17)


def table(rows: int = 200) -> pa.Table:
    """Return columns of every numeric type of Spark, with nulls, and some that are not numeric."""

    def with_nulls(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array([None if i % 5 == 3 else v for i, v in enumerate(values)], kind)

    digits = rng.integers(-(10**15), 10**15, rows).tolist()
    return pa.table(
        {
            "t": pa.array(rng.permutation(rows), pa.int64()),
            "x": with_nulls(1e9 + rng.normal(size=rows), pa.float64()),
            "f": with_nulls(rng.normal(size=rows).tolist(), pa.float32()),
            "i": with_nulls(rng.integers(-(2**62), 2**62, rows).tolist(), pa.int64()),
            "b": with_nulls(rng.integers(-128, 127, rows).tolist(), pa.int8()),
            "d": with_nulls([Decimal(v).scaleb(-4) for v in digits], pa.decimal128(20, 4)),
            "v": with_nulls([[float(v), 1.0] for v in digits], pa.list_(pa.float64())),
            "s": pa.array([{"p": float(v), "q": "z"} for v in digits]),
            "a.b": pa.array(["name"] * rows),
        }
    )


COLUMNS = ["x", "f", "i", "b", "d", "v", "s"]


def local(norm: sbn.Normalizer, data: pa.Table) -> sbn.Normalizer:
    return sbn.Normalizer.from_statistics(norm.statistics).update(data)


def fingerprint(norm: sbn.Normalizer) -> str:
    return norm.freeze().fingerprint


def assert_close(ours: sbn.Normalizer, theirs: sbn.Normalizer, rtol: float = 1e-13) -> None:
    ours, theirs = ours.stats(), theirs.stats()
    assert ours.column_names == theirs.column_names
    for name in ("column", "count", "nulls", "nans", "infs", "min", "max"):
        assert ours[name].equals(theirs[name])
    np.testing.assert_allclose(ours["mean"], theirs["mean"], rtol=rtol)
    np.testing.assert_allclose(ours["var"], theirs["var"], rtol=rtol)


# ---------------------------------------------------------------------- one result


@settings(FEW, max_examples=FEW.max_examples // 3)  # an example runs two jobs
@given(
    rows=st.integers(1, 40),
    partitions=st.integers(1, 5),
    batch=st.sampled_from([1, 7, 10_000]),
    seed=st.integers(0, 2**32),
)
def test_any_partitions_have_the_local_fingerprint(
    spark: Any, rows: int, partitions: int, batch: int, seed: int
) -> None:
    data = table(rows)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", batch)
    try:
        df = spark.createDataFrame(data).repartition(partitions, F.xxhash64("t", F.lit(seed)))
        exact = sbn.Normalizer(sbn.Exact(), COLUMNS)
        assert fingerprint(adapter.fit(df, exact)) == fingerprint(local(exact, data))
        welford = sbn.Normalizer(columns=["x", "f", "d", "s"])
        assert_close(adapter.fit(df, welford), local(welford, data))
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("batch", [7, 10_000])
def test_the_cuts_and_types_of_batches_do_not_matter(
    spark: Any, arrow_settings: Any, batch: int, large: bool
) -> None:
    arrow_settings(maxRecordsPerBatch=batch, useLargeVarTypes=large)
    data = table(5000 if batch > 7 else 500)
    df = spark.createDataFrame(data).repartition(2)
    for options in ({}, {"columns": COLUMNS}, {"exclude": ["x", "s.p"], "schema": "union"}):
        norm = sbn.Normalizer(sbn.Exact(), **options)
        assert fingerprint(adapter.fit(df, norm)) == fingerprint(local(norm, data))


def test_a_callable_chooses_columns(spark: Any) -> None:
    data = table()
    norm = sbn.Normalizer(sbn.Exact(), lambda field: pa.types.is_integer(field.type))
    found = adapter.fit(spark.createDataFrame(data), norm)
    assert found.features == ("t", "i", "b")
    assert fingerprint(found) == fingerprint(local(norm, data))


def test_columns_without_statistics_are_told_as_locally(
    spark: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = table().select(["x", "s", "a.b"])
    df = spark.createDataFrame(data)
    with caplog.at_level("INFO", "streambn"):
        norm = adapter.fit(df, sbn.Normalizer())
    assert caplog.messages == ["columns without statistics: s.q (string), a.b (string)"]
    assert norm.statistics.left_out == local(sbn.Normalizer(), data).statistics.left_out
    assert [each.column for each in norm.statistics.left_out] == ["s.q", "a.b"]


def test_states_of_many_features_are_merged_in_groups(spark: Any) -> None:
    data = pa.table({f"x{i}": 1e6 + rng.normal(size=300) for i in range(64)})
    df = spark.createDataFrame(data).repartition(66, F.xxhash64("x0"))
    exact = sbn.Normalizer(sbn.Exact())
    assert fingerprint(adapter.fit(df, exact)) == fingerprint(local(exact, data))
    found = [adapter.fit(df, sbn.Normalizer()) for _ in range(2)]
    assert_close(found[0], local(sbn.Normalizer(), data))
    assert fingerprint(found[0]) == fingerprint(found[1])  # whichever task ended first


def test_empty_and_null_partitions_bind_the_same_columns(spark: Any) -> None:
    kind = "x double, v array<float>, n void, g int"
    rows = [(None, None, None, 1), (2.0, [1.0, 2.0], None, 2), (None, None, None, None)]
    df = spark.createDataFrame(rows, kind).repartitionByRange(3, "g")
    whole = df.union(spark.createDataFrame([], kind).coalesce(1))
    for policy in (sbn.Exact(), sbn.EMA(halflife=2.0, time="g", null_time="skip")):
        norm = sbn.Normalizer(policy, ["x", "v", "n"])
        found = adapter.fit(whole, norm)
        expected = local(norm, df.coalesce(1).toArrow())
        assert found.features == ("x", "v[0]", "v[1]", "n")
        assert_close(found, expected)
        if policy == sbn.Exact():
            assert fingerprint(found) == fingerprint(expected)


def test_a_frame_without_rows_teaches_nothing(spark: Any) -> None:
    norm = adapter.fit(spark.createDataFrame([], "x double"), sbn.Normalizer())
    assert norm.features == ()
    with pytest.raises(sbn.NotFittedError):
        norm.freeze()


def test_nullability_does_not_matter(spark: Any) -> None:
    data = pa.table({"x": [1.0, 2.0, 4.0]})
    df = spark.createDataFrame(data)
    strict = spark_types.StructType([spark_types.StructField("x", spark_types.DoubleType(), False)])
    norm = sbn.Normalizer(sbn.Exact())
    both = adapter.fit(df, adapter.fit(spark.createDataFrame([(3.0,)], strict), norm))
    assert fingerprint(both) == fingerprint(
        local(norm, pa.table({"x": pa.concat_arrays([*data["x"].chunks, pa.array([3.0])])}))
    )


def test_fit_goes_on_from_statistics_and_leaves_them_alone(spark: Any) -> None:
    data = table()
    norm = sbn.Normalizer(sbn.Exact(), COLUMNS).update(data.slice(0, 50))
    before = norm.to_bytes()
    found = adapter.fit(spark.createDataFrame(data.slice(50)).repartition(2), norm)
    assert norm.to_bytes() == before
    assert fingerprint(found) == fingerprint(local(sbn.Normalizer(sbn.Exact(), COLUMNS), data))
    # Columns that are not bound stay out, as they do in an update.
    wider = spark.createDataFrame(data).withColumn("new", F.lit(1.0))
    assert adapter.fit(wider, norm).features == norm.features


def test_names_that_spark_reads_otherwise(spark: Any) -> None:
    data = pa.table({"a.b": [1.0, 2.0], "a": [{"b": 5.0}, {"b": 7.0}], "X": [1, 2], "`q": [3, 4]})
    norm = sbn.Normalizer(sbn.Exact(), columns=["X", "`q", "a.b"])
    df = spark.createDataFrame(data)
    assert fingerprint(adapter.fit(df, norm)) == fingerprint(local(norm, data))
    twice = df.select("X", F.lit("text").alias("x"), F.lit("text").alias("X2")).toDF("X", "x", "x")
    assert adapter.fit(twice, sbn.Normalizer(columns=["X"])).features == ("X",)


def test_weights_and_event_times(spark: Any) -> None:
    data = table().append_column("w", pa.array(rng.uniform(0, 3, 200)))
    df = spark.createDataFrame(data).repartition(3)
    for norm in (
        sbn.Normalizer(columns=["x", "d"], weights="w"),
        sbn.Normalizer(sbn.EMA(halflife=30.0, time="t"), ["x", "d"]),
        sbn.Normalizer(sbn.EMA(halflife=30.0, time="t"), ["x", "d"], weights="w"),
    ):
        assert_close(adapter.fit(df, norm), local(norm, data), 1e-12)


def test_event_times_may_be_timestamps(spark: Any) -> None:
    times = pa.array(rng.integers(0, 10**15, 200), pa.timestamp("us", "UTC"))
    data = table().append_column("at", times)
    norm = sbn.Normalizer(sbn.EMA(halflife="90d", time="at"), ["x"])
    assert_close(adapter.fit(spark.createDataFrame(data), norm), local(norm, data), 1e-12)


# ------------------------------------------------------------------------ order


@pytest.mark.parametrize(
    "policy",
    [sbn.EMA(halflife=20), sbn.EMA(alpha=0.05, adjust=False), sbn.EMA(span=9, ignore_na=True)],
    ids=repr,
)
def test_rows_in_order_teach_an_ema_as_locally(spark: Any, policy: Any) -> None:
    data = table()
    norm = sbn.Normalizer(policy, ["x", "f", "v"])
    df = spark.createDataFrame(data).repartitionByRange(3, "t")
    found = adapter.fit(df, norm, order_by="t")
    assert_close(found, local(norm, data.sort_by("t")), 1e-12)


def test_order_may_be_of_several_columns_and_types(spark: Any) -> None:
    data = table()
    order = data["t"].to_numpy()
    days = pa.array(order // 10, pa.int32()).cast(pa.date32())
    text = pa.array([f"{v % 10}é" for v in order])
    data = data.append_column("day", days).append_column("text", text)
    at = pa.array(order * 10**9, pa.timestamp("us", "UTC"))
    data = data.append_column("at", at)
    norm = sbn.Normalizer(sbn.EMA(halflife=20), ["x"])
    expected = local(norm, data.sort_by("t"))
    for names in (["day", "text"], "at"):
        columns = [names] if isinstance(names, str) else names
        df = spark.createDataFrame(data).repartitionByRange(3, *columns)
        assert_close(adapter.fit(df, norm, order_by=names), expected, 1e-12)


@pytest.mark.parametrize("batch_rows", [1, 7, 64, 1000])
def test_blocks_may_begin_in_one_partition_and_end_in_another(spark: Any, batch_rows: int) -> None:
    data = table().sort_by("t")
    policy = sbn.BatchEMA(momentum=0.1, batch_rows=batch_rows)
    norm = sbn.Normalizer(policy, ["x", "f", "v"])
    df = spark.createDataFrame(data)
    df = df.repartitionByRange("t") if batch_rows == 7 else df.repartitionByRange(4, "t")
    expected = local(norm, data)
    found = adapter.fit(df, norm, order_by="t")
    assert_close(found, expected)
    # Statistics so far may end inside a block.
    start = local(norm, data.slice(0, 45))
    found = adapter.fit(df.where("t >= 45"), start, order_by="t")
    assert_close(found, expected)
    assert found.statistics.state.open_rows == expected.statistics.state.open_rows


def test_a_frame_that_changes_between_two_passes_is_refused(spark: Any) -> None:
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=0.1, batch_rows=3), ["x"])
    moving = spark.range(8).select("id", F.udf(lambda _: time.time(), "double")("id").alias("x"))
    with pytest.raises(sbn.InvalidValueError, match=r"Call df\.cache\(\) first"):
        adapter.fit(moving.coalesce(1), norm, order_by=["x", "id"])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1, None, 2], "bigint", "holds null"),
        ([1.0, float("nan"), 2.0], "double", "holds NaN"),
        ([1, 2, 2], "bigint", "has the value 2 twice"),
        ([True, False, None], "boolean", "is boolean"),
        ([[1], [2], [3]], "array<int>", "is array<int>"),
    ],
)
def test_keys_that_do_not_order_rows(spark: Any, values: Any, kind: str, message: str) -> None:
    df = spark.createDataFrame([(v, 1.0) for v in values], f"k {kind}, x double").coalesce(1)
    norm = sbn.Normalizer(sbn.EMA(halflife=2), ["x"])
    with pytest.raises(sbn.StreamBNError, match=message) as caught:
        adapter.fit(df, norm, order_by="k")
    assert caught.value.argument == "order_by"


def test_ranges_of_partitions_must_not_overlap(spark: Any) -> None:
    norm = sbn.Normalizer(sbn.EMA(halflife=2), ["x"])
    df = spark.range(20).selectExpr("id", "id % 4 AS half", "double(id) AS x")
    with pytest.raises(sbn.InvalidValueError, match=r"df\.repartitionByRange\('id'\)"):
        adapter.fit(df.repartition(2), norm, order_by="id")
    # A tie across partitions: each is in order by itself.
    rows = spark.sparkContext.parallelize([(1, 1.0), (2, 2.0), (2, 3.0), (3, 4.0)], 2)
    tied = spark.createDataFrame(rows, "id long, x double")
    with pytest.raises(sbn.InvalidValueError, match="one ends with 2 and another begins with 2"):
        adapter.fit(tied, norm, order_by="id")


# ------------------------------------------------------------------------ failures


def failing(partition: int, attempts: int, fail: Callable[[], None]) -> Any:
    """Return a function for mapInArrow that fails in the first attempts after some batches."""

    def pass_on(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        unlucky = context.partitionId() == partition and context.attemptNumber() < attempts
        for number, batch in enumerate(batches):
            if unlucky and number == 5:
                fail()
            yield batch

    return pass_on


def crash() -> None:
    raise RuntimeError("a task fails")


def kill_workers() -> None:
    """Kill this Python worker and the one that learns: they have one parent."""
    mine = os.getppid()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, parent = status.parent.name, status.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == mine and int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("fail", [crash, kill_workers])
def test_a_task_that_is_tried_again_counts_once(
    spark: Any, arrow_settings: Any, fail: Callable[[], None]
) -> None:
    arrow_settings(maxRecordsPerBatch=7)
    data = table(400).drop(["a.b"])
    df = spark.createDataFrame(data).repartition(2)
    unlucky = df.mapInArrow(failing(1, 2, fail), df.schema)
    norm = sbn.Normalizer(sbn.Exact(), COLUMNS)
    assert fingerprint(adapter.fit(unlucky, norm)) == fingerprint(local(norm, data))
