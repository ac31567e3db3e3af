"""RiverNormalizer transforms rows and frames, and keeps their types."""

from __future__ import annotations

import math
import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from river_rows import DAY, NAN, column, frames, learned

import streambn as sbn
from streambn.adapters.river import RiverNormalizer


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float_columns_keep_their_type(dtype):
    values = np.array([1.0, 3.0], dtype)
    for make in (pd.DataFrame, pa.table, pa.record_batch):
        frame = make({"a": values})
        model = learned(frame)
        out = model.transform_many(frame)
        assert type(out) is type(frame)
        assert column(out, "a") == [-1.0, 1.0]
        if isinstance(frame, pd.DataFrame):
            assert out["a"].dtype == dtype
        else:
            assert out.schema.field("a").type == frame.schema.field("a").type


def test_types_of_polars_columns():
    frame = pl.DataFrame(
        {"a": [1.0, 3.0], "b": [1, 3], "c": [Decimal("1.0"), Decimal("3.0")], "s": ["x", "y"]},
        schema_overrides={"a": pl.Float32, "b": pl.Int16},
    )
    model = learned(frame)
    out = model.transform_many(frame)
    assert out.schema == {"a": pl.Float32, "b": pl.Float64, "c": pl.Float64, "s": pl.String}
    assert out["s"].to_list() == ["x", "y"]
    assert out["c"].to_list() == [-1.0, 1.0]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint64(), pa.decimal128(10, 2), pa.decimal256(40, 2)]
)
def test_integers_and_decimals_become_float64(kind):
    for make in (pa.table, pa.record_batch):
        frame = make({"a": pa.array([1, 3], kind)})
        model = learned(frame)
        out = model.transform_many(frame)
        assert out.schema.field("a").type == pa.float64()
        assert out.column("a").to_pylist() == [-1.0, 1.0]


def test_pandas_frame_keeps_its_index_and_column_order():
    index = pd.Index([7, 7, 3], name="id")
    frame = pd.DataFrame({"z": ["x", "y", "z"], "b": [1, 2, 3], "a": [1.0, 2.0, 3.0]}, index=index)
    model = learned({"a": 1.0, "b": 1}, {"a": 3.0, "b": 3})
    out = model.transform_many(frame)
    pd.testing.assert_index_equal(out.index, index)
    assert list(out.columns) == ["z", "b", "a"]
    assert out["a"].tolist() == out["b"].tolist() == [-1.0, 0.0, 1.0]
    assert out["z"].tolist() == ["x", "y", "z"]
    assert list(frame["a"]) == [1.0, 2.0, 3.0]  # the input did not change


def test_null_stays_null_and_nan_stays_nan():
    model = learned({"a": 1.0}, {"a": 3.0})
    out = model.transform_one({"a": None, "b": None, "c": NAN})
    assert out == {"a": None, "b": None, "c": pytest.approx(NAN, nan_ok=True)}
    for frame in (pa.table({"a": [None, NAN, 3.0]}), pl.DataFrame({"a": [None, NAN, 3.0]})):
        out = column(model.transform_many(frame), "a")
        assert out == [None, pytest.approx(NAN, nan_ok=True), 1.0]
    out = model.transform_many(pd.DataFrame({"a": pd.array([None, 3.0], "Float64")}))["a"]
    assert out.isna().tolist() == [True, False]
    assert math.isnan(model.transform_many(pd.DataFrame({"a": [NAN]}))["a"].item())


def test_columns_without_numbers_pass_through():
    columns = {"s": ["x", None], "flag": [True, False], "t": [DAY, DAY], "l": [[1.0], [2.0]]}
    model = learned({"a": 1.0})
    row = {name: values[0] for name, values in columns.items()}
    assert model.transform_one(row) == row
    assert all(model.transform_one(row)[name] is row[name] for name in row)
    for frame in frames(columns):
        out = model.transform_many(frame)
        for name in columns:
            assert column(out, name) == column(frame, name)
        if isinstance(frame, pd.DataFrame):
            assert out.dtypes.equals(frame.dtypes)
        else:
            assert out.schema == frame.schema


def test_frames_without_rows_or_columns():
    model = learned({"a": 1.0}, {"a": 3.0})
    for frame in frames({"a": np.array([], np.float32), "s": np.array([], str)}):
        out = model.transform_many(frame)
        assert type(out) is type(frame)
        assert out.shape == (0, 2)
    assert model.transform_many(pd.DataFrame(index=[4, 5])).index.tolist() == [4, 5]
    assert model.transform_one({}) == {}


def test_transform_never_learns():
    model = learned({"a": 1.0}, {"a": 3.0})
    state = pickle.dumps(model)
    model.transform_one({"a": 1.0, "new": 2.0, "s": "x", "none": None})
    for frame in frames({"a": [1.0], "new": [2.0], "s": ["x"]}):
        model.transform_many(frame)
    assert pickle.dumps(model) == state
    row = {"a": 1.0, "new": 2.0}
    model.transform_one(row)
    assert row == {"a": 1.0, "new": 2.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"eps": 3.0}, 1.0),
        ({"ddof": 1}, math.sqrt(2)),
        ({"center": False}, 4.0),
        ({"scale": False}, 2.0),
        ({"clip": 1.5}, 1.5),
        ({"affine": {"a": (3.0, 0.5)}}, 6.5),
        ({"affine": {"a": (3.0, 0.5)}, "clip": 1.5}, 5.0),
    ],
    ids=str,
)
def test_options_work_as_in_normalizer(options, expected):
    model = learned({"a": 1.0}, {"a": 3.0}, **options)
    table = pa.table({"a": [1.0, 3.0]})
    core = sbn.Normalizer(**options).update(table).transform(pa.table({"a": [4.0]}))
    assert core["a"].to_pylist() == [pytest.approx(expected, rel=1e-15)]
    assert model.transform_one({"a": 4.0})["a"] == pytest.approx(expected, rel=1e-15)
    for frame in frames({"a": [4.0]}):
        assert column(model.transform_many(frame), "a") == [pytest.approx(expected, rel=1e-15)]


@pytest.mark.parametrize(
    ("eps", "x", "z"), [(0.0, 5.0, 0.0), (0.0, 8, 0.0), (0.0, -1e300, 0.0), (4.0, 9.0, 2.0)]
)
def test_constant_feature_is_divided_by_the_root_of_eps_or_becomes_zero(eps, x, z):
    model = learned({"a": 5.0}, {"a": 5.0}, eps=eps)
    assert model.transform_one({"a": x}) == {"a": z}
    for frame in frames({"a": [x]}):
        assert column(model.transform_many(frame), "a") == [z]


@pytest.mark.parametrize(("unseen", "expected"), [("zero", 0.0), ("passthrough", 7.0)])
def test_unseen_feature(unseen, expected):
    # Nulls and NaN are not learned, so features of nothing else are unseen.
    model = learned({"a": 1.0, "null": None, "nan": NAN}, {"a": 3.0}, unseen=unseen)
    for name in ("b", "null", "nan"):
        out = model.transform_one({"a": 3.0, name: 7})
        assert out == {"a": 1.0, name: expected}
        assert type(out[name]) is float
        for frame in frames({name: [7], "a": [3.0]}):
            assert column(model.transform_many(frame), name) == [expected]


def test_transform_before_learning():
    assert RiverNormalizer().transform_one({"a": 7.0, "s": "x"}) == {"a": 0.0, "s": "x"}
    for frame in frames({"a": [7.0]}):
        assert column(RiverNormalizer().transform_many(frame), "a") == [0.0]


@pytest.mark.parametrize(
    "policy", [sbn.Welford(), sbn.EMA(alpha=0.3), sbn.Exact(), sbn.BatchEMA(momentum=0.5)], ids=repr
)
@pytest.mark.parametrize(("unseen", "expected"), [("zero", 0.0), ("passthrough", 7.0)])
def test_feature_with_fewer_values_is_unseen(policy, unseen, expected):
    model = learned({"a": 1.0}, {"a": None}, policy=policy, unseen=unseen, min_count=2)
    for known in (False, True):
        z = model.transform_one({"a": 7.0})["a"]
        for frame in frames({"a": [7.0]}):
            assert column(model.transform_many(frame), "a") == [pytest.approx(z, rel=1e-15)]
        assert (z == expected) is not known
        model.learn_one({"a": 2.0})
    assert model.to_normalizer().options.min_count == 2
    assert RiverNormalizer.from_normalizer(model.to_normalizer()).min_count == 2


def test_feature_with_fewer_values_can_be_refused():
    model = learned({"a": 1.0}, unseen="raise", min_count=2)
    for refused in (
        lambda: model.transform_one({"a": 7.0}),
        *(lambda frame=frame: model.transform_many(frame) for frame in frames({"a": [7.0]})),
    ):
        with pytest.raises(sbn.NotFittedError, match="'a' has fewer values than min_count"):
            refused()
    with pytest.raises(sbn.NotFittedError, match="'b' has no statistics"):
        model.transform_one({"b": 7.0})
