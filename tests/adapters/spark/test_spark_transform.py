"""A DataFrame is normalized as its rows are on one machine, in Python workers and in the JVM."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streambn as sbn

pytest.importorskip("pyspark", reason="needs pyspark: pip install pyspark")

from pyspark.errors import PySparkException
from pyspark.sql import types as spark_types

from streambn.adapters.spark import transform, transform_sql

ROWS = 300
rng = np.random.default_rng(18)
both = pytest.mark.parametrize("normalize", [transform, transform_sql])

OPTIONS = {
    "plain": {},
    "clip": {"clip": 0.75, "eps": 1e-3},
    "affine": {"affine": {"x": (2.0, 3.0), "v[1]": (3.0, 4.0), "f": (-1.5, 0.5)}, "ddof": 1},
    "not centred": {"center": False},
    "not scaled": {"scale": False, "clip": 1e3},
    "nan": {"nan": "propagate", "inf": "propagate", "clip": 2.0},
    "few values": {"min_count": 250},
}


def decimals(low: int, high: int, precision: int, scale: int) -> pa.Array:
    values = [Decimal(int(v)).scaleb(-scale) for v in rng.integers(low, high, ROWS)]
    kind = pa.decimal128(precision, scale)
    return pa.array([None if i % 7 == 2 else v for i, v in enumerate(values)], kind)


def column(values: Any, kind: pa.DataType) -> pa.Array:
    return pa.array([None if i % 5 == 3 else v for i, v in enumerate(values)], kind)


def table() -> pa.Table:
    """Return columns of every type that has statistics, and of others between them."""
    some_nan = rng.normal(size=ROWS)
    some_nan[::6] = math.nan
    reals = rng.normal(size=ROWS)
    return pa.table(
        {
            "a.b": ["text"] * ROWS,
            "x": column(1e9 + reals, pa.float64()),
            "far": column(1e15 + reals, pa.float64()),
            "tiny": column(1e-300 * reals, pa.float64()),
            "constant": [2.5] * ROWS,
            "never": pa.nulls(ROWS, pa.float64()),
            "nan": some_nan,
            "at": pa.array(range(ROWS), pa.timestamp("us", "UTC")),
            "f": column(reals, pa.float32()),
            "i8": pa.array(rng.integers(-128, 127, ROWS), pa.int8()),
            "i32": column(rng.integers(-(2**31), 2**31, ROWS).tolist(), pa.int32()),
            "any": column(rng.integers(-(2**63), 2**63 - 1, ROWS).tolist(), pa.int64()),
            "high": pa.array((2**62 + rng.integers(-9, 9, ROWS)).tolist(), pa.int64()),
            "d": decimals(-(10**9), 10**9, 12, 2),
            "d37": decimals(-(10**9), 10**9, 37, 20),
            "d38": decimals(-(10**9), 10**9, 38, 20),
            "v": column([[v, 2.0, None] for v in reals], pa.list_(pa.float64())),
            "w": pa.array([[2**60 + i, i] for i in range(ROWS)], pa.list_(pa.int64())),
            "s": column(
                [{"p.q": v, "z": "z", "in": {"n": i}} for i, v in enumerate(reals)],
                pa.struct(
                    [
                        ("p.q", pa.float64()),
                        ("z", pa.string()),
                        ("in", pa.struct([("n", pa.int32())])),
                    ]
                ),
            ),
        }
    )


COLUMNS = [name for name in table().column_names if name not in ("a.b", "at")]


def bits(values: pa.ChunkedArray, kind: pa.DataType) -> list[Any]:
    """Return values that compare equal where all bits do."""

    def exact(value: Any) -> Any:
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, list):
            return [*map(exact, value)]
        return {k: exact(v) for k, v in value.items()} if isinstance(value, dict) else value

    return [*map(exact, values.combine_chunks().cast(kind).to_pylist())]


@both
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_bits_are_those_of_one_machine(
    spark: Any, normalize: Callable[..., Any], options: dict[str, Any]
) -> None:
    data = table()
    frozen = sbn.Normalizer(columns=COLUMNS, **options).update(data).freeze()
    df = spark.createDataFrame(data).coalesce(1)
    out = normalize(df, frozen)
    expected, found = frozen.transform(data), out.toArrow()
    assert found.column_names == expected.column_names
    for name, kind in zip(expected.column_names, expected.schema.types, strict=True):
        assert bits(found[name], kind) == bits(expected[name], kind), name
    floats = spark_types.FloatType(), spark_types.DoubleType()
    assert (out.schema["f"].dataType, out.schema["d"].dataType) == floats


def test_long_decimals_agree_to_rounding_in_the_jvm(spark: Any) -> None:
    data = pa.table(
        {
            "d": decimals(10**17, 10**18, 18, 9),
            "d38": pa.array([Decimal(f"{d}{d}.5") for d in range(10**17, 10**17 + ROWS)]),
        }
    )
    frozen = sbn.Normalizer().update(data).freeze()
    found = transform_sql(spark.createDataFrame(data).coalesce(1), frozen).toArrow()
    for name, expected in zip(data.column_names, frozen.transform(data).columns, strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=1e-15, atol=1e-15)


@both
def test_other_columns_keep_everything(spark: Any, normalize: Callable[..., Any]) -> None:
    fields = [
        spark_types.StructField("id", spark_types.LongType(), False, {"key": True}),
        spark_types.StructField("x", spark_types.DoubleType(), False, {"unit": "m"}),
        spark_types.StructField(
            "m", spark_types.MapType(spark_types.StringType(), spark_types.IntegerType())
        ),
    ]
    rows = [(1, 1.0, {"a": 1}), (2, 3.0, None)]
    df = spark.createDataFrame(rows, spark_types.StructType(fields))
    frozen = sbn.Normalizer(columns=["x"]).update(pa.table({"x": [1.0, 3.0]})).freeze()
    out = normalize(df, frozen)
    assert [field.metadata for field in out.schema] == [field.metadata for field in df.schema]
    assert [out.schema[name] for name in ("id", "m")] == [df.schema[name] for name in ("id", "m")]
    assert out.schema["x"].nullable == (normalize is transform_sql)  # Spark derives that
    assert [tuple(row) for row in out.orderBy("id").collect()] == [
        (1, -1.0, {"a": 1}),
        (2, 1.0, None),
    ]


@both
def test_names_that_spark_reads_otherwise(spark: Any, normalize: Callable[..., Any]) -> None:
    df = spark.createDataFrame(pa.table({"a.b": [1.0, 3.0], "A": [0, 1], "`": ["u", "v"]}))
    df = (
        df.toDF("a.b", "A", "`").selectExpr("*", "0 AS X", "1 AS Y").toDF("a.b", "A", "`", "y", "y")
    )
    frozen = sbn.Normalizer(columns=["a.b"]).update(pa.table({"a.b": [1.0, 3.0]})).freeze()
    out = normalize(df.coalesce(1), frozen)
    assert out.columns == ["a.b", "A", "`", "y", "y"]
    assert [tuple(row) for row in out.collect()] == [(-1.0, 0, "u", 0, 1), (1.0, 1, "v", 0, 1)]


@both
def test_columns_of_a_union_may_be_absent(spark: Any, normalize: Callable[..., Any]) -> None:
    norm = sbn.Normalizer(schema="union").update(pa.table({"x": [1.0, 3.0], "y": [1.0, 2.0]}))
    out = normalize(spark.createDataFrame(pa.table({"x": [3.0], "z": [9.0]})), norm.freeze())
    assert [tuple(row) for row in out.collect()] == [(1.0, 9.0)]


@both
@pytest.mark.parametrize("partitions", [1, 3])
def test_empty_partitions_are_fine(
    spark: Any, normalize: Callable[..., Any], partitions: int
) -> None:
    frozen = sbn.Normalizer().update(pa.table({"x": [1.0, 3.0]})).freeze()
    df = spark.createDataFrame([], "x double, y string").repartition(partitions)
    assert normalize(df, frozen).count() == 0


@both
@pytest.mark.parametrize(("option", "value"), [("nan", math.nan), ("inf", -math.inf)])
def test_a_refused_value_fails_the_job(
    spark: Any, normalize: Callable[..., Any], option: str, value: float
) -> None:
    norm = sbn.Normalizer(**{option: "raise"}).update(pa.table({"x": [1.0, 3.0]}))
    df = spark.createDataFrame([(value,), (1.0,)], "x double")
    with pytest.raises(PySparkException, match=r"column 'x' holds (NaN|infinity)"):
        normalize(df, norm.freeze()).collect()


@both
def test_a_message_holds_any_name(spark: Any, normalize: Callable[..., Any]) -> None:
    name = 'it\'s \\ "x" `y` ∂'
    norm = sbn.Normalizer().update(pa.table({name: [1.0, 3.0]}))
    df = spark.createDataFrame([(math.inf,)], "x double").toDF(name)
    with pytest.raises(PySparkException) as caught:
        normalize(df, norm.freeze()).collect()
    assert f"column {name!r} holds infinity" in str(caught.value)


@both
def test_a_list_of_another_length_fails_the_job(spark: Any, normalize: Callable[..., Any]) -> None:
    norm = sbn.Normalizer(columns=["v"]).update(pa.table({"v": [[1.0, 2.0]]}))
    df = spark.createDataFrame([([1.0],)], "v array<double>")
    with pytest.raises(PySparkException, match=r"column 'v'.*length"):
        normalize(df, norm.freeze()).collect()


@both
def test_columns_are_checked_before_any_job(spark: Any, normalize: Callable[..., Any]) -> None:
    frozen = sbn.Normalizer().update(pa.table({"price": [1.0, 3.0]})).freeze()
    with pytest.raises(sbn.SchemaError, match="Did you mean 'Price'") as caught:
        normalize(spark.createDataFrame([(1.0,)], "Price double"), frozen)
    assert caught.value.column == "price"
    with pytest.raises(sbn.SchemaError, match="'price' is no longer numeric: it is string"):
        normalize(spark.createDataFrame([("a",)], "price string"), frozen)


@both
def test_arguments_of_another_type_are_refused(spark: Any, normalize: Callable[..., Any]) -> None:
    norm = sbn.Normalizer().update(pa.table({"x": [1.0, 3.0]}))
    with pytest.raises(sbn.InvalidValueError, match=r"got Normalizer\. Call freeze\(\)"):
        normalize(spark.range(1), norm)
    with pytest.raises(sbn.InvalidValueError, match="df must be a Spark DataFrame, got Table"):
        normalize(pa.table({"x": [1.0]}), norm.freeze())
