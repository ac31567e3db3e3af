"""Defects of River's own scalers that RiverNormalizer does not have.

Each test asserts River's wrong value as well. When River mends a defect, its test fails and can
be deleted.
"""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from river import preprocessing, stats
from river_rows import DAY, INF, NAN, column, frames, learned, stats_of

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.errors import InvalidValueError, SchemaError
from streambn.testing import exact_moments


def river_after(*frames):
    """Return River's scaler after some frames, without its warnings."""
    scaler = preprocessing.StandardScaler()
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        for frame in frames:
            scaler.learn_many(frame)
    return scaler


def exact(values):
    mean, square = exact_moments(values)
    return float(mean), float(square / len(values))


@pytest.mark.parametrize("offset", [1e8, 1e9])
def test_variance_of_frames_at_an_offset(offset):
    x = offset + np.random.default_rng(42).normal(size=1000)
    frames = [pd.DataFrame({"x": part}) for part in np.array_split(x, 10)]
    mean, var = exact(x)
    assert abs(river_after(*frames).vars["x"] - var) > 0.3 * var
    ours = learned(*frames)
    assert stats_of(ours, "x")["mean"] == pytest.approx(mean, rel=1e-15, abs=0)
    assert stats_of(ours, "x")["var"] == pytest.approx(var, rel=1e-13, abs=0)
    ours.learn_one({"x": offset})
    assert stats_of(ours, "x")["var"] == pytest.approx(exact([*x, offset])[1], rel=1e-13, abs=0)


def test_variance_is_never_negative_and_rows_never_complex():
    wrong = []
    for seed in range(20):
        x = 1e9 + np.random.default_rng(seed).normal(size=1000)
        frame = pd.DataFrame({"x": x})
        scaler = river_after(frame)
        if scaler.vars["x"] < 0:
            wrong.append(scaler.transform_one({"x": x[0]})["x"])
        ours = learned(frame)
        mean, var = exact(x)
        assert stats_of(ours, "x")["var"] == pytest.approx(var, rel=1e-13, abs=0)
        out = ours.transform_one({"x": x[0]})["x"]
        assert type(out) is float
        # RiverNormalizer keeps more digits of the mean than the float `mean` has.
        assert out == pytest.approx((x[0] - mean) / math.sqrt(var), abs=2e-7)
    assert wrong
    assert all(isinstance(z, complex) for z in wrong)


@pytest.mark.parametrize("values", [[1.0, None, 3.0], [1.0, NAN, 3.0]], ids=["null", "NaN"])
@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=lambda m: m.__name__)
def test_missing_value_does_not_poison_the_statistics(make, values):
    parts = [make({"x": values}), make({"x": [5.0, 7.0]})]
    assert math.isnan(river_after(*parts).vars["x"])
    row = stats_of(learned(*parts), "x")
    assert (row["count"], row["mean"], row["var"]) == (4, 4.0, 5.0)
    assert row["nulls"] + row["nans"] == 1


@pytest.mark.parametrize("values", [[NAN, NAN], []], ids=["all missing", "empty"])
def test_frame_without_values_does_not_poison_the_statistics(values):
    parts = [pd.DataFrame({"x": np.array(v, float)}) for v in ([1.0, 3.0], values, [5.0, 7.0])]
    assert math.isnan(river_after(*parts).means["x"])
    row = stats_of(learned(*parts), "x")
    assert (row["count"], row["mean"], row["var"]) == (4, 4.0, 5.0)


def test_narrow_column_does_not_narrow_the_others():
    columns = {"small": np.array([1, 2], np.int8), "price": [70_000.0, 70_001.0]}
    with np.errstate(all="ignore"):
        theirs = river_after(pd.DataFrame(columns)).transform_many(pd.DataFrame(columns))
    assert theirs["price"].dtype == np.float16
    assert not np.isfinite(theirs["price"]).any()
    for frame in frames(columns):
        out = learned(frame).transform_many(frame)
        assert column(out, "small") == column(out, "price") == [-1.0, 1.0]
        if isinstance(out, pd.DataFrame):
            assert out.dtypes.tolist() == [np.float64, np.float64]


def test_constant_feature_has_one_rule_for_rows_and_frames():
    frame, other = pd.DataFrame({"x": [5.0, 5.0]}), pd.DataFrame({"x": [8.0]})
    theirs = river_after(frame)
    assert theirs.transform_one({"x": 8.0})["x"] == 0.0
    assert theirs.transform_many(other)["x"].item() == 3.0
    ours = learned(frame)
    assert ours.transform_one({"x": 8.0})["x"] == ours.transform_many(other)["x"].item() == 0.0


def test_unseen_feature_has_one_rule_and_leaves_no_trace():
    other = pd.DataFrame({"y": [8.0]})
    theirs = river_after(pd.DataFrame({"x": [1.0, 3.0]}))
    assert theirs.transform_one({"y": 8.0})["y"] == 0.0
    assert theirs.transform_many(other)["y"].item() == 8.0
    assert "y" in theirs.means  # transforming created it
    ours = learned(pd.DataFrame({"x": [1.0, 3.0]}))
    state = pickle.dumps(ours)
    assert ours.transform_one({"y": 8.0})["y"] == ours.transform_many(other)["y"].item() == 0.0
    assert pickle.dumps(ours) == state


def test_exponentially_weighted_variance_at_an_offset():
    x = 1e9 + np.random.default_rng(0).normal(size=1000)
    theirs = preprocessing.AdaptiveStandardScaler(fading_factor=0.1)
    ours = RiverNormalizer(sbn.EMA(alpha=0.1, adjust=False))
    lowest, zeros, expected = 0.0, 0, []
    near = pd.Series(x - 1e9).ewm(alpha=0.1, adjust=False)
    mean, var = near.mean(), near.var(bias=True)
    for i, value in enumerate(x):
        for scaler in (theirs, ours):
            scaler.learn_one({"x": value})
        lowest = min(lowest, theirs.vars["x"].get())
        zeros += theirs.transform_one({"x": value})["x"] == 0
        if i >= 10:
            expected.append((value - 1e9 - mean[i]) / math.sqrt(var[i]))
            assert ours.transform_one({"x": value})["x"] == pytest.approx(expected[-1], abs=1e-6)
    assert lowest < -100
    assert zeros > len(x) / 2  # without a warning, as if the feature were constant
    assert np.std(expected) > 0.5
    assert stats_of(ours, "x")["var"] == pytest.approx(var.iloc[-1], rel=1e-6, abs=0)


def test_adaptive_scaler_equals_recursive_ema_where_it_is_right():
    theirs = preprocessing.AdaptiveStandardScaler(fading_factor=0.3)
    ours = RiverNormalizer(sbn.EMA(alpha=0.3, adjust=False))
    for value in np.random.default_rng(1).normal(size=200):
        for scaler in (theirs, ours):
            scaler.learn_one({"x": value})
        z = theirs.transform_one({"x": value})["x"]
        assert ours.transform_one({"x": value})["x"] == pytest.approx(z, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("bad", [None, "two", [1.0]], ids=str)
def test_row_is_learned_whole_or_not_at_all(bad):
    theirs = preprocessing.StandardScaler()
    theirs.learn_one({"a": 1.0, "b": 1.0})
    with pytest.raises(TypeError):
        theirs.learn_one({"a": 2.0, "b": bad})
    assert theirs.means["a"] == 1.5  # half of the row was learned
    assert theirs.counts["b"] == 2
    ours = learned({"a": 1.0, "b": 1.0})
    if bad is None:  # a missing value is not an error
        ours.learn_one({"a": 2.0, "b": bad})
        assert (stats_of(ours, "a")["count"], stats_of(ours, "b")["count"]) == (2, 1)
        return
    state = pickle.dumps(ours)
    with pytest.raises(SchemaError, match="'b'"):
        ours.learn_one({"a": 2.0, "b": bad})
    assert pickle.dumps(ours) == state


def test_infinity_does_not_poison_the_statistics():
    theirs, ours = preprocessing.StandardScaler(), learned({"a": 1.0}, {"a": 3.0})
    for value in (1.0, 3.0, INF, 2.0):
        theirs.learn_one({"a": value})
    with pytest.raises(InvalidValueError, match="'a'"):
        ours.learn_one({"a": INF})
    ours.learn_one({"a": 2.0})
    assert math.isnan(theirs.means["a"])
    assert stats_of(ours, "a")["mean"] == 2.0


def test_shards_of_one_or_two_rows_merge():
    for empty in (stats.Mean, stats.Var):
        with pytest.raises(ZeroDivisionError):
            empty() + empty()
    shards = [RiverNormalizer(ddof=1) for _ in range(4)]
    for shard, values in zip(shards, ([1.0], [None, 2.0], [None], [6.0]), strict=True):
        for value in values:
            shard.learn_one({"x": value, "y": 1.0})
    shards[2].learn_one({"x": 3.0, "y": 1.0})
    merged = shards[0].to_normalizer()
    for shard in shards[1:]:
        merged = merged.merge(shard.to_normalizer())
    assert merged.stats().select(["column", "count", "nulls", "mean", "var"]).to_pylist() == [
        {"column": "x", "count": 4, "nulls": 2, "mean": 3.0, "var": pytest.approx(14 / 3)},
        {"column": "y", "count": 6, "nulls": 0, "mean": 1.0, "var": 0.0},
    ]


@pytest.mark.parametrize("make", [pl.DataFrame, pa.table], ids=lambda m: m.__name__)
def test_timestamps_are_not_numbers(make):
    frame = make({"t": [DAY, None]})
    assert river_after(frame).means["t"] < -1e18  # half of INT64_MIN
    ours = learned(frame, make({"t": [DAY, None], "x": [1.0, 3.0]}), {"t": DAY, "x": 5.0})
    assert ours.stats()["column"].to_pylist() == ["x"]
    assert ours.transform_one({"t": DAY, "x": 3.0}) == {"t": DAY, "x": 0.0}
    assert list(ours.transform_many(frame)["t"]) == list(frame["t"])


def test_timestamps_of_pandas_are_not_numbers():
    frame = pd.DataFrame({"t": pd.to_datetime(["2024-01-01", "2024-01-03"]), "x": [1.0, 3.0]})
    assert river_after(frame).means["t"] > 1e9
    ours = learned(frame)
    assert ours.stats()["column"].to_pylist() == ["x"]
    pd.testing.assert_series_equal(ours.transform_many(frame)["t"], frame["t"])
